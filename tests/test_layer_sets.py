"""Sets of layers: the best split and the live layers are found; held-out questions choose nothing."""

from itertools import combinations
from typing import Any

import pytest
import torch

from steerlens.analyses.prediction.find_cell import find_cell
from steerlens.analyses.prediction.layer_sets import best_sets, proposals
from steerlens.arguments import ArgumentError
from steerlens.data import ContrastPair, ContrastSet
from steerlens.experiment.experiment_data import load_data
from steerlens.interventions import Add
from steerlens.interventions.together import Together
from steerlens.measures import scores
from steerlens.measures.cost_gradients import cost_gradients
from steerlens.measures.direct_gain import direct_gain
from steerlens.measures.divergence import divergence
from steerlens.measures.equal_cost import lengths_within_budget, strengths_within_budget
from steerlens.measures.ordinary_texts import ordinary_texts
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.sites import Positions

QUIET: Any = {"progress": False}


@pytest.fixture(scope="module")
def model(planted):
    return Model(planted.model)


@pytest.fixture(scope="module")
def texts(planted_data):
    return [pair.prompt + pair.positive for pair in planted_data[1]]


@pytest.fixture(scope="module")
def world():
    """The reference model and a contrast of it, of which two layers together gain more than one."""
    return Model.load("reviews"), load_data("reviews/register", None, (24, 10, 10), 4, 0)


@pytest.fixture(scope="module")
def ordinary(world):
    return ordinary_texts(world[0], 16)


def searched(world, texts, **options: Any):
    model, data = world
    given: Any = {"report": data.report, "share": 0.25, "sets": 2, "nulls": 0, **QUIET, **options}
    return find_cell(model, data.fit, data.choose, multipliers=(0.0, 1.0), neutral=texts, **given)


@pytest.fixture(scope="module")
def found(world, ordinary):
    return searched(world, ordinary)


# To first order


def made_up(sites: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, sites, generator=generator) + 1.0
    k = x.T @ x
    scale = k.diagonal().rsqrt()
    return torch.rand(sites, generator=generator) + 0.5, k * scale[:, None] * scale


def test_the_best_split_is_that_of_a_search_over_all_splits():
    gains, costs = made_up()
    for one in best_sets(gains, costs, size=2, count=10):
        i, j = one.index
        angle = torch.linspace(0, torch.pi / 2, 20001, dtype=torch.float64)
        m = torch.stack([angle.cos(), angle.sin()])
        k = costs[[i, j]][:, [i, j]].double()
        reached = (m * gains[[i, j]].double()[:, None]).sum(0)
        reached = reached / torch.einsum("ia,ij,ja->a", m, k, m).sqrt()
        assert one.gain == pytest.approx(float(reached.max()), rel=2e-3)
        best = m[:, reached.argmax()]
        assert one.weights[0] / one.weights[1] == pytest.approx(float(best[0] / best[1]), rel=0.02)


@pytest.mark.parametrize("size", [2, 3])
def test_sets_come_in_the_order_of_a_search_over_all_of_them(size):
    gains, costs = made_up(6, seed=1)
    reached = {}
    for index in combinations(range(6), size):
        where = list(index)
        k, b = costs[where][:, where].double(), gains[where].double()
        m = torch.linalg.inv(k + 1e-3 * torch.eye(size)) @ b
        if float(m.min()) > 0.1 * float(m.max()):
            reached[index] = float((b * m).sum().sqrt())
    first = sorted(reached, key=reached.__getitem__, reverse=True)
    got = best_sets(gains, costs, size=size, count=4)
    assert [one.index for one in got] == first[:4] and len(reached) > 1
    for one in got:  # each costs the budget
        where, m = list(one.index), torch.tensor(one.weights).double()
        assert float(m @ costs[where][:, where].double() @ m) == pytest.approx(1.0, rel=3e-3)


def test_layers_that_do_the_same_make_no_set():
    gains = torch.tensor([1.0, 0.2])
    assert best_sets(gains, torch.ones(2, 2), size=2, count=1) == []
    assert best_sets(torch.ones(2), torch.eye(2), size=3, count=1) == []
    assert best_sets(torch.tensor([1.0, -1.0]), torch.eye(2), size=2, count=1) == []


