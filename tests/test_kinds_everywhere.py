"""Every kind of intervention goes through every analysis, beside a vector."""

import pytest
import torch

from steerlens.analyses.generalisation.measure_shift import shifted
from steerlens.analyses.side_effects.measure_spillover import spillover
from steerlens.analyses.steerability.measure_steerability import steerability
from steerlens.analyses.validity.measure_validity import decay
from steerlens.analyses.writing.measure_writing import writing
from steerlens.data import ContrastSet
from steerlens.forms import LoRA, PostBlock, SoftPrefix, VectorForm
from steerlens.interventions import Prompt, Together
from steerlens.interventions.scaled import scaled
from steerlens.measures.divergence import divergence
from steerlens.measures.dose_response import dose_response
from steerlens.measures.equal_cost import TOLERANCE, equal_kl
from steerlens.measures.generation import generate
from steerlens.models.model import Model
from steerlens.sites import Site
from tests.kinds import moved

MULTIPLIERS = (-1.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def model(planted):
    return Model(planted.model)


@pytest.fixture(scope="module")
def sets(planted_data):
    _, choose, report = planted_data
    return tuple(ContrastSet(one.name, one.pairs[:16]) for one in (choose, report))


@pytest.fixture(scope="module")
def arms(model, sets):
    forms = {
        "vector": VectorForm(Site(2)),
        "adapters": PostBlock(rank=2),
        "LoRA": LoRA(rank=2, layers=(2, 3)),
        "prefix": SoftPrefix(length=2),
    }
    found = {n: form.intervention(model, moved(form, model)) for n, form in forms.items()}
    found["prompt"] = Prompt(sets[1].pairs[0].prompt)
    found["both"] = Together((found["vector"], found["LoRA"]), (1.0, 0.5))
    return found


def test_all_kinds_are_rows_of_a_map(model, arms, sets):
    made = steerability(
        model, arms, *sets, multipliers=MULTIPLIERS, nulls=0, budget=100.0, progress=False
    )
    assert made.rows == tuple(arms)
    assert made.sites[0] == Site(2) and made.sites[1:] == (None,) * 5
    assert bool(torch.isfinite(made.gains).all())
    moves = made.gains[:, -1].abs().amax(-1)
    assert bool((moves > 1e-6).all()), moves
    assert made.recommend().cell.row in arms
    assert made.recommend().cell.row in made.summary()


def test_all_kinds_write(model, arms, sets):
    prompts = [pair.prompt for pair in sets[0].pairs[:2]]
    made = writing(model, arms, prompts, MULTIPLIERS, max_new_tokens=3, temperature=0.0,
                   progress=False)  # fmt: skip
    assert made.rows == tuple(arms)
    for name in ("LoRA", "prompt", "both"):
        texts = dose_response(model, arms[name], prompts, MULTIPLIERS, max_new_tokens=3)
        with arms[name].attach(model, 1.0):
            written = generate(model, prompts, max_new_tokens=3)
        assert [row[2] for row in texts.texts] == written


def test_all_kinds_are_asked_for_side_effects_and_shifts(model, arms, sets):
    choose, report = sets
    options = {"progress": False}
    side = spillover(model, arms, {"a": choose, "b": report}, MULTIPLIERS, target="a", nulls=0,
                     **options)  # fmt: skip
    moved_there = shifted(model, arms, choose, {"b": report}, MULTIPLIERS, **options)
    assert side.rows == moved_there.rows == tuple(arms)


def test_weights_and_prompts_decay(model, arms, sets):
    strengths = (-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0)
    for name in ("LoRA", "prompt"):
        fit = decay(model, arms[name], sets[0], strengths, row=name, progress=False)
        assert fit.summary()


def test_kinds_are_compared_at_equal_cost(model, arms, sets):
    texts = [pair.prompt + pair.positive for pair in sets[0].pairs[:6]]
    some = {name: arms[name] for name in ("vector", "LoRA", "adapters", "prompt")}
    found = equal_kl(model, some, texts, kl=1e-3, progress=False)
    edits = [scaled(arm, m) for arm, m in zip(some.values(), found, strict=True)]
    cost = divergence(model, texts, edits, (0.0, 1.0), progress=False)[:, 1].mean(-1)
    torch.testing.assert_close(cost, torch.full_like(cost, 1e-3), rtol=2 * TOLERANCE, atol=0)
