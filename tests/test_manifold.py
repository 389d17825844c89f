"""Distance from a stream's own distribution: the closed form on planted Gaussians, and its use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from steerlens import plots
from steerlens.analyses.manifold.measure_distance import stream_distance
from steerlens.analyses.manifold.stream_distance import StreamDistance
from steerlens.analyses.manifold.stream_shape import StreamShape
from steerlens.arguments import ArgumentError
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.interventions import Add
from steerlens.measures.divergence import divergence
from steerlens.measures.ordinary_texts import text_halves
from steerlens.measures.tokenised import halved
from steerlens.models.model import Model
from steerlens.sites import Positions, Site
from steerlens.stats import jackknife_interval
from steerlens.testing.tiny_models import tiny_model

WORDS = [
    "the", "cat", "sat", "in", "a", "big", "city", "and", "we", "like", "tea", "wine", "they", "came",
    "to", "town", "now",
]  # fmt: skip
SITES = (Site(0), Site(1))


@pytest.fixture(scope="module")
def model():
    return Model(tiny_model("llama"))


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(WORDS), (24, 12), generator=generator)
    return [" ".join(WORDS[i] for i in row) for row in rows.tolist()]


@pytest.fixture(scope="module")
def directions(model):
    generator = torch.Generator().manual_seed(1)
    return {
        name: [
            Direction(torch.randn(model.d_model, generator=generator), site, resid_norm=4.0)
            for site in SITES
        ]
        for name in ("one", "two")
    }


@pytest.fixture(scope="module")
def found(model, directions, texts):
    return stream_distance(model, directions, texts, lengths=(0.25, 0.5), randoms=5, progress=False)


def gaussian(n: int = 4000):
    """States of a known mean and covariance."""
    generator = torch.Generator().manual_seed(2)
    scale = torch.tensor([4.0, 2.0, 1.0, 0.5])
    return 3.0 + torch.randn(n, 4, generator=generator) * scale, scale


def test_the_shape_is_that_of_a_planted_gaussian():
    states, scale = gaussian()
    shape = StreamShape.of(states)
    assert shape.shrinkage < 0.02
    torch.testing.assert_close(shape.covariance.diagonal().sqrt(), scale.double(), rtol=0.1, atol=0)
    # Of its own states the mean is the dimension: whitening.
    assert float(shape.squared_distance(states).mean()) == pytest.approx(4, rel=0.05)
    for number, axis in ((1, 0), (2, 1), (-1, 3), (-2, 2)):
        assert abs(float(shape.component(number)[axis])) > 0.98


def test_the_change_is_the_mean_over_states_and_the_closed_form():
    states, scale = gaussian()
    shape, others = StreamShape.of(states[:2000]), states[2000:]
    step = torch.tensor([1.0, -2.0, 0.5, 1.0])
    naive = (shape.squared_distance(others + step) - shape.squared_distance(others)).mean()
    assert shape.change(others, step) == pytest.approx(float(naive), rel=1e-6)
    # Without estimation it is step' S^-1 step.
    assert shape.change(others, step) == pytest.approx(
        float((step / scale).square().sum()), rel=0.2
    )


def test_the_shrunken_covariance_is_ledoit_and_wolfs():
    """Against their formulas, term by term."""
    states = gaussian(40)[0].double()
    shape = StreamShape.of(states)
    off = (states - states.mean(0)).numpy()
    sample = off.T @ off / len(off)
    target = np.trace(sample) / 4 * np.eye(4)
    d2 = ((sample - target) ** 2).sum()
    b2 = sum(((np.outer(x, x) - sample) ** 2).sum() for x in off) / len(off) ** 2
    part = min(b2, d2) / d2
    assert shape.shrinkage == pytest.approx(part, rel=1e-9)
    np.testing.assert_allclose(shape.covariance, (1 - part) * sample + part * target, rtol=1e-9)


def test_distances_are_those_of_steered_states_and_costs_those_of_divergence(
    model, directions, texts, found
):
    fit, report = text_halves(texts)
    site = SITES[1]

    def states(rows, chosen=None):
        batch = halved(model, rows)
        mask = batch.mask & ~batch.special & (batch.mask.cumsum(-1) > 1)
        if chosen is not None:
            mask = mask & chosen.mask(batch)
        return model.cache(batch, [site])[site][mask]

    shape = StreamShape.of(states(fit))
    where = Positions.from_prompt_end()
    edit = Add(directions["two"][1], where, 4.0)
    before = states(report, where)
    with edit.attach(model, 0.5):
        after = states(report, where)
    naive = (shape.squared_distance(after) - shape.squared_distance(before)).mean()
    assert float(found.distance[1, 1, 1]) == pytest.approx(float(naive), rel=1e-3)
    cost = divergence(model, report, [edit], (0.0, 0.5), progress=False)[0, 1]
    torch.testing.assert_close(found.cost[1, 1, 1], cost, rtol=1e-4, atol=1e-7)


def test_components_of_more_variance_are_nearer(found):
    own = {name: found.distance[i, :, 0] for i, name in enumerate(found.directions)}
    assert bool((own["component 1"] < own["component -1"]).all())


def test_correlations_are_of_the_cells_they_say(found):
    planted = replace(found, cost=found.distance[..., None].abs() + 1.0)
    sure = bool((found.distance > 0).all())
    assert sure and planted.within_length(0).value == pytest.approx(1.0)
    assert planted.within_layer().value == pytest.approx(1.0)
    over = {by: planted.over_all(by) for by in ("distance", "norm", "difference")}
    assert over["distance"].value == pytest.approx(1.0)
    gap = over["distance"].value - over["norm"].value
    assert over["difference"].value == pytest.approx(gap) and over["difference"].known
    assert not planted.within_length(0, kind="contrast").known  # two contrasts


def test_a_result_is_stored_and_drawn(found, tmp_path):
    again = StreamDistance.load(found.save(tmp_path))
    assert again.to_frame().equals(found.to_frame()) and again.summary() == found.summary()
    assert len(again.to_frame()) == (2 + 5 + 4) * 2 * 2
    assert "within a layer" in found.summary() and len(found.section({}).blocks) == 3
    assert "<div" in plots.to_html_div(found.plot(), first=False)


def test_utility_is_lost_on_the_questions(model, directions, texts):
    asked = ContrastSet(
        "asked", tuple(ContrastPair(f"the {w}", " cat", " tea") for w in WORDS[1:9])
    )
    made = stream_distance(
        model, {"one": directions["one"]}, texts, asked, lengths=(0.5,), randoms=0, components=(),
        cost_texts=4, concepts={"one": "first"}, progress=False,
    )  # fmt: skip
    assert made.outcomes == ("KL", "loss of utility") and made.lost.shape == (1, 2, 1, 8)
    assert made.cost.shape[-1] == 4 and made.concepts == ("first",)


def test_what_cannot_be_measured_is_refused(model, directions, texts):
    bare = {"one": [Direction(d.vector, d.site) for d in directions["one"]]}
    other = {**directions, "two": directions["two"][:1]}
    for given, options, message in (
        ({}, {}, "no directions"),
        (bare, {}, "resid_norm"),
        (other, {}, "same sites"),
        (directions, {"lengths": (0.0, 1.0)}, "length of 0"),
        (directions, {"components": (0,)}, "component 0"),
        (directions, {"concepts": {"three": "x"}}, "no contrasts"),
    ):
        with pytest.raises(ArgumentError, match=message):
            stream_distance(model, given, texts, progress=False, **options)
    with pytest.raises(ArgumentError, match="at least 16"):
        StreamShape.of(torch.randn(8, 4))
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.measured_dots({"a": ([-1.0], [1.0], ["dot"])}, title="t", x="x", y="y")


def test_the_jackknife_is_that_of_a_mean():
    values = torch.tensor([1.0, 4.0, 2.0, 8.0, 5.0, 7.0, 3.0, 6.0], dtype=torch.float64)
    made = jackknife_interval(lambda rows: float(values[rows].mean()), torch.arange(8))
    error = float(values.std() / 8**0.5)
    assert made.high - made.value == pytest.approx(2.364624 * error, rel=1e-6)
    few = jackknife_interval(lambda rows: 1.0, torch.arange(8), torch.arange(8) // 2)
    assert few.value == 1.0 and not few.known
