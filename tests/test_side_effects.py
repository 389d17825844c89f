"""Gains on other concepts are those that are planted."""

from dataclasses import replace

import plotly.io
import pytest
import torch

from steerlens import plots
from steerlens.analyses.side_effects.measure_spillover import spillover
from steerlens.analyses.side_effects.null_maps import null_maps
from steerlens.analyses.side_effects.spillover_map import SpilloverMap
from steerlens.data import ContrastSet
from steerlens.directions import Direction
from steerlens.interventions import Ablate, Add, Clamp, Together
from steerlens.models.model import Model
from steerlens.report.section import Figure, Paragraph
from steerlens.results import ResultError
from steerlens.sites import Site
from steerlens.store.cells import Cells
from tests.planted_sets import FEW, Chosen, planted_sets, table
from tests.strangers import low_rank


@pytest.fixture(scope="module")
def model(planted):
    return Model(planted.model)


@pytest.fixture(scope="module")
def asked(planted_data):
    return planted_sets(planted_data)


@pytest.fixture(scope="module")
def sets(asked):
    return {"nice": asked[0], "food": asked[2]}


@pytest.fixture(scope="module")
def directions(planted):
    """The planted direction at every layer, of length 1."""
    return [Direction(planted.direction, site) for site in Model(planted.model).sites("resid_pre")]


@pytest.fixture(scope="module")
def adds(directions):
    return [Add(direction, unit="direction") for direction in directions]


@pytest.fixture(scope="module")
def spill(model, adds, sets):
    return spillover(model, adds, sets, FEW, target="nice", progress=False)


def live(planted) -> list[int]:
    return list(planted.live_layers("resid_pre"))


# Gains


def test_an_orthogonal_concept_is_not_moved(planted, spill):
    """The answers " soup" and " bread" read dimensions that the planted direction never enters."""
    k = spill.sets.index("food")
    assert float(spill.mean_gain[..., k].abs().max()) < 1e-4
    assert not bool(spill.spills.any())
    own = spill.mean_gain[live(planted), -1, spill.sets.index("nice")]
    torch.testing.assert_close(own, torch.full((len(own),), 3.0), atol=1e-3, rtol=0)
    assert bool((spill.selectivity[0][live(planted), -1] > 1e4).all())


def test_a_direction_that_does_move_the_other_concept_is_found_with_its_exact_size(
    planted, model, asked, sets
):
    food = asked[2]
    ids = [model.split(food.pairs[0].prompt, f" {word}")[1][0] for word in ("soup", "bread")]
    weight = planted.model.unembed.W_U
    towards = (weight[:, ids[0]] - weight[:, ids[1]]).detach()
    site = Site(5)  # directly before the unembedding
    mixed = planted.answer_direction + towards
    found = spillover(
        model, [Add(Direction(mixed, site), unit="direction")], sets, FEW, target="nice",
        progress=False,
    )  # fmt: skip
    expected = torch.tensor(
        [0.3, float(mixed @ towards)]
    )  # gain / 10 on the target, by the planted model
    torch.testing.assert_close(found.mean_gain[0, -1], expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.mean_gain[0, 0], -expected, atol=1e-3, rtol=1e-3)
    assert bool(found.spills[0, :, 1].tolist() == [True, False, True])
    assert found.null.p_value == pytest.approx(1 / 21)
    value, low, high = (part[0, -1, 1] for part in found.relative)
    assert float(value) == pytest.approx(float(expected[1] / expected[0]), rel=1e-2)
    assert float(low) <= float(value) <= float(high)
    selectivity = found.selectivity[0][0]
    assert float(selectivity[-1]) == pytest.approx(float(expected[0] / expected[1]), rel=1e-2)
    assert torch.equal(selectivity.isnan(), torch.tensor([False, True, False]))


def test_every_row_can_have_a_target_of_its_own(model, adds, sets):
    rows = {"u": adds[2], "other": Add(Direction(torch.ones(32), Site(5)), unit="direction")}
    found = spillover(model, rows, sets, FEW, target={"u": "nice", "other": "food"}, nulls=0)
    assert found.is_target.tolist() == [[True, False], [False, True]]
    assert torch.equal(found.relative[0][0, :, 0].isnan(), torch.tensor([False, True, False]))


def test_gains_under_opposite_signs_do_not_pass_for_none(model, adds, asked):
    """Flipped questions gain the opposite: the mean is 0, the mean size is not."""
    original, other, _ = asked
    half = ContrastSet("half", (*other.pairs[:4], *(p.flipped() for p in other.pairs[4:8])))
    sets = {"nice": original, "half": half}
    found = spillover(model, [adds[2]], sets, FEW, target="nice", nulls=0)
    assert float(found.mean_gain[0, -1, 1]) == pytest.approx(0.0, abs=1e-3)
    assert float(found.size_interval[0][0, -1, 1]) == pytest.approx(3.0, abs=1e-3)