def test_single_sites_come_first_and_in_their_own_order():
    gains, costs = torch.tensor([1.0, 3.0, 2.0]), torch.eye(3)
    rows = proposals(gains, torch.tensor([2.0, torch.nan, 3.0]), costs, count=2, largest=2)
    assert [one.index for one in rows] == [(0,), (2,), (1, 2), (0, 1)]
    assert rows[2].gain == pytest.approx(13**0.5, rel=1e-3)


# The cost


def test_the_cost_of_two_layers_is_that_of_small_steps(gpt2, random_direction):
    """The mean of squares of random gradients is the curvature of KL, of two layers together too."""
    words = ["the cat sat on the bed and a book", "I think he said that the good soup was good"]
    sites = gpt2.sites()[:2]
    directions = [random_direction(site, gpt2.d_model, i) for i, site in enumerate(sites)]
    vectors = torch.stack([d.unit().vector for d in directions])
    gradients = cost_gradients(gpt2, words, sites, draws=400)
    moved = torch.einsum("nsd,sd->ns", gradients, vectors)
    costs = moved.T @ moved / len(moved)
    adds = [Add(d, unit=1.0) for d in directions]
    step = 0.05
    for i, j in combinations(range(len(sites)), 2):
        pair = Together((adds[i], adds[j]))
        exact = divergence(gpt2, words, [adds[i], pair], (0.0, step), **QUIET)[:, 1].mean(-1)
        alone, both = (2 * exact / step**2).tolist()
        assert float(costs[i, i]) == pytest.approx(alone, rel=0.2)
        expected = float(costs[i, i] + costs[j, j] + 2 * costs[i, j])
        assert expected == pytest.approx(both, rel=0.2)


def test_a_strength_within_the_budget_is_that_of_lengths(gpt2, random_direction):
    words = [f"the cat sat on the {word} and a book" for word in ("bed", "city", "soup", "cat")]
    directions = [random_direction(site, gpt2.d_model) for site in gpt2.sites()[:2]]
    options: Any = {"budget": 0.05, **QUIET}
    lengths = lengths_within_budget(gpt2, directions, words, **options)
    arms = [Add(d, Positions.from_prompt_end(), 1.0) for d in directions]
    again = strengths_within_budget(gpt2, arms, words, units=[2.0, 2.0], **options)
    assert lengths == again
    near = lengths_within_budget(
        gpt2, directions, words, first=[1.1 * n for n in lengths], **options
    )
    assert near == pytest.approx(lengths, rel=0.05)
    pair = Together(tuple(Add(d, unit=n) for d, n in zip(directions, lengths, strict=True)))
    (half,) = strengths_within_budget(gpt2, [pair], words, **options)
    cost = divergence(gpt2, words, [pair], (0.0, half), **QUIET)[0, 1].mean()
    assert 0.95 * 0.05 <= float(cost) <= 0.05


# The search


def test_live_layers_are_found_and_dead_ones_add_nothing(model, planted, planted_data, texts):
    """Both live layers carry one direction, so that no pair of them is worth a row."""
    at = model.sites("resid_pre")
    one = find_cell(
        model, *planted_data, sites=at, share=1 / 3, sets=2, nulls=0, multipliers=(0.0, 1.0),
        neutral=texts, **QUIET,
    )  # fmt: skip
    alive = planted.live_layers("resid_pre")
    assert {site.layer for site in one.map.sites if site is not None} == set(alive)
    assert one.cell is not None and one.cell.site is not None and one.cell.site.layer in alive
    for each in one.sets:
        assert each.gain < 1.02 * float(one.predictions.values.max())


def test_every_row_is_within_the_budget(found):
    singles = [site for site in found.map.sites if site is not None]
    names = found.map.rows[len(singles) :]
    assert found.sets and len(names) == len(found.sets) and all(" + " in name for name in names)
    assert float(found.map.cost[:, 1].max()) < 0.1 < 2 * float(found.map.cost[:, 1].min())
    assert set(found.map.made_by["weights"]) == set(names) and found.map.lengths is None


