"""The trial of a search: its gains are those of a sweep, it decides, and null maps have one too."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from steerlens.analyses.prediction.budget_trial import TEXTS, budget_trial, first_sites
from steerlens.analyses.prediction.find_cell import find_cell
from steerlens.analyses.prediction.first_order_look import first_order
from steerlens.analyses.prediction.layer_search import LayerSearch
from steerlens.analyses.prediction.searched_family import searched_family
from steerlens.arguments import ArgumentError
from steerlens.directions.methods import DiffMean
from steerlens.experiment.experiment_data import load_data
from steerlens.interventions.residual import Add
from steerlens.measures import scores
from steerlens.measures.divergence import divergence
from steerlens.measures.engine import Engine
from steerlens.measures.equal_cost import LengthsWithinBudget, lengths_within_budget
from steerlens.measures.ordinary_texts import ordinary_texts
from steerlens.measures.reading import activations
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.sites import Positions
from steerlens.store.cells import Cells, cells_or_none
from steerlens.store.files import DamagedFile

RULE = Positions.from_prompt_end()
QUIET: Any = {"progress": False}
TRIED = 3
NOWHERE = cells_or_none(None, "", False)


@pytest.fixture(scope="module")
def world():
    """The reference model, questions of a contrast of it, and ordinary texts."""
    model = Model.load("reviews")
    data = load_data("reviews/sentiment", None, (24, 10, 10), 4, 0)
    return model, data, ordinary_texts(model, 16)


@pytest.fixture(scope="module")
def search(world):
    """A search of all layers, which tries three."""
    model, data, texts = world
    read = activations(model, data.fit, **QUIET)
    known = first_order(model, data.choose, texts, read.sites, positions=RULE, budget=0.1)
    order = LayerSearch(known, tuple(read.directions("DiffMean")), "slope at budget", 1, 1)
    within = LengthsWithinBudget(model, order.directions, texts, positions=RULE, **QUIET)
    trial = budget_trial(
        model, data.choose, order.directions, RULE, order.scores(order.units), order.lengths,
        texts, within, count=TRIED, cells=NOWHERE,
    )  # fmt: skip
    return replace(order, trial=trial)


def found(world, **options: Any):
    model, data, texts = world
    given: Any = {"nulls": 0, "multipliers": (0.0, 1.0), "neutral": texts, **QUIET, **options}
    return find_cell(model, data.fit, data.choose, data.report, **given)


def test_the_first_sites_are_in_the_order_of_the_model():
    order = torch.tensor([[0.1, torch.nan, 3.0, 2.0], [torch.nan, 1.0, -1.0, 0.0]])
    assert first_sites(order, 2).tolist() == [[2, 3], [1, 3]]


def test_gains_are_those_of_the_vectors_at_these_lengths(world, search):
    model, data, _ = world
    trial = search.trial
    order = search.scores(search.units)
    first = order.argsort(descending=True)[:TRIED].tolist()
    assert [not bool(one.isnan()) for one in search.tried] == [
        i in first for i in range(len(order))
    ]
    for i in first:
        edit = Add(search.directions[i], RULE, float(trial.lengths[i]))
        odds = scores.preference(sweep(model, data.choose, [edit], (0.0, 1.0), **QUIET))[0]
        expected = float((odds[1] - odds[0]).mean())
        assert float(search.tried[i]) == pytest.approx(expected, abs=1e-4) and expected != 0


def test_lengths_cost_the_same_and_that_of_the_first_site_is_within_the_budget(world, search):
    model, _, texts = world
    order, trial = search.scores(search.units), search.trial
    lead, *_ = first = order.argsort(descending=True)[:TRIED].tolist()
    edits = [Add(search.directions[i], RULE, float(trial.lengths[i])) for i in first]
    costs = divergence(model, texts[:TEXTS], edits, (0.0, 1.0), **QUIET)[:, 1].mean(-1)
    assert float(costs.max()) <= 1.2 * float(costs.min())
    (exact,) = lengths_within_budget(model, [search.directions[lead]], texts, **QUIET)
    assert float(trial.lengths[lead]) == pytest.approx(exact, rel=0.1)
    change = (trial.lengths / search.lengths)[first].median()
    others = [i for i in range(len(order)) if i not in first]
    torch.testing.assert_close(trial.lengths[others], search.lengths[others] * change)


def test_maps_are_tried_together_as_one_by_one(search):
    turned = torch.stack([search.units, -search.units, search.units.roll(1, 0) * 0.3])
    order = torch.stack([search.scores(units) for units in turned])
    together = search.trial.gains(turned, order, "again")
    for k in range(len(turned)):
        alone = search.trial.gains(turned[k : k + 1], order[k : k + 1], "again")[0]
        torch.testing.assert_close(together[k], alone, equal_nan=True, atol=1e-4, rtol=1e-4)
    assert (together.isnan().sum(1) == len(search.units) - TRIED).all()
    assert [one.index for one in search.of_maps(turned)[0]] == [one.index for one in search.found]


def test_the_trial_decides(world):
    """The layer that is mapped has the largest gain of the trial, whatever the predictor says."""
    one = found(world, share=1 / 8, by="slope", tried=1.0)
    names, order = list(one.tried), one.predictions.value("slope")
    best = max(one.tried, key=one.tried.__getitem__)
    assert len(names) == 8 and [str(site) for site in one.map.sites] == [best]
    assert names.index(best) != int(order.argmax())  # to first order another layer comes first
    without = found(world, share=1 / 8, by="slope", tried=0)
    assert [str(site) for site in without.map.sites] == [names[int(order.argmax())]]
    assert without.tried == {} and "a trial" not in repr(without)
    assert float(one.map.oriented.mean(-1).max()) > float(without.map.oriented.mean(-1).max())


def test_what_was_tried_is_said(world):
    one = found(world)
    assert len(one.tried) == TRIED and "a trial of the 3 that come first" in repr(one)
    assert one.map.made_by["shortlist"] == {
        "share": 0.1, "by": "slope at budget", "tried": 3, "sets": 1,
    }  # fmt: skip
    assert found(world, by="mediated at budget").tried == {}


def test_null_maps_have_their_own_trial(world, search):
    """Each null map has the layers that its own trial puts first, whatever the real one has."""
    model, data, texts = world
    read = activations(model, data.fit, **QUIET)
    within = LengthsWithinBudget(model, search.directions, texts, positions=RULE, **QUIET)
    family = searched_family(
        model, read, DiffMean(), RULE, "equal_kl", within, texts, replace(search, count=2), NOWHERE
    )
    maps = [family.shuffled(seed) for seed in range(6)]
    rows = family.rows_of(maps, "null")
    own = set()
    for edits, row in zip(maps, rows, strict=True):
        units = torch.stack([e.step for e in edits]) / torch.tensor(family.lengths)[:, None]
        gains = search.trial.gains(units[None], search.scores(units)[None], "again")[0]
        best = sorted(gains.nan_to_num(-torch.inf).argsort(descending=True)[:2].tolist())
        assert [edit.site.layer for edit in row] == best
        for edit, layer in zip(row, best, strict=True):
            assert torch.equal(edit.step, edits[layer].step)
        own.add(tuple(best))
    assert len(own) > 1  # null maps do not all have the same layers


def test_null_maps_of_a_search_in_norms(world):
    one = found(world, share=0.25, unit="resid_norm", nulls=19, multipliers=(-0.1, 0.0, 0.1))
    assert one.map.shuffled is not None and one.map.shuffled.shape[1:] == (2, 3)
    assert len(one.tried) == TRIED and len(one.map.rows) == 2


def test_layers_that_do_nothing_are_tried_at_no_endless_length(planted, planted_data):
    """A vector that costs nothing has the greatest length of a search for a cost, as in a map."""
    model, (fit, choose, report) = Model(planted.model), planted_data
    one = find_cell(
        model, fit, choose, report, sites=model.sites("resid_pre"), share=0.2, tried=1.0, nulls=19,
        multipliers=(0.0, 1.0), neutral=[pair.prompt + pair.positive for pair in choose], **QUIET,
    )  # fmt: skip
    alive = planted.live_layers("resid_pre")
    assert one.cell is not None and one.cell.site is not None and one.cell.site.layer in alive
    best = max(one.tried, key=one.tried.__getitem__)
    assert best == str(one.cell.site) and all(abs(gain) < 1e3 for gain in one.tried.values())
    assert one.map.p_value <= 0.05


def test_a_search_goes_on_and_refuses_the_units_of_another(world, tmp_path, monkeypatch):
    kept = Cells(tmp_path, "search", progress=False)
    asked: list[object] = []
    measured = Engine._unit
    monkeypatch.setattr(
        Engine, "_unit", lambda self, *args: asked.append(args) or measured(self, *args)
    )
    first = found(world, nulls=19, cells=kept)
    assert asked
    asked.clear()
    again = found(world, nulls=19, cells=kept)
    assert not asked  # trials of null maps are found again too
    assert again.tried == first.tried and again.cell == first.cell
    assert torch.equal(again.map.propensities, first.map.propensities)
    assert first.map.shuffled is not None and again.map.shuffled is not None
    assert torch.equal(again.map.shuffled, first.map.shuffled)
    with pytest.raises(DamagedFile, match="search"):
        found(world, nulls=19, tried=1.0, cells=kept)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tried": 1.5}, "is not a part"),
        ({"tried": -0.1}, "is not a part"),
        ({"tried": 0.1, "share": 0.5}, "a trial has nothing to choose"),
        ({"tried": 1.0, "share": 1.0}, "8 of 8 sites, and 8 are mapped"),
        ({"tried": 0.5, "by": "cosine"}, "does not predict the gain"),
        ({"tried": 0.5, "by": "direct at budget"}, "does not predict the gain"),
    ],
)
def test_what_cannot_be_tried_is_refused(world, options, words):
    with pytest.raises(ArgumentError, match=words):
        found(world, **options)