def test_sets_about_the_same_prompts_are_resampled_together(model, adds, asked):
    original = asked[0]
    pairs = tuple(replace(p, positive=" soup", negative=" tea") for p in original)
    same = ContrastSet("same", pairs)
    found = spillover(model, [adds[2]], {"a": original, "b": same}, FEW, target="a", nulls=0)
    assert found.matched == (("a", "b"),)
    assert found._seed("b") == found._seed("a")


# Null maps


def test_random_pushes_that_are_the_intervention_itself_find_no_spill_over(model, sets):
    """A real map among others like it is not outstanding: here all are random."""
    generator = torch.Generator().manual_seed(5)
    site = Site(4)
    pushes = [
        Add(Direction(torch.randn(32, generator=generator), site), unit=1.0) for _ in range(21)
    ]
    p = [
        spillover(
            model, [one], sets, FEW, target="nice", progress=False,
            nulls=[[other] for other in pushes if other is not one],
        ).null.p_value
        for one in pushes[:4]
    ]  # fmt: skip
    ranks = sorted(round(21 * x) for x in p)
    assert len(set(ranks)) == 4 and min(ranks) >= 1 and max(ranks) <= 21


@pytest.mark.parametrize(
    "edit",
    [lambda d: Add(d, unit="direction"), Ablate, lambda d: Clamp(d, 2.0)],
    ids=["Add", "Ablate", "Clamp"],
)
def test_nulls_are_as_long_as_the_real_direction(directions, edit):
    real = edit(directions[2] * 3.0)
    controls = null_maps(19, {"row": real}, seed=0)
    assert controls.what == "random directions"
    assert len({tuple(one.direction.vector.tolist()) for (one,) in controls.maps}) == 19
    for (control,) in controls.maps:
        assert type(control) is type(real) and control.positions == real.positions
        assert control.direction.norm == pytest.approx(3.0, rel=1e-5)


def test_every_row_of_every_null_map_has_its_own_random_direction(directions):
    rows = {"a": Ablate(directions[1]), "b": Ablate(directions[3])}
    maps = null_maps(None, rows, seed=4).maps
    assert len(maps) == 20 and all(len(one) == 2 for one in maps)
    vectors = [edit.direction.vector for one in maps for edit in one]
    assert len({tuple(vector.tolist()) for vector in vectors}) == 40
    assert [edit.site for edit in maps[7]] == [directions[1].site, directions[3].site]
    again = null_maps(None, rows, seed=4).maps
    assert torch.equal(again[7][1].direction.vector, vectors[15])


def test_a_map_without_nulls_says_so(model, adds, sets):
    found = spillover(model, [adds[2]], sets, FEW, target="nice", nulls=0, progress=False)
    assert not found.has_null and found.null_gains.shape == (0, 1, 3, 2)
    assert "no null maps because none were asked for, so there is no p-value" in found.summary()
    assert "p =" not in found.summary()
    (text, *_) = found.section({}).blocks
    assert isinstance(text, Paragraph) and "no null maps because none were asked for" in text.text
    assert found.plot().data


def test_a_strangers_weight_change_is_a_row_without_null_maps_of_random_directions(
    model, adds, sets, tmp_path
):
    rows = {"lora": low_rank(model, 3), "add": adds[2]}
    found = spillover(model, rows, sets, FEW, target="nice", progress=False)
    assert found.sites == (None, adds[2].site) and not found.has_null
    assert "no null maps because 'lora' is not along one direction, so there" in found.summary()
    own = found.mean_gain[1, -1, 0]
    assert float(own) == pytest.approx(3.0, abs=1e-3)
    assert float(found.mean_gain[0].abs().max()) > 1e-4
    loaded = SpilloverMap.load(found.save(tmp_path))
    assert (loaded.rows, loaded.sites, loaded.summary()) == (
        found.rows,
        found.sites,
        found.summary(),
    )
    assert found.plot().data and found.plot_lines("lora").data


def test_null_maps_of_the_users_own_are_taken_for_any_intervention(model, sets):
    real = {"lora": low_rank(model, 3)}
    nulls = [{"lora": low_rank(model, 3, seed=seed)} for seed in range(1, 20)]
    found = spillover(model, real, sets, FEW, target="nice", nulls=nulls, progress=False)
    assert found.null_gains.shape == (19, 1, 3, 2) and found.has_null
    assert 1 / 20 <= found.null.p_value <= 1
    assert "against given null maps" in found.summary()


