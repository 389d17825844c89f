"""Subsets are what they are attached together, interactions add up, and losses are said."""

from __future__ import annotations

import pytest
import torch

from steerlens.analyses.stacking.measure_stacking import stacking, within_budget
from steerlens.analyses.stacking.stack_map import StackMap
from steerlens.arguments import ArgumentError
from steerlens.directions import Direction
from steerlens.interventions import Add, Together
from steerlens.measures.divergence import divergence
from steerlens.measures.equal_cost import TOLERANCE
from steerlens.models.model import Model
from steerlens.sites import Site
from tests.strangers import LouderHeads, low_rank


@pytest.fixture(scope="module")
def model(planted):
    return Model(planted.model)


@pytest.fixture(scope="module")
def arms(planted, model):
    d = Direction(planted.direction, Site(2), resid_norm=1.0)
    across = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    other = Direction(across, Site(1), resid_norm=1.0)
    return {
        "right": Add(d, unit=1.0),
        "wrong": Add(-d, unit=0.5),
        "weights": low_rank(model, 2, share=0.05),
        "random": Add(other, unit=0.5),
    }


@pytest.fixture(scope="module")
def found(model, arms, planted_data):
    choose = planted_data[1]
    texts = [p.prompt + p.positive for p in choose][:10]
    some = {name: arms[name] for name in ("right", "wrong", "weights")}
    return stacking(
        model, some, list(choose)[:12], texts, others={"other": list(planted_data[2])[:9]},
        prompts=[p.prompt for p in choose][:8], judge=lambda p, c: [float(len(t)) for t in c],
        max_new_tokens=2, progress=False,
    )  # fmt: skip


def test_a_subset_is_its_interventions_attached_together(found, model, arms, planted_data):
    pairs = list(planted_data[1])[:12]
    assert found.quantities == ("gain", "other", "KL", "writing")
    assert len(found.subsets) == 7 and found.subsets[-1] == (0, 1, 2)
    ids = [[model.ids(word)[-1] for word in (" yes", " no")] for _ in pairs]
    prompts = [pair.prompt for pair in pairs]

    def odds():
        last = model.logits(prompts)[:, -1]
        yes, no = (torch.tensor([row[k] for row in ids])[:, None] for k in (0, 1))
        found = (last.gather(-1, yes) - last.gather(-1, no))[:, 0]
        sign = torch.tensor([1.0 if p.positive.strip() == "yes" else -1.0 for p in pairs])
        return sign * found

    before = odds()
    with arms["right"].attach(model, 1.0), arms["weights"].attach(model, 1.0):
        joint = odds() - before
    row = found.values["gain"][found.subsets.index((0, 2))]
    torch.testing.assert_close(row, joint, atol=2e-4, rtol=1e-4)


def test_interactions_and_shapley_values_are_their_formulas(found):
    gain = found.values["gain"].mean(-1)
    at = {subset: float(gain[k]) for k, subset in enumerate(found.subsets)}
    more = found.interaction("gain", "right", "wrong")
    assert more.value == pytest.approx(at[0, 1] - at[0,] - at[1,], abs=1e-5)
    assert abs(more.value) < 0.05 * abs(
        found.effect("gain", "right").value
    )  # linear where it reads
    whole = found.interaction("gain")
    assert whole.value == pytest.approx(at[0, 1, 2] - at[0,] - at[1,] - at[2,], abs=1e-5)
    shares = found.shapley("gain")
    assert sum(shares.values()) == pytest.approx(at[0, 1, 2], abs=1e-5)
    third = (2 * at[0,] + at[0, 1] - at[1,] + at[0, 2] - at[2,] + 2 * (at[0, 1, 2] - at[1, 2])) / 6
    assert shares["right"] == pytest.approx(third, abs=1e-5)
    values, low, high = found.matrix("gain")
    assert float(values[0, 0]) == pytest.approx(at[0,], abs=1e-5)
    assert bool((low <= high)[~low.isnan()].all()) and torch.equal(values[0, 1], values[1, 0])
    kl = found.interaction("KL", "right", "wrong").value
    assert kl < 0, "opposite vectors cost less together than apart"


def test_a_stack_that_loses_what_a_part_has_says_so(found, tmp_path):
    assert "right" in found.loses() and "Warning: the stack loses" in found.summary()
    order = found.removal_order()
    assert order[0] == "wrong" and order[-1] == "right"
    again = StackMap.load(found.save(tmp_path))
    assert again.subsets == found.subsets and again.summary() == found.summary()
    table = found.to_frame()
    assert list(table["subset"])[-1] == "right + wrong + weights"
    assert len(found.plot("KL").data) >= 1


def test_a_stack_costs_its_budget(gpt2, random_direction):
    texts = ["the cat sat on the bed and the dog", "I think the soup was very good today"]
    some = {"vector": Add(random_direction(Site(1), 32)), "weights": low_rank(gpt2, 1)}
    shares = {"vector": 3.0, "weights": 1.0}
    stack = within_budget(gpt2, some, texts, kl=0.01, shares=shares, progress=False)
    assert isinstance(stack, Together)
    cost = divergence(gpt2, texts, [stack], (0.0, 1.0), progress=False)[0, 1].mean()
    assert float(cost) == pytest.approx(0.01, rel=2 * TOLERANCE)


def test_what_cannot_be_stacked_is_refused(model, arms, planted_data):
    pairs, texts = list(planted_data[1])[:8], ["the soup was good here"]
    for make, text in (
        (lambda: stacking(model, {"a": arms["right"]}, pairs, texts), "There are 1 interventions"),
        (lambda: stacking(model, dict.fromkeys("abcdef", LouderHeads(1)), pairs, texts), "of 2 to 5"),
        (lambda: stacking(model, arms, pairs, texts, prompts=["the"]), "Give both, or neither"),
        (lambda: stacking(model, arms, pairs, texts, others={"KL": pairs}), "Rename it"),
        (lambda: within_budget(model, arms, texts, shares={"right": 1.0}), "a number above 0"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=text):
            make()