def test_a_set_is_compared_with_a_single_layer_on_the_same_questions(found):
    compared = found.comparison
    assert compared is not None
    by_hand = (compared.together.gains - compared.single.gains).mean()
    assert compared.difference.value == pytest.approx(float(by_hand), abs=1e-6)
    assert compared.difference.low <= compared.difference.value <= compared.difference.high
    assert compared.single.cell.site is not None and compared.together.cell.site is None
    assert "sets of sites" in repr(found) and "difference" in repr(found)


def test_the_search_finds_what_a_map_of_all_layers_and_more_pairs_finds(world, ordinary, found):
    everything = searched(world, ordinary, share=1.0).map
    best = [float(one.oriented.mean(-1).max()) for one in (everything, found.map)]
    assert best[1] > 0.9 * best[0] > 0 and len(everything.rows) > len(found.map.rows)


def test_held_out_questions_choose_nothing(world, ordinary, found):
    _, data = world
    turned = tuple(ContrastPair(p.prompt, p.negative, p.positive) for p in data.report)
    again = searched(world, ordinary, report=ContrastSet("turned", turned))
    assert again.map.rows == found.map.rows and again.cell == found.cell
    assert torch.equal(again.map.propensities, found.map.propensities)
    assert again.comparison is not None
    assert again.comparison.together.cell == found.comparison.together.cell
    torch.testing.assert_close(
        again.comparison.single.gains, -found.comparison.single.gains, atol=1e-4, rtol=1e-4
    )


def test_null_maps_are_searched_as_the_real_one(world, ordinary):
    """The labels' null has as many rows, each at the sites that its own vectors put first."""
    one = searched(world, ordinary, nulls=19)
    for maps in (one.map.shuffled, one.map.random):
        assert maps is not None and maps.shape[1:] == (len(one.map.rows), 2)
    assert 0.05 <= one.map.p_value <= 1


def test_null_vectors_that_are_the_real_ones_find_the_same_rows(world, ordinary):
    """The search of a null map is that of the real map: fed the real vectors, it gives its rows."""
    from steerlens.analyses.prediction.first_order_look import first_order
    from steerlens.analyses.prediction.layer_search import LayerSearch
    from steerlens.measures.reading import activations

    model, data = world
    choose = data.choose
    read, rule = activations(model, data.fit, progress=False), Positions.from_prompt_end()
    known = first_order(model, choose, ordinary, read.sites, positions=rule, budget=0.1)
    search = LayerSearch(known, tuple(read.directions("DiffMean")), "slope at budget", 1, 2)
    rows = search.found
    again, opposite = search.of_maps(torch.stack([search.units * 0.1, -search.units]))
    assert [one.index for one in again] == [one.index for one in rows]
    assert opposite[0].index != rows[0].index  # what gained most now gains least
    step = 0.01
    edits = [Add(d, rule, 1.0) for d in search.directions]
    odds = scores.preference(sweep(model, choose, edits, (-step, step), **QUIET)).mean(-1)
    torch.testing.assert_close(
        known.slopes(search.units), (odds[:, 1] - odds[:, 0]) / (2 * step), atol=0.01, rtol=0.03
    )
    direct = direct_gain(model, choose, edits, (-step, step), **QUIET).mean(-1)
    torch.testing.assert_close(
        known.slopes(search.units, "direct at budget"),
        (direct[:, 1] - direct[:, 0]) / (2 * step), atol=0.01, rtol=0.03,
    )  # fmt: skip


# What cannot be asked


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sets": 0}, "sets"),
        ({"sets": 4}, "too many sites at once"),
        ({"sets": 2, "by": "cosine"}, "says nothing of several sites"),
        ({"sets": 2, "unit": "resid_norm"}, "no split of the budget"),
        ({"sets": 3, "layers": [0, 1]}, "more than the 2 sites"),
        ({"budget": 0.0}, "is no cost"),
        ({"by": "luck"}, "is not one of"),
        ({"share": 2.0}, "is not a part"),
    ],
)
def test_what_cannot_be_searched_is_refused(model, planted_data, texts, options, words):
    with pytest.raises(ArgumentError, match=words):
        find_cell(model, *planted_data, neutral=texts, **QUIET, **options)