def test_random_directions_cannot_take_the_place_of_another_intervention(model, adds, sets):
    rows = {"both": Together((adds[2], adds[4]))}
    with pytest.raises(ValueError, match="'both' .* a random direction cannot take its place"):
        spillover(model, rows, sets, FEW, target="nice", nulls=20)


# What is refused before any work


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "colour"}, "not among the sets"),
        ({"sets": {}}, "not among the sets"),
        ({"target": {"somewhere": "nice"}}, "the interventions are"),
        ({"nulls": 5}, "at least 19"),
        ({"nulls": -1}, "-1 null maps cannot give"),
        ({"nulls": [[]] * 20}, "one intervention per row"),
        ({"nulls": [{"elsewhere": Direction(torch.ones(32), Site(1))}] * 20}, "per row"),
    ],
)
def test_spill_overs_that_cannot_be_measured_are_refused(model, adds, sets, change, message):
    given = {"sets": sets, "target": "nice", **change}
    with pytest.raises(ValueError, match=message):
        spillover(model, adds, given.pop("sets"), FEW, **given)


def test_a_spill_over_needs_another_set_with_other_questions(model, adds, asked):
    original = asked[0]
    with pytest.raises(ValueError, match="nice is the only set"):
        spillover(model, adds, {"nice": original}, FEW, target="nice")
    with pytest.raises(ValueError, match="are the same questions"):
        spillover(model, adds, {"nice": original, "again": original}, FEW, target="nice")


@pytest.mark.parametrize("multipliers", [(-1.0, 1.0), (-1.0, 0.0), (0.0, 1.0, 1.0)])
def test_multipliers_without_something_to_compare_are_refused(model, adds, sets, multipliers):
    with pytest.raises(ValueError, match="multipliers="):
        spillover(model, adds, sets, multipliers, target="nice")


# Resuming and files


def test_a_killed_run_goes_on_from_what_it_saved(model, adds, sets, tmp_path):
    options = {"target": "nice", "progress": False, "cells": Cells(tmp_path, "others")}
    first = spillover(model, adds[2:4], sets, FEW, **options)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    assert {path.parent.name for path in kept} == {"nice", "food"}
    for path in kept:
        path.unlink()
        again = spillover(model, adds[2:4], sets, FEW, **options)
        assert torch.equal(again.mean_gain, first.mean_gain)
        assert torch.equal(again.null_gains, first.null_gains)
        assert path.read_bytes() == kept[path]


def test_a_spill_over_survives_saving_and_loading(spill, tmp_path):
    loaded = SpilloverMap.load(spill.save(tmp_path))
    assert loaded.summary() == spill.summary()
    assert torch.equal(loaded.null_gains, spill.null_gains)
    assert loaded.sets == spill.sets and loaded.matched == spill.matched
    assert loaded.targets == spill.targets and loaded.made_by == spill.made_by
    rows = table(tmp_path / "spillover.csv")
    assert len(rows) == 6 * 3 * 2
    cell = next(
        row for row in rows
        if (row["row"], row["multiplier"], row["set"]) == ("L2 resid_pre", "-1.0", "nice")
    )  # fmt: skip
    gain = float(spill.mean_gain[2, 0, spill.sets.index("nice")])
    assert float(cell["gain"]) == pytest.approx(gain, abs=1e-5) and gain < -2
    assert (cell["layer"], cell["target"], cell["p_value"]) == ("2", "True", "")


def test_a_missing_result_is_refused(tmp_path):
    with pytest.raises(ResultError, match="Run the experiment again"):
        SpilloverMap.load(tmp_path)


def test_names_with_commas_and_without_sites_survive(model, adds, sets, tmp_path):
    rows = {'a, "b"': Together((adds[2], adds[4]))}
    made = spillover(model, rows, sets, FEW, target="nice", nulls=0, progress=False)
    again = SpilloverMap.load(made.save(tmp_path))
    assert again.null_gains.shape == (0, 1, 3, 2)
    assert again.rows == made.rows and again.sites == (None,)


# Words and pictures


def test_the_section_shows_the_row_that_a_map_recommends(spill):
    text, every, chosen = spill.section({"map": Chosen("L3 resid_pre")}).blocks
    assert isinstance(text, Paragraph) and "null maps (random directions)" in text.text
    assert f"p = {spill.null.p_value:.3g}" in text.text
    assert isinstance(every, Figure) and every.draw().data
    assert isinstance(chosen, Figure) and "L3 resid_pre" in chosen.draw().layout.title.text


