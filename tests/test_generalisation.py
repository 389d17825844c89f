"""Slopes on shifted questions are those that are planted."""

from dataclasses import replace

import plotly.io
import pytest
import torch

from steerlens import plots
from steerlens.analyses.generalisation.measure_shift import shifted
from steerlens.analyses.generalisation.shifted_map import ShiftedMap
from steerlens.data import ContrastError, ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.interventions import Add, Together
from steerlens.models.model import Model
from steerlens.report.section import Figure, Paragraph, Printed
from steerlens.results import ResultError
from steerlens.sites import Site
from steerlens.store.cells import Cells
from steerlens.store.files import DamagedFile
from steerlens.units import MULTIPLIERS
from tests.planted_sets import FEW, Chosen, planted_sets, table
from tests.strangers import Silent, low_rank


@pytest.fixture(scope="module")
def model(planted):
    return Model(planted.model)


@pytest.fixture(scope="module")
def asked(planted_data):
    return planted_sets(planted_data)


@pytest.fixture(scope="module")
def directions(planted):
    """The planted direction at every layer, of length 1."""
    return [Direction(planted.direction, site) for site in Model(planted.model).sites("resid_pre")]


@pytest.fixture(scope="module")
def adds(directions):
    return [Add(direction, unit="direction") for direction in directions]


@pytest.fixture(scope="module")
def deaf(asked):
    """Prompts that do not end in a question mark, which the reading block does not react to."""
    pairs = tuple(replace(p, prompt=p.prompt + " it", group="") for p in asked[1])
    return ContrastSet("deaf", pairs)


@pytest.fixture(scope="module")
def shift(model, adds, asked, deaf):
    original, other, _ = asked
    sets = {
        "other": other,
        "deaf": deaf,
        "reworded": original.with_template("it is local . {prompt}"),
    }
    return shifted(model, adds, original, sets, MULTIPLIERS, progress=False)


def live(planted) -> list[int]:
    return list(planted.live_layers("resid_pre"))


# Slopes


def test_slopes_are_the_planted_gain_where_it_is_live_and_heard(planted, shift):
    for name, expected in (("planted questions", 3.0), ("other", 3.0), ("deaf", 0.0)):
        mean = shift.slope_interval(name)[0]
        truth = torch.zeros(6)
        truth[live(planted)] = expected
        torch.testing.assert_close(mean, truth, atol=2e-4, rtol=1e-4)


def test_ratio_and_difference_find_what_carries_over_and_what_does_not(planted, shift):
    layer = live(planted)[0]
    for name, ratio, gap in (("other", 1.0, 0.0), ("reworded", 1.0, 0.0), ("deaf", 0.0, -3.0)):
        assert shift.ratio(name)[0][layer] == pytest.approx(ratio, abs=1e-3)
        assert shift.difference(name)[0][layer] == pytest.approx(gap, abs=2e-3)


def test_slopes_equal_those_of_a_sweep_of_that_set_alone(model, adds, asked, shift):
    from steerlens.measures.sweep import sweep
    from steerlens.stats import steerability_slope

    odds = sweep(model, asked[1], adds, MULTIPLIERS, log_odds_only=True, progress=False).log_odds
    expected = steerability_slope(torch.tensor(MULTIPLIERS), odds.mT)
    torch.testing.assert_close(shift.slopes("other"), expected)


def test_only_the_same_questions_in_another_wording_are_matched(shift):
    assert shift.matched == ("reworded",)
    assert len(shift.example_correlation("reworded")) == 6
    with pytest.raises(ValueError, match="does not ask the questions of 'planted questions'"):
        shift.example_correlation("other")


def test_questions_are_correlated_one_by_one_in_their_own_order():
    """Slopes of known ranks, put in by hand."""
    original = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    other = torch.stack([original[0] * 2 + 1, original[1].flip(0)])
    multipliers = torch.tensor([0.0, 1.0, 2.0])
    slopes = {"original": original, "other": other}
    made = ShiftedMap(
        rows=("a", "b"),
        sites=(None, None),
        multipliers=multipliers,
        propensities={n: slope[:, None] * multipliers[:, None] for n, slope in slopes.items()},
        in_distribution="original",
        matched=("other",),
    )
    assert [round(r.value, 6) for r in made.example_correlation("other")] == [1.0, -1.0]


