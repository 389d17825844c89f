"""Steering elsewhere: slopes on shifted prompts and gains on other concepts, against planted truth."""

import csv
from dataclasses import replace

import plotly.io
import pytest
import torch

from steerlens import plots
from steerlens.analyses.generalisation.shifted_map import ShiftedMap
from steerlens.analyses.ratios import difference_of_means, ratio_of_means
from steerlens.analyses.side_effects.measure_elsewhere import shifted, spillover
from steerlens.analyses.side_effects.spillover_map import SpilloverMap
from steerlens.data import ContrastError, ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.interventions import Ablate, Add, Together
from steerlens.models.model import Model
from steerlens.sites import Site
from steerlens.store.result_files import ResultError
from steerlens.units import MULTIPLIERS

FEW = (-1.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def model(planted):
    return Model(planted.model)


@pytest.fixture(scope="module")
def asked(planted_data):
    """Questions at home, others, and home's prompts with answers the direction does not touch."""
    _, home, other = planted_data
    pairs = tuple(replace(p, positive=" soup", negative=" bread") for p in home)
    return home.subset(16), other.subset(12), ContrastSet("food", pairs).subset(14, seed=1)


@pytest.fixture(scope="module")
def directions(planted):
    """The planted direction at every layer, of length 1."""
    return [Direction(planted.direction, site) for site in Model(planted.model).sites("resid_pre")]


@pytest.fixture(scope="module")
def adds(directions):
    return [Add(direction, unit="direction") for direction in directions]


@pytest.fixture(scope="module")
def deaf(asked):
    """Prompts that do not end in a question mark, where the reading block hears nothing."""
    pairs = tuple(replace(p, prompt=p.prompt + " it", group="") for p in asked[1])
    return ContrastSet("deaf", pairs)


@pytest.fixture(scope="module")
def shift(model, adds, asked, deaf):
    home, other, _ = asked
    away = {
        "other": other,
        "deaf": deaf,
        "reworded": home.with_template("it is local . {prompt}"),
    }
    return shifted(model, adds, home, away, MULTIPLIERS, progress=False)


@pytest.fixture(scope="module")
def spill(model, adds, asked):
    home, _, food = asked
    sets = {"nice": home, "food": food}
    return spillover(model, adds, sets, FEW, home="nice", progress=False)


def live(planted) -> list[int]:
    return list(planted.live_layers("resid_pre"))


def table(path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


# Shift


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


def test_only_home_in_another_wording_is_matched(shift):
    assert shift.matched == ("reworded",)
    assert len(shift.example_correlation("reworded")) == 6
    with pytest.raises(ValueError, match="not those of 'planted questions' in another wording"):
        shift.example_correlation("other")


def test_questions_are_correlated_one_by_one_in_their_own_order(tmp_path):
    """Slopes of known ranks, put in by hand."""
    from steerlens.analyses.answers import Answers

    home = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    away = torch.stack([home[0] * 2 + 1, home[1].flip(0)])
    multipliers = torch.tensor([0.0, 1.0, 2.0])
    odds = {"home": home, "away": away}
    answers = Answers(
        ("a", "b"), (None, None), multipliers,
        {name: slope[:, None] * multipliers[:, None] for name, slope in odds.items()},
    )  # fmt: skip
    found = ShiftedMap(answers, "home", ("away",)).example_correlation("away")
    assert [round(r.value, 6) for r in found] == [1.0, -1.0]


def test_sets_that_share_only_some_questions_with_home_are_refused(model, adds, asked):
    home, other, _ = asked
    partly = home.subset(4).merged(other)
    with pytest.raises(ValueError, match=r"share .* questions .*without\(home\)"):
        shifted(model, adds, home, {"partly": partly}, FEW)
    assert len(partly.without(home)) == len(other)


def test_home_in_another_order_is_refused(model, adds, asked):
    home = asked[0]
    mixed = replace(home, pairs=home.pairs[::-1])
    with pytest.raises(ValueError, match="not the same questions in the same order"):
        shifted(model, adds, home, {"mixed": mixed}, FEW)


def test_nothing_of_a_set_that_is_all_known_is_an_error(asked):
    with pytest.raises(ContrastError, match="also in"):
        asked[0].without(asked[0])


@pytest.mark.parametrize(
    ("away", "message"),
    [
        (lambda home, other: {}, "away is empty"),
        (lambda home, other: {home.name: other}, "as home is"),
        (lambda home, other: {"same": home}, "the very set that is home"),
        (lambda home, other: {"one": other.subset(1)}, "at least two"),
    ],
)
def test_shifts_that_compare_nothing_are_refused(model, adds, asked, away, message):
    home, other, _ = asked
    with pytest.raises(ValueError, match=message):
        shifted(model, adds, home, away(home, other), FEW)


def test_a_set_that_made_the_direction_is_refused(model, directions, asked):
    home, other, _ = asked
    made = replace(directions[2], data=other.hash, resid_norm=1.0)
    with pytest.raises(ValueError, match="was made from 'other'"):
        shifted(model, [made], home, {"other": other}, FEW)


def test_what_cannot_be_scored_is_refused_before_the_first_sweep(model, adds, asked):
    home, _, _ = asked
    bad = ContrastSet("bad", (ContrastPair("is it ?", " yes", " yes it"),) * 2)
    seen = []
    with pytest.raises(ValueError, match="same tokens"):
        shifted(model, adds, home, {"bad": bad}, FEW, done=lambda *a: seen.append(a))
    assert not seen


@pytest.mark.parametrize("multipliers", [(-1.0, 1.0), (-1.0, 0.0), (0.0, 1.0, 1.0)])
def test_multipliers_without_something_to_compare_are_refused(model, adds, asked, multipliers):
    home, other, food = asked
    with pytest.raises(ValueError, match="multipliers="):
        shifted(model, adds, home, {"other": other}, multipliers)
    with pytest.raises(ValueError, match="multipliers="):
        spillover(model, adds, {"nice": home, "food": food}, multipliers, home="nice")


def test_interventions_are_told_apart_by_site_or_by_name(model, adds, asked):
    home, other, _ = asked
    away = {"other": other}
    with pytest.raises(ValueError, match="no interventions"):
        shifted(model, [], home, away, FEW)
    with pytest.raises(ValueError, match="Name them"):
        shifted(model, [adds[2], adds[2]], home, away, FEW)
    both = Together((adds[2], adds[4]))
    with pytest.raises(ValueError, match="Name them"):
        shifted(model, [both], home, away, FEW)
    found = shifted(model, {"two layers": both, "one": adds[2]}, home, away, FEW, progress=False)
    assert found.rows == ("two layers", "one")
    assert found.answers.layers is None
    # Both layers are live or dead as planted: layer 2 is live, layer 4 is not.
    torch.testing.assert_close(
        found.slopes("other")[0], found.slopes("other")[1], atol=1e-3, rtol=0
    )


def test_a_direction_stands_for_adding_it(model, directions, asked):
    home, other, _ = asked
    direction = replace(directions[2], resid_norm=2.0)
    by_direction = shifted(model, [direction], home, {"o": other}, FEW, progress=False)
    by_add = shifted(model, [Add(direction)], home, {"o": other}, FEW, progress=False)
    assert torch.equal(by_direction.slopes("o"), by_add.slopes("o"))
    assert float(by_direction.slopes("o").mean()) == pytest.approx(6, abs=1e-2)


def test_a_killed_run_goes_on_from_what_it_saved(model, adds, asked):
    home, other, _ = asked
    kept = {}

    def done(name, part, numbers):
        kept[name, part.start, part.stop] = numbers

    def have(name, part):
        return kept.get((name, part.start, part.stop))

    first = shifted(model, adds, home, {"o": other}, FEW, progress=False, done=done)
    assert {name for name, *_ in kept} == {home.name, "o"}
    kept = {key: numbers + 1000 * torch.tensor([1.0, 0.0]) for key, numbers in kept.items()}
    again = shifted(model, adds, home, {"o": other}, FEW, progress=False, have=have)
    expected = first.answers.of("o") + 1000
    torch.testing.assert_close(again.answers.of("o"), expected)


# Spill-over


def test_an_orthogonal_concept_is_not_moved(planted, spill):
    """The answers " soup" and " bread" read dimensions that the planted direction never enters."""
    k = spill.sets.index("food")
    assert float(spill.mean_gain[..., k].abs().max()) < 1e-4
    assert not bool(spill.spills.any())
    home = spill.mean_gain[live(planted), -1, spill.sets.index("nice")]
    torch.testing.assert_close(home, torch.full((len(home),), 3.0), atol=1e-3, rtol=0)
    assert bool((spill.selectivity[0][live(planted), -1] > 1e4).all())


def test_a_direction_that_does_move_the_other_concept_is_found_with_its_exact_size(
    planted, model, asked
):
    home, _, food = asked
    ids = [model.split(food.pairs[0].prompt, f" {word}")[1][0] for word in ("soup", "bread")]
    weight = planted.model.unembed.W_U
    towards = (weight[:, ids[0]] - weight[:, ids[1]]).detach()
    site = Site(5)  # nothing stands between it and the unembedding
    mixed = planted.answer_direction + towards
    found = spillover(
        model, [Add(Direction(mixed, site), unit="direction")], {"nice": home, "food": food}, FEW,
        home="nice", progress=False,
    )  # fmt: skip
    expected = torch.tensor(
        [0.3, float(mixed @ towards)]
    )  # gain / 10 at home, by the planted model
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


def test_random_pushes_that_are_the_intervention_itself_find_no_spill_over(model, asked, adds):
    """A real map among others like it is not outstanding: here all are random."""
    home, _, food = asked
    generator = torch.Generator().manual_seed(5)
    site = Site(4)
    pushes = [
        Add(Direction(torch.randn(32, generator=generator), site), unit=1.0) for _ in range(21)
    ]
    sets = {"nice": home, "food": food}
    p = [
        spillover(
            model, [one], sets, FEW, home="nice", progress=False,
            nulls=[[other] for other in pushes if other is not one],
        ).null.p_value
        for one in pushes[:4]
    ]  # fmt: skip
    ranks = sorted(round(21 * x) for x in p)
    assert len(set(ranks)) == 4 and min(ranks) >= 1 and max(ranks) <= 21


@pytest.mark.parametrize("kind", [Add, Ablate])
def test_nulls_are_as_long_as_the_real_direction(model, directions, asked, kind):
    from steerlens.analyses.side_effects.measure_elsewhere import _nulls

    edit = (
        kind(directions[2] * 3.0) if kind is Ablate else Add(directions[2] * 3.0, unit="direction")
    )
    controls = _nulls(19, {"row": edit}, seed=0)
    assert len({tuple(one.direction.vector.tolist()) for (one,) in controls}) == 19
    for (control,) in controls:
        assert type(control) is kind and control.positions == edit.positions
        assert control.direction.norm == pytest.approx(3.0, rel=1e-5)


def test_every_row_can_have_a_home_of_its_own(model, adds, asked):
    home, _, food = asked
    sets = {"nice": home, "food": food}
    rows = {"u": adds[2], "other": Add(Direction(torch.ones(32), Site(5)), unit="direction")}
    found = spillover(model, rows, sets, FEW, home={"u": "nice", "other": "food"}, nulls=0)
    assert found.at_home.tolist() == [[True, False], [False, True]]
    assert torch.equal(found.relative[0][0, :, 0].isnan(), torch.tensor([False, True, False]))
    assert not found.has_null and "null" not in found.summary()


def test_gains_under_opposite_signs_do_not_pass_for_none(model, adds, asked):
    """Flipped questions gain the opposite: the mean is 0, the mean size is not."""
    home, other, _ = asked
    half = ContrastSet("half", (*other.pairs[:4], *(p.flipped() for p in other.pairs[4:8])))
    found = spillover(model, [adds[2]], {"nice": home, "half": half}, FEW, home="nice", nulls=0)
    assert float(found.mean_gain[0, -1, 1]) == pytest.approx(0.0, abs=1e-3)
    assert float(found.size_interval[0][0, -1, 1]) == pytest.approx(3.0, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"home": "colour"}, "not among the sets"),
        ({"sets": {}}, "not among the sets"),
        ({"home": {"somewhere": "nice"}}, "the interventions are"),
        ({"nulls": 5}, "at least 19"),
        ({"nulls": [[]] * 20}, "one per row"),
    ],
)
def test_spill_overs_that_cannot_be_told_are_refused(model, adds, asked, change, message):
    home, _, food = asked
    given = {"sets": {"nice": home, "food": food}, "home": "nice", **change}
    with pytest.raises(ValueError, match=message):
        spillover(model, adds, given.pop("sets"), FEW, **given)