def test_a_run_says_what_the_recommended_multiplier_does(spill):
    said = spill.run_summary({"map": Chosen("L3 resid_pre")})
    assert "L3 resid_pre: nice" in said and "random directions" in said
    assert said.count("\n") == 6


def test_every_figure_can_be_drawn_and_shown(spill, monkeypatch):
    monkeypatch.setattr(plotly.io.renderers, "default", "plotly_mimetype")
    figures = (
        spill.plot(), spill.plot(-1.0), spill.plot_lines(), spill.plot_lines("L2 resid_pre"),
    )  # fmt: skip
    assert all(figure.data for figure in figures)
    assert spill._repr_mimebundle_()
    assert isinstance(repr(spill), str)


def test_a_multiplier_that_is_not_there_is_refused(spill):
    with pytest.raises(ValueError, match="was not measured"):
        spill.plot(0.3)


def test_the_heatmap_outlines_each_rows_target_once():
    figure = plots.gain_heatmap(
        [[1.0, 0.1], [2.0, 0.1], [0.0, 1.0]],
        rows=("r0", "r1", "r2"), sets=("a", "b"), targets=("a", "a", "b"), unit="nats", title="t",
    )  # fmt: skip
    frame = [trace for trace in figure.data if trace.name.startswith("target")][-1]
    assert sum(x is None for x in frame.x) == 2  # two blocks
    # Named rows are drawn from the top: the last row is the lowest.
    assert figure.data[0].z[0][1] == 1.0
    assert figure.data[0].hovertext[0][1].startswith("r2: b<br>")
    with pytest.raises(ValueError, match="none of the sets"):
        plots.gain_heatmap([[1.0]], rows=("r",), sets=("a",), targets=("z",), unit="x", title="t")


def test_the_heatmap_of_layers_rises_from_the_lowest():
    figure = plots.gain_heatmap(
        [[1.0, 0.1], [2.0, 0.2]], rows=(5, 3), sets=("a", "b"), targets=("a", "b"),
        unit="nats", title="t", hover=[["x5", "y5"], ["x3", "y3"]],
    )  # fmt: skip
    assert [list(row) for row in figure.data[0].z] == [[2.0, 0.2], [1.0, 0.1]]
    assert figure.data[0].hovertext[0][0] == "layer 3: a<br>x3"
    frame = [trace for trace in figure.data if trace.name.startswith("target")][-1]
    assert frame.x[0] == 0.5  # layer 3 is meant to move b


# The other way round


def test_unrelated_directions_are_asked_about_the_target(planted, model, adds, sets, tmp_path):
    """One that is half the planted direction moves the target half as far; an orthogonal one not."""
    half = [Add(Direction(-0.5 * planted.direction, Site(2, "resid_pre")), unit="direction")]
    options = {"target": "nice", "nulls": 0, "progress": False}
    found = spillover(model, [adds[2]], sets, FEW, unrelated={"food": half}, **options)
    mean, low, high = found.unrelated_interval["food"]
    assert mean[0].tolist() == pytest.approx([1.5, 0.0, -1.5], abs=1e-3)
    assert bool((low <= mean).all()) and bool((high >= mean).all())
    words = "directions of other concepts in its place change nice by food 1.5"
    assert words in found.unrelated_in_words(0, 2) and "at −1 nats; its own by 3" in found.summary()
    said = [b.text for b in found.section({}).blocks if isinstance(b, Paragraph)]
    assert any(text.startswith("**The other way round:** directions of other") for text in said)
    loaded = SpilloverMap.load(found.save(tmp_path))
    assert torch.equal(loaded.unrelated["food"], found.unrelated["food"])
    frame = found.to_frame()
    ones = frame[frame.multiplier == 1].set_index("set").unrelated
    assert ones["food"] == pytest.approx(-1.5, abs=1e-3) and ones["nice"] != ones["nice"]
    plain = spillover(model, [adds[2]], sets, FEW, **options)
    assert not plain.unrelated and "other way round" not in str(plain.section({}))
    assert "unrelated" not in plain.to_frame()


@pytest.mark.parametrize(
    "unrelated, message",
    [
        ({"nice": 1}, "unrelated names 'nice', and the other sets are food"),
        ({"food": 2}, "2 interventions for the 1 rows"),
    ],
)
def test_unrelated_directions_that_do_not_fit_are_refused(model, adds, sets, unrelated, message):
    given = {name: adds[:n] for name, n in unrelated.items()}
    with pytest.raises(ValueError, match=message):
        spillover(model, [adds[2]], sets, FEW, target="nice", nulls=0, unrelated=given)