# What is refused before any work


def test_sets_that_share_only_some_questions_are_refused(model, adds, asked):
    original, other, _ = asked
    partly = original.subset(4).merged(other)
    with pytest.raises(ValueError, match=r"share .* questions .*without\(in_distribution\)"):
        shifted(model, adds, original, {"partly": partly}, FEW)
    assert len(partly.without(original)) == len(other)


def test_the_same_questions_in_another_order_are_refused(model, adds, asked):
    original = asked[0]
    mixed = replace(original, pairs=original.pairs[::-1])
    with pytest.raises(ValueError, match="not the same questions in the same order"):
        shifted(model, adds, original, {"mixed": mixed}, FEW)


def test_nothing_of_a_set_that_is_all_known_is_an_error(asked):
    with pytest.raises(ContrastError, match="also in"):
        asked[0].without(asked[0])


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (lambda original, other: {}, "shifted is empty"),
        (lambda original, other: {original.name: other}, "the name of the set in distribution"),
        (lambda original, other: {"same": original}, "the same set as in_distribution"),
        (lambda original, other: {"one": other.subset(1)}, "at least two"),
    ],
)
def test_shifts_that_compare_nothing_are_refused(model, adds, asked, sets, message):
    original, other, _ = asked
    with pytest.raises(ValueError, match=message):
        shifted(model, adds, original, sets(original, other), FEW)


def test_a_set_that_made_the_direction_is_refused(model, directions, asked):
    original, other, _ = asked
    made = replace(directions[2], data=other.hash, resid_norm=1.0)
    with pytest.raises(ValueError, match="was made from 'other'"):
        shifted(model, [made], original, {"other": other}, FEW)


def test_what_cannot_be_scored_is_refused_before_the_first_sweep(model, adds, asked, tmp_path):
    original, _, _ = asked
    bad = ContrastSet("bad", (ContrastPair("is it ?", " yes", " yes it"),) * 2)
    with pytest.raises(ValueError, match="same tokens"):
        shifted(model, adds, original, {"bad": bad}, FEW, cells=Cells(tmp_path))
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("multipliers", [(-1.0, 1.0), (-1.0, 0.0), (0.0, 1.0, 1.0)])
def test_multipliers_without_something_to_compare_are_refused(model, adds, asked, multipliers):
    original, other, _ = asked
    with pytest.raises(ValueError, match="multipliers="):
        shifted(model, adds, original, {"other": other}, multipliers)


# Rows


def test_interventions_are_told_apart_by_site_or_by_name(model, adds, asked):
    original, other, _ = asked
    sets = {"other": other}
    with pytest.raises(ValueError, match="no interventions"):
        shifted(model, [], original, sets, FEW)
    with pytest.raises(ValueError, match="Name them"):
        shifted(model, [adds[2], adds[2]], original, sets, FEW)
    both = Together((adds[2], adds[4]))
    with pytest.raises(ValueError, match="Name them"):
        shifted(model, [both, both], original, sets, FEW)
    rows = {"two layers": both, "one": adds[2]}
    found = shifted(model, rows, original, sets, FEW, progress=False)
    assert found.rows == ("two layers", "one")
    assert found.layers is None
    # Both layers are live or dead as planted: layer 2 is live, layer 4 is not.
    torch.testing.assert_close(
        found.slopes("other")[0], found.slopes("other")[1], atol=1e-3, rtol=0
    )


def test_a_direction_stands_for_adding_it(model, directions, asked):
    original, other, _ = asked
    direction = replace(directions[2], resid_norm=2.0)
    by_direction = shifted(model, [direction], original, {"o": other}, FEW, progress=False)
    by_add = shifted(model, [Add(direction)], original, {"o": other}, FEW, progress=False)
    assert torch.equal(by_direction.slopes("o"), by_add.slopes("o"))
    assert float(by_direction.slopes("o").mean()) == pytest.approx(6, abs=1e-2)