def test_a_spill_over_needs_another_set_with_other_questions(model, adds, asked):
    home = asked[0]
    with pytest.raises(ValueError, match="no set but nice"):
        spillover(model, adds, {"nice": home}, FEW, home="nice")
    with pytest.raises(ValueError, match="are the same questions"):
        spillover(model, adds, {"nice": home, "again": home}, FEW, home="nice")


def test_an_intervention_without_a_direction_needs_nulls_from_its_maker(model, adds, asked):
    home, _, food = asked
    rows = {"both": Together((adds[2], adds[4]))}
    sets = {"nice": home, "food": food}
    with pytest.raises(ValueError, match="no direction to put a random one in place of"):
        spillover(model, rows, sets, FEW, home="nice")


def test_sets_about_the_same_prompts_are_resampled_together(model, adds, asked):
    home = asked[0]
    same = ContrastSet("same", tuple(replace(p, positive=" soup", negative=" tea") for p in home))
    found = spillover(model, [adds[2]], {"a": home, "b": same}, FEW, home="a", nulls=0)
    assert found.matched == (("a", "b"),)
    assert found._seed("b") == found._seed("a")


# Comparing means


def test_the_interval_of_a_difference_is_welchs():
    from scipy.stats import ttest_ind

    generator = torch.Generator().manual_seed(0)
    one, other = (
        torch.randn(3, 20, generator=generator),
        3 * torch.randn(3, 33, generator=generator),
    )
    value, low, high = difference_of_means(one, other, matched=False)
    expected = ttest_ind(one, other, equal_var=False, axis=-1).confidence_interval()
    torch.testing.assert_close(low, torch.as_tensor(expected.low).to(low))
    torch.testing.assert_close(high, torch.as_tensor(expected.high).to(high))
    torch.testing.assert_close(value, one.mean(-1) - other.mean(-1))


