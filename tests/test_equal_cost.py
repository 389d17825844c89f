"""Lengths of equal cost for many directions, against the exact calibration and the sweep."""

import math

import pytest
import torch

from steerlens.data import ContrastPair
from steerlens.directions import Direction
from steerlens.interventions.residual import Add
from steerlens.measures import scores
from steerlens.measures.divergence import divergence
from steerlens.measures.equal_cost import (
    CalibrationError,
    equal_kl,
    lengths_of_equal_kl,
    lengths_of_equal_utility,
)
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.sites import Site
from tests.handmade import random_rows

TEXTS = ["the cat sat on the bed", "I like that good red wine", "you really think the dog ran"]
LIVE, DEAD = Site(2, "resid_pre"), Site(4, "resid_pre")


@pytest.fixture(scope="module")
def model(planted):
    return Model(planted.model)


def test_lengths_of_equal_kl_are_those_of_the_calibration(gpt2):
    directions = [
        Direction(row, Site(layer), resid_norm=6.0)
        for layer, row in enumerate(random_rows(3, gpt2.d_model))
    ]
    found = lengths_of_equal_kl(gpt2, directions, TEXTS, kl=0.05, progress=False)
    exact = equal_kl(gpt2, directions, TEXTS, kl=0.05, progress=False)
    torch.testing.assert_close(found, torch.tensor(exact), rtol=0.03, atol=0)
    edits = [Add(d, unit=float(n)) for d, n in zip(directions, found, strict=True)]
    cost = divergence(gpt2, TEXTS, edits, (0.0, 1.0), progress=False)[:, 1].mean(-1)
    torch.testing.assert_close(cost, torch.full((3,), 0.05), rtol=0.021, atol=0)


def test_a_direction_that_cannot_cost_that_much_has_no_length(model, planted, planted_data):
    """After the reading block nothing reads the direction: adding it costs nothing."""
    texts = [pair.prompt + pair.positive for pair in planted_data[1]][:4]
    dead = Direction(planted.direction, DEAD, resid_norm=4.0)
    alive = Direction(planted.direction, LIVE, resid_norm=4.0)
    found = lengths_of_equal_kl(model, [dead, alive, -alive], texts, progress=False)
    assert found.isfinite().tolist() == [False, True, True]


def test_lengths_of_equal_utility_lose_what_was_asked(gpt2):
    pairs = [
        ContrastPair("the cat sat on the", " bed", " wine"),
        ContrastPair("I", " like", " ran"),
    ]
    rows = random_rows(8, gpt2.d_model, seed=2)
    directions = [Direction(row, Site(1), resid_norm=6.0) for row in (*rows, *-rows)]
    found = lengths_of_equal_utility(gpt2, directions, pairs, drop=0.2, steps=17, progress=False)
    assert 0 < int(found.isfinite().sum()) < 16, "some lose it and some never do"
    for direction, length in zip(directions, found.tolist(), strict=True):
        if math.isnan(length):
            continue
        swept = sweep(gpt2, pairs, [Add(direction, unit=length)], (0.0, 1.0), progress=False)
        utility = scores.utility(swept).value[0].mean(-1)
        assert float(utility[0] - utility[1]) == pytest.approx(0.2, abs=0.06)


def test_a_length_needs_a_cost_and_a_scale(gpt2):
    bare = Direction(random_rows(1, gpt2.d_model)[0], Site(1))
    with pytest.raises(CalibrationError, match="is not a cost"):
        lengths_of_equal_kl(gpt2, [bare], TEXTS, kl=0.0)
    with pytest.raises(CalibrationError, match="resid_norm"):
        lengths_of_equal_kl(gpt2, [bare], TEXTS)
    with pytest.raises(CalibrationError, match="not a loss of utility"):
        lengths_of_equal_utility(gpt2, [bare], [], drop=-1.0)