def test_a_strangers_weight_change_is_a_row_like_any_other(model, adds, asked, tmp_path):
    from steerlens.measures.sweep import sweep

    original, other, _ = asked
    lora = low_rank(model, 3)
    rows = {"lora": lora, "silent": Silent(lora), "add": adds[2]}
    found = shifted(model, rows, original, {"o": other}, FEW, progress=False)
    assert found.rows == ("lora", "silent", "add") and found.sites == (None, None, adds[2].site)
    alone = sweep(model, other, [lora], FEW, log_odds_only=True, progress=False).log_odds
    torch.testing.assert_close(found.of("o")[:1], alone, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.of("o")[0], found.of("o")[1], atol=1e-4, rtol=0)
    assert float(found.slopes("o")[0].abs().mean()) > 1e-4
    loaded = ShiftedMap.load(found.save(tmp_path))
    assert (loaded.rows, loaded.sites, loaded.summary()) == (
        found.rows,
        found.sites,
        found.summary(),
    )
    assert found.plot().data and found.plot_sets("lora").data
    wrong = replace(lora, layer=9)
    with pytest.raises(ValueError, match="Make it for this model"):
        shifted(model, {"lora": wrong}, original, {"o": other}, FEW)


# Resuming and files


def test_a_killed_run_goes_on_from_what_it_saved(model, adds, asked, tmp_path):
    original, other, _ = asked
    cells = Cells(tmp_path, "shift")
    first = shifted(model, adds, original, {"o": other}, FEW, progress=False, cells=cells)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    assert len({path.parent for path in kept}) == 2  # a folder for each set
    for path in kept:
        path.unlink()
        again = shifted(model, adds, original, {"o": other}, FEW, progress=False, cells=cells)
        assert torch.equal(again.of("o"), first.of("o"))
        assert path.read_bytes() == kept[path]


def test_the_cells_of_two_sets_cannot_be_exchanged(model, adds, asked, tmp_path):
    original, other, _ = asked
    cells = Cells(tmp_path, "shift")
    sets = {"a": other.subset(6), "b": other.without(other.subset(6))}
    shifted(model, adds, original, sets, FEW, progress=False, cells=cells)
    one, two = (next((tmp_path / name).glob("*.safetensors")) for name in "ab")
    swapped = one.read_bytes(), two.read_bytes()
    two.with_name(one.name).write_bytes(swapped[0])
    one.write_bytes(swapped[1])
    with pytest.raises(DamagedFile, match="is another file"):
        shifted(model, adds, original, sets, FEW, progress=False, cells=cells)


def test_a_shift_survives_saving_and_loading(shift, tmp_path):
    loaded = ShiftedMap.load(shift.save(tmp_path))
    assert loaded.summary() == shift.summary()
    assert loaded.matched == shift.matched and loaded.made_by == shift.made_by
    assert loaded.sets == shift.sets
    assert loaded.layers == shift.layers == (0, 1, 2, 3, 4, 5)
    rows = table(tmp_path / "shift.csv")
    assert len(rows) == 6 * 4
    assert {row["set"] for row in rows} == {"planted questions", "other", "deaf", "reworded"}
    deaf = next(row for row in rows if (row["row"], row["set"]) == ("L2 resid_pre", "deaf"))
    assert float(deaf["slope"]) == pytest.approx(
        float(shift.slope_interval("deaf")[0][2]), abs=1e-5
    )
    assert float(deaf["ratio"]) == pytest.approx(float(shift.ratio("deaf")[0][2]), abs=1e-5)
    assert (deaf["layer"], deaf["stream"], deaf["matched"]) == ("2", "resid_pre", "False")
    assert deaf["questions"] == str(shift.of("deaf").shape[-1])
    original = next(row for row in rows if row["in_distribution"] == "True")
    assert (original["set"], original["ratio"]) == ("planted questions", "")


def test_labelled_arrays_have_the_questions_of_each_set(shift):
    dataset = shift.to_xarray()
    assert dataset["propensities.deaf"].shape == (6, len(MULTIPLIERS), 12)
    assert float(dataset["slope"].sel(row="L2 resid_pre", set="other")) == pytest.approx(
        3, abs=1e-3
    )