@pytest.mark.parametrize("matched", [False, True])
def test_intervals_of_differences_and_ratios_hold_the_truth_19_times_in_20(matched):
    generator = torch.Generator().manual_seed(1)
    other = 2 + 0.8 * torch.randn(1500, 24, generator=generator)
    noise = 0.5 * torch.randn(1500, 24, generator=generator)
    one = 0.5 * other + noise if matched else 1 + noise
    for found, truth in ((difference_of_means, -1.0), (ratio_of_means, 0.5)):
        _, low, high = found(one, other, matched=matched)
        assert 0.93 < float(((low <= truth) & (truth <= high)).float().mean()) < 0.97


def test_a_ratio_to_nothing_is_not_a_number():
    generator = torch.Generator().manual_seed(2)
    one, nothing = 5 + torch.randn(20, generator=generator), torch.randn(20, generator=generator)
    assert all(part.isnan() for part in ratio_of_means(one, nothing, matched=False))


# Files and figures


def test_a_shift_survives_saving_and_loading(shift, tmp_path):
    loaded = ShiftedMap.load(shift.save(tmp_path))
    assert loaded.summary() == shift.summary()
    assert loaded.matched == shift.matched and loaded.made_by == shift.made_by
    assert loaded.answers.layers == shift.answers.layers == (0, 1, 2, 3, 4, 5)
    rows = table(tmp_path / "shift.csv")
    assert len(rows) == 6 * 4
    assert {row["set"] for row in rows} == {"planted questions", "other", "deaf", "reworded"}


