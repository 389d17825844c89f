"""Strength as cost: every layer pays the same."""

from dataclasses import replace

import pytest
import torch

from steerlens.analyses.steerability.measure_steerability import steerability
from steerlens.data import ContrastSet
from steerlens.directions import Direction, DirectionError
from steerlens.directions.methods import DiffMean
from steerlens.interventions import Ablate, Add
from steerlens.interventions.scaled import scaled
from steerlens.measures.divergence import divergence
from steerlens.measures.equal_cost import TOLERANCE, CalibrationError, equal_kl
from steerlens.measures.reading import activations
from steerlens.models.model import Model
from steerlens.sites import Positions, Site
from steerlens.store.cells import Cells
from steerlens.testbed import reviews
from tests.strangers import low_rank

TEXTS = ["the cat sat on the bed and a dog ran", "I think he said that the soup was good ."]


@pytest.fixture(scope="module")
def world():
    model = Model.load("reviews")
    read = activations(model, reviews.contexts("sentiment", 60), progress=False)
    return model, tuple(read.directions(DiffMean())), reviews.neutral_texts(8)


def costs(model, found, lengths, texts, positions=None):
    positions = positions or Positions.from_prompt_end()
    edits = [Add(d, positions, length) for d, length in zip(found, lengths, strict=True)]
    return divergence(model, texts, edits, (0.0, 1.0), progress=False)[:, 1].mean(-1)


@pytest.mark.parametrize("kl", [0.01, 1.0])
def test_every_layer_of_the_reference_model_costs_what_was_asked(world, kl):
    model, found, texts = world
    cost = costs(model, found, equal_kl(model, found, texts, kl=kl, progress=False), texts)
    assert bool((cost <= kl).all())
    assert bool((cost >= kl * (1 - TOLERANCE)).all())


def test_every_family_costs_what_was_asked(tiny, random_direction):
    found = [random_direction(Site(layer, "resid_pre"), tiny.d_model, layer) for layer in (0, 1)]
    everywhere = Positions.all()
    lengths = equal_kl(tiny, found, TEXTS, kl=0.05, positions=everywhere, progress=False)
    cost = costs(tiny, found, lengths, TEXTS, everywhere)
    torch.testing.assert_close(cost, torch.full_like(cost, 0.05), rtol=TOLERANCE, atol=0)


def test_any_intervention_costs_what_was_asked(tiny, random_direction):
    """A direction's multiplier is a length; every other arm is scaled by its own."""
    d = random_direction(Site(1), tiny.d_model)
    arms = {
        "direction": d,
        "add": Add(d, unit="direction"),
        "ablate": Ablate(replace(d, site=Site(0)), Positions.all()),
        "weights": low_rank(tiny, 1),
    }
    found = equal_kl(tiny, arms, TEXTS, kl=0.01, progress=False)
    edits = [
        scaled(arm, m)
        for arm, m in zip([Add(d, unit=1.0), *list(arms.values())[1:]], found, strict=True)
    ]
    cost = divergence(tiny, TEXTS, edits, (0.0, 1.0), progress=False)[:, 1].mean(-1)
    torch.testing.assert_close(cost, torch.full_like(cost, 0.01), rtol=2 * TOLERANCE, atol=0)
    assert found[0] == pytest.approx(found[1] * d.norm, rel=0.01)


def test_looks_at_the_cost_are_kept(gpt2, random_direction, tmp_path, monkeypatch):
    arms = [random_direction(Site(0), gpt2.d_model), low_rank(gpt2, 1)]
    cells = Cells(tmp_path, "cost")
    found = equal_kl(gpt2, arms, TEXTS, kl=0.01, progress=False, cells=cells)

    def computed(*arguments):
        raise AssertionError("a finished unit was computed again")

    monkeypatch.setattr("steerlens.measures.engine.Engine._unit", computed)
    assert equal_kl(gpt2, arms, TEXTS, kl=0.01, progress=False, cells=cells) == found


def test_a_longer_vector_in_the_same_sense_gets_the_same_length(world):
    model, found, texts = world
    once = equal_kl(model, found[:1], texts, progress=False)
    twice = equal_kl(model, [found[0] * 2.0], texts, progress=False)
    assert once == pytest.approx(twice, rel=1e-3)


def test_a_length_as_unit_adds_that_length(random_direction):
    direction = random_direction(Site(0), 8)
    assert float(Add(direction, unit=3.5).step.norm()) == pytest.approx(3.5)
    assert Direction(direction.vector, Site(0)).resid_norm is None  # a length needs no norm
    Add(replace(direction, resid_norm=None), unit=1)
    with pytest.raises(DirectionError, match=r"-direction"):
        Add(direction, unit=-1.0)


def test_what_moves_nothing_cannot_be_calibrated(gpt2):
    """A constant vector is what LayerNorm takes away."""
    constant = Direction(torch.ones(gpt2.d_model), Site(0), resid_norm=1.0)
    with pytest.raises(CalibrationError, match="no length of it costs"):
        equal_kl(gpt2, [constant], TEXTS, progress=False)


def test_a_direction_without_a_norm_or_a_cost_below_zero_is_refused(gpt2, random_direction):
    direction = random_direction(Site(0), gpt2.d_model)
    with pytest.raises(CalibrationError, match="resid_norm"):
        equal_kl(gpt2, [replace(direction, resid_norm=None)], TEXTS, progress=False)
    with pytest.raises(CalibrationError, match="above 0"):
        equal_kl(gpt2, [direction], TEXTS, kl=0.0, progress=False)


def test_a_map_in_units_of_cost_is_sure_to_be_within_the_budget_at_one_at_every_layer(world):
    model, _, texts = world
    made = steerability(
        model, reviews.contexts("sentiment", 60), reviews.questions("sentiment", 12, seed=5),
        unit="equal_kl", multipliers=(0.0, 0.5, 1.0), neutral=[*texts, *reviews.neutral_texts(8, 1)],
        budget=0.2, nulls=19, progress=False,
    )  # fmt: skip
    assert bool(made.within_budget.all())
    high = made.cost_interval[2][:, 2]
    assert bool((high <= 0.2 + 1e-6).all() & (high >= 0.96 * 0.2 - 1e-6).all())
    assert bool((made.cost[:, 2] < high).all())
    assert made.made_by["unit"] == "equal_kl"
    assert len(made.made_by["lengths"]) == 8


WORDS = ("cat", "dog", "bed", "soup")


def test_default_strengths_are_within_the_budget_in_half_of_each_layers_cells(tiny):
    """On every family, whatever the scale of its stream, and with texts that it writes itself."""
    fit = ContrastSet.from_pairs(
        [
            (f"{a} {b} the", f" good {c}", f" not {c}")
            for a in WORDS
            for b in WORDS
            for c in WORDS[:2]
        ]
    )
    asked = ContrastSet.from_pairs(
        [
            (f"the {a} and {b} sat on the {c}", " good", " not")
            for a in WORDS
            for b in WORDS
            for c in WORDS[2:]
        ]
    )
    made = steerability(tiny, fit, asked, nulls=0, progress=False)
    assert made.made_by["unit"] == "equal_kl" and len(made.rows) == tiny.n_layers
    steered = torch.tensor([m != 0 for m in made.multipliers])
    assert bool((made.within_budget[:, steered].float().mean(-1) >= 0.5).all())