def test_a_missing_result_is_refused(tmp_path):
    with pytest.raises(ResultError, match="Run the experiment again"):
        ShiftedMap.load(tmp_path)


def test_names_with_commas_and_without_sites_survive(model, adds, asked, tmp_path):
    original, other, _ = asked
    rows = {'a, "b"': Together((adds[2], adds[4]))}
    made = shifted(model, rows, original, {"x, y": other}, FEW, progress=False)
    loaded = ShiftedMap.load(made.save(tmp_path))
    assert loaded.rows == made.rows and loaded.sites == (None,)
    read = table(tmp_path / "shift.csv")
    expected = {('a, "b"', original.name), ('a, "b"', "x, y")}
    assert {(row["row"], row["set"]) for row in read} == expected


# Words and pictures


def test_the_section_gives_the_numbers_of_the_row_that_a_map_recommends(shift):
    section = shift.section({"map": Chosen("L2 resid_pre")})
    text, figure, printed = section.blocks
    assert isinstance(text, Paragraph) and "planted questions" in text.text
    assert isinstance(figure, Figure) and figure.draw().data
    assert isinstance(printed, Printed) and printed.text == shift.summary("L2 resid_pre")
    assert shift.section({}).blocks[2] == Printed(shift.summary())


def test_a_run_says_where_steering_carries_over_least(shift):
    said = shift.run_summary({"map": Chosen("L2 resid_pre")})
    assert "smallest of 3 shifted sets" in said and "on deaf" in said
    assert shift.run_summary({}) == "" == shift.run_summary({"map": Chosen("another row")})


def test_every_figure_can_be_drawn_and_shown(shift, monkeypatch):
    monkeypatch.setattr(plotly.io.renderers, "default", "plotly_mimetype")
    figures = shift.plot(), shift.plot_sets(), shift.plot_sets(Site(2, "resid_pre"))
    assert all(figure.data for figure in figures)
    assert shift._repr_mimebundle_()
    assert isinstance(repr(shift), str)


def test_a_row_or_set_that_is_not_there_is_refused(shift):
    with pytest.raises(ValueError, match="not one of the rows"):
        shift.summary("L9 resid_pre")
    with pytest.raises(ValueError, match="There is no set 'x'"):
        shift.slopes("x")


def test_figures_show_missing_numbers_as_missing():
    nan = float("nan")
    original = ([1.0, nan], [0.5, nan], [1.5, nan])
    other = {"a": ([1.0, 2.0], [0.5, 1.5], [1.5, 2.5])}
    for rows in ([0, 1], ["p", "q"]):
        figure = plots.shift_scatter(original, other, rows=rows, unit="nats", title="t")
        names = ("a",) if rows == [0, 1] else ("p", "q")
        points = [trace for trace in figure.data if trace.name in names]
        assert [len(trace.x) for trace in points] == [1]
    dots = plots.shift_dots(
        {"h": (1.0, 0.5, 1.5), "a": (2.0, 1.0, 3.0)},
        in_distribution="h", ratios={"a": (nan, nan, nan)}, unit="nats", title="t",
    )  # fmt: skip
    assert "× not known" in {note.text for note in dots.layout.annotations}
    with pytest.raises(ValueError, match="none of the sets"):
        plots.shift_dots({"h": (1.0, 0.5, 1.5)}, in_distribution="x", unit="nats", title="t")


def test_points_of_layers_stand_at_their_slopes_whatever_order_they_come_in():
    figure = plots.shift_scatter(
        [5.0, 4.0, 6.0], {"a": [50.0, 40.0, 60.0]}, rows=[5, 4, 6], unit="nats", title="t"
    )
    points = next(trace for trace in figure.data if trace.name == "a")
    assert list(zip(points.x, points.y, points.marker.color, strict=True)) == [
        (4.0, 40.0, 4), (5.0, 50.0, 5), (6.0, 60.0, 6),
    ]  # fmt: skip