def test_a_spill_over_survives_saving_and_loading(spill, tmp_path):
    loaded = SpilloverMap.load(spill.save(tmp_path))
    assert loaded.summary() == spill.summary()
    assert torch.equal(loaded.null_gains, spill.null_gains)
    assert loaded.homes == spill.homes and loaded.made_by == spill.made_by
    rows = table(tmp_path / "spillover.csv")
    assert len(rows) == 6 * 3 * 2


def test_a_missing_result_is_refused(tmp_path):
    for kind in (ShiftedMap, SpilloverMap):
        with pytest.raises(ResultError, match="Run the experiment again"):
            kind.load(tmp_path)


def test_names_with_commas_and_without_sites_survive(model, adds, asked, tmp_path):
    home, other, food = asked
    rows = {'a, "b"': Together((adds[2], adds[4]))}
    made = shifted(model, rows, home, {"x, y": other}, FEW, progress=False)
    loaded = ShiftedMap.load(made.save(tmp_path))
    assert loaded.rows == made.rows and loaded.answers.sites == (None,)
    read = table(tmp_path / "shift.csv")
    assert {(row["row"], row["set"]) for row in read} == {('a, "b"', home.name), ('a, "b"', "x, y")}
    sets = {"nice": home, "food": food}
    spilt = spillover(model, rows, sets, FEW, home="nice", nulls=0, progress=False)
    again = SpilloverMap.load(spilt.save(tmp_path))
    assert again.null_gains.shape == (0, 1, 3, 2)


def test_every_figure_can_be_drawn_and_shown(shift, spill, monkeypatch):
    monkeypatch.setattr(plotly.io.renderers, "default", "plotly_mimetype")
    figures = (
        shift.plot(), shift.plot_sets(), shift.plot_sets(Site(2, "resid_pre")), spill.plot(),
        spill.plot(-1.0), spill.plot_lines(), spill.plot_lines("L2 resid_pre"),
    )  # fmt: skip
    assert all(figure.data for figure in figures)
    for result in (shift, spill):
        assert result._repr_mimebundle_()
        assert isinstance(repr(result), str)


def test_a_row_or_multiplier_that_is_not_there_is_refused(shift, spill):
    with pytest.raises(ValueError, match="not one of the rows"):
        shift.summary("L9 resid_pre")
    with pytest.raises(ValueError, match="was not swept"):
        spill.plot(0.3)
    with pytest.raises(ValueError, match="There is no set 'x'"):
        shift.slopes("x")


def test_figures_show_missing_numbers_as_missing():
    nan = float("nan")
    home, away = ([1.0, nan], [0.5, nan], [1.5, nan]), {"a": ([1.0, 2.0], [0.5, 1.5], [1.5, 2.5])}
    figure = plots.shift_scatter(
        home, away, rows=("L0", "L1"), layers=[0, 1], unit="nats", title="t"
    )
    points = [trace for trace in figure.data if trace.name == "a"]
    assert len(points[0].x) == 1
    dots = plots.shift_dots(
        {"h": (1.0, 0.5, 1.5), "a": (2.0, 1.0, 3.0)},
        home="h", ratios={"a": (nan, nan, nan)}, unit="nats", title="t",
    )  # fmt: skip
    assert "× not known" in {note.text for note in dots.layout.annotations}


def test_the_heatmap_outlines_each_rows_own_set_once():
    figure = plots.gain_heatmap(
        [[1.0, 0.1], [2.0, 0.1], [0.0, 1.0]],
        rows=("r0", "r1", "r2"), sets=("a", "b"), homes=("a", "a", "b"), unit="nats", title="t",
    )  # fmt: skip
    frame = [trace for trace in figure.data if trace.name.startswith("home")][-1]
    assert sum(x is None for x in frame.x) == 2  # two blocks
    # Named rows read from the top: the last row lies lowest.
    assert figure.data[0].z[0][1] == 1.0
    with pytest.raises(ValueError, match="none of the sets"):
        plots.gain_heatmap([[1.0]], rows=("r",), sets=("a",), homes=("z",), unit="x", title="t")
