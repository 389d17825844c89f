"""Features at equal cost: lengths, maps and the comparison, against planted truth and by hand."""

import math
from dataclasses import replace

import pytest
import torch

from steerlens.analyses.features.compare_features import compare_features
from steerlens.analyses.features.contest import Contest
from steerlens.analyses.features.feature_comparison import FeatureComparison
from steerlens.analyses.features.feature_effects import fit_effects
from steerlens.analyses.features.feature_map import FeatureMap
from steerlens.analyses.features.measure_features import (
    feature_map,
    random_directions,
)
from steerlens.directions import Direction
from steerlens.directions.methods import DiffMean
from steerlens.interventions.residual import Add
from steerlens.measures import scores
from steerlens.measures.divergence import divergence
from steerlens.measures.equal_cost import (
    CalibrationError,
    equal_kl,
    lengths_of_equal_kl,
    lengths_of_equal_utility,
)
from steerlens.measures.reading import activations
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.saes.feature_edits import AblateFeature, ClampFeature
from steerlens.sites import Site
from tests.handmade import handmade, planted_rows, random_rows

TEXTS = ["the cat sat on the bed", "I like that good red wine", "you really think the dog ran"]
LIVE, DEAD = Site(2, "resid_pre"), Site(4, "resid_pre")


@pytest.fixture(scope="module")
def model(planted):
    return Model(planted.model)


@pytest.fixture(scope="module")
def live(planted):
    return handmade(planted_rows(planted), LIVE)


# Lengths


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
    from steerlens.data import ContrastPair

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


# Features x multipliers


@pytest.fixture(scope="module")
def mapped(model, live, planted_data):
    return feature_map(
        model, live, [1, 0, 9], planted_data[1], multipliers=(-0.5, 0.0, 0.25, 0.5), progress=False
    )


def test_the_map_of_features_is_alive_only_for_the_one_that_steers(mapped):
    gains = mapped.gains.mean(-1)
    assert float(gains[0].abs().max()) < 1e-3, "the distractor"
    assert float(gains[1, 0]) < -1 and float(gains[1, 3]) > 1
    assert mapped.above_null[1, [0, 3]].all() and not mapped.above_null[[0, 2]].any()
    assert mapped.null.p_value < 0.05
    assert "feature 0" in mapped.summary()


def test_the_map_of_features_is_that_of_their_vectors(model, live, mapped, planted_data):
    edit = Add(live.direction(0))
    swept = sweep(model, planted_data[1], [edit], (0.0, 0.25), progress=False)
    torch.testing.assert_close(mapped.propensities[1, [1, 2]], swept.log_odds[0])
    torch.testing.assert_close(mapped.utilities[1, [1, 2]], scores.utility(swept).value[0])


def test_the_null_of_features_is_two_sided(mapped):
    turned = replace(mapped, propensities=-mapped.propensities)
    assert torch.equal(turned.above_null, mapped.above_null)
    assert mapped.best is None or mapped.best[1] > 0
    assert turned.best is None or turned.best[1] < 0


def test_the_map_of_features_is_saved_and_drawn(mapped, tmp_path):
    again = FeatureMap.load(mapped.save(tmp_path))
    assert again.features == (1, 0, 9) and again.budget == mapped.budget
    torch.testing.assert_close(again.random, mapped.random)
    figure = mapped.plot()
    assert [list(row) for row in figure.data[0].z] == mapped.gains.mean(-1).tolist()
    assert list(figure.layout.yaxis.ticktext) == ["1", "0", "9"]
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1], "the first is on top"


@pytest.mark.parametrize("operation", ["clamp", "ablate"])
def test_clamping_and_ablating_are_mapped_against_random_features(
    model, live, planted_data, operation
):
    known = replace(live, max_activation=torch.full((live.d_sae,), 2.0))
    made = feature_map(model, known, [0], planted_data[1], operation=operation, progress=False)
    edit = {"clamp": ClampFeature, "ablate": AblateFeature}[operation](known, 0)
    odds = sweep(model, planted_data[1], [edit], (0.0, 1.0), progress=False).log_odds[0]
    torch.testing.assert_close(made.gains[0, -1], odds[1] - odds[0], atol=1e-3, rtol=1e-3)
    assert made.above_null[0, -1], "random features do not bear on the answer"
    assert (float(made.gains[0, -1].mean()) > 0) == (operation == "clamp")
    assert operation in made.plot().layout.title.text


def test_too_few_nulls_are_refused(model, live, planted_data):
    with pytest.raises(ValueError, match="19 nulls"):
        feature_map(model, live, [0], planted_data[1], nulls=5)


def test_random_directions_are_units_of_their_own_seed(live):
    one, other = random_directions(live, 3, seed=1), random_directions(live, 3, seed=2)
    assert all(d.norm == pytest.approx(1) and d.site == live.site for d in one)
    assert abs(one[0].cosine(other[0])) < 0.99


# The comparison


@pytest.fixture(scope="module")
def settings(planted_data):
    """As little work as shows what is to be shown."""
    neutral = [pair.prompt + pair.positive for pair in planted_data[1]][:12]
    return {"k": 2, "nulls": 19, "targeted": 0, "neutral": neutral, "progress": False}


@pytest.fixture(scope="module")
def compared(model, planted, planted_data, settings):
    saes = [handmade(planted_rows(planted), site) for site in (LIVE, DEAD)]
    return compare_features(model, saes, *planted_data, **settings)


def test_the_feature_that_steers_is_found_and_beats_chance(compared):
    contest = compared.at_equal_kl
    arm = contest.arms.index("feature by contrast")
    assert contest.site("feature by contrast") == 0, "the live site"
    assert (int(contest.features[arm, 0]), int(contest.senses[arm, 0])) == (0, 1)
    assert contest.gain("feature by contrast").low > 0
    assert contest.p_value("feature by contrast", "random direction") == 0.05
    assert contest.gain("random direction").value < contest.gain("feature by contrast").value / 2


def test_diffmean_pays_for_the_distractors_it_holds(compared):
    """DiffMean is the direction and what else differs; at equal cost it gains no more."""
    over = compared.at_equal_kl.difference("feature by contrast", "DiffMean")
    assert over.value > -0.05
    assert compared.at_equal_kl.gain("DiffMean").low > 0


def test_what_was_found_among_features_is_held_against_as_many_random_directions(compared):
    rows = {row.arm: row for row in compared.rows("kl", 0)}
    contest = compared.at_equal_kl
    a, b = (
        contest.arms.index(name) for name in ("feature by effect", "random direction by effect")
    )
    expected = float((contest.gains[a, 0] - contest.gains[b, 0]).mean())
    assert rows["feature by effect"].over_searched.value == pytest.approx(expected, abs=1e-5)
    assert rows["feature by effect"].over_searched.low > 0, "only one direction steers"
    assert math.isnan(rows["random direction by effect"].over_searched.value)


def test_every_arm_costs_the_same(compared):
    contest = compared.at_equal_kl
    cost = contest.kl[:, 0].mean(-1)
    known = cost.isfinite()
    assert int(known.sum()) >= 4, cost
    assert float((cost[known] - 0.1).abs().max()) < 0.03


def test_what_steers_nothing_is_not_measured_or_gains_nothing(compared):
    """Past the reading block the direction costs nothing; what has a cost there gains nothing."""
    row = compared.rows("kl", 1)[0]
    assert math.isnan(row.gain.value) or abs(row.gain.value) < 0.05


def test_the_report_has_no_part_in_the_choice(model, live, planted_data, settings, compared):
    fit, choose, report = planted_data
    turned = replace(report, pairs=tuple(pair.flipped() for pair in report))
    other = compare_features(model, [live], fit, choose, turned, **settings).at_equal_kl
    same = compared.at_equal_kl
    assert torch.equal(other.features[:, 0], same.features[:, 0])
    torch.testing.assert_close(other.lengths[:, 0], same.lengths[:, 0], equal_nan=True)
    torch.testing.assert_close(
        other.gains[:, 0], -same.gains[:, 0], equal_nan=True, atol=1e-4, rtol=1e-4
    )


def test_a_reported_gain_is_that_of_the_attached_vector(model, planted, planted_data, compared):
    contest = compared.at_equal_kl
    arm = contest.arms.index("DiffMean")
    read = activations(model, planted_data[0], [LIVE], progress=False)
    direction = read.direction(LIVE, DiffMean()) * float(contest.senses[arm, 0])
    edit = Add(direction, unit=float(contest.lengths[arm, 0]))
    odds = sweep(model, planted_data[2], [edit], (0.0, 1.0), progress=False).log_odds[0]
    torch.testing.assert_close(contest.gains[arm, 0], odds[1] - odds[0])


def test_targeted_steering_competes_where_it_is_asked_for(model, live, planted_data, settings):
    made = compare_features(model, [live], *planted_data, **{**settings, "k": 1, "targeted": 12})
    assert "SAE-TS" in made.at_equal_kl.arms
    assert made.made_by["effects_explained"][0] is not None


def test_what_was_found_with_other_settings_is_not_taken_for_this(
    model, live, planted_data, settings, compared
):
    part = replace(compared, made_by={**compared.made_by, "hashes": [live.hash]})
    asked = {**settings, "have": lambda site: part}
    with pytest.raises(ValueError, match="another k, seed, budget"):
        compare_features(
            model, [live], *planted_data, **{**asked, "k": 1, "seed": 7, "budget": 0.2}
        )


def test_an_arm_without_candidates_at_a_site_is_a_hole_there(
    model, planted, planted_data, settings
):
    """An effect map that knows of no feature gives SAE-TS nothing to aim at."""
    saes = [handmade(planted_rows(planted), site) for site in (LIVE, DEAD)]
    prompts = [pair.prompt for pair in planted_data[1]][:4]
    fitted = fit_effects(model, saes[0], prompts, vectors=12, new_tokens=3, progress=False)
    blind = replace(fitted, sae=saes[1], weights=torch.zeros_like(fitted.weights))
    found = compare_features(
        model, saes, *planted_data, **{**settings, "effects": [fitted, blind], "k": 1}
    )
    arm = found.at_equal_kl.arms.index("SAE-TS")
    assert found.at_equal_kl.gains[arm, 1].isnan().all()
    assert int(found.at_equal_kl.features[arm, 1]) == -1


def test_the_comparison_is_saved_and_drawn(compared, tmp_path):
    again = FeatureComparison.load(compared.save(tmp_path))
    assert again.at_equal_kl.arms == compared.at_equal_kl.arms
    for cost in ("kl", "utility"):
        for name, values in compared.contest(cost).tensors("").items():
            torch.testing.assert_close(
                again.contest(cost).tensors("")[name], values, equal_nan=True
            )
        lines = (tmp_path / f"comparison_at_equal_{cost}.csv").read_text().splitlines()
        assert len(lines) == 1 + len(compared.at_equal_kl.arms)
        assert again.summary(cost) == compared.summary(cost)
    curves = {trace.name for trace in compared.plot().data}
    assert {"feature by contrast", "DiffMean", "random feature"} <= curves
    drawn = compared.plot_candidates()
    assert drawn.layout.xaxis.title.text == "rank by contrast"
    written = next(trace.text for trace in drawn.data if trace.name == "written values")
    assert written[0].startswith(f"{int(compared.candidates[0, 0])}: "), "features are named"
    assert "DiffMean" in compared._repr_html_()


def test_comparisons_that_would_mislead_are_refused(model, live, planted_data):
    fit, choose, report = planted_data
    with pytest.raises(ValueError, match="share"):
        compare_features(model, [live], fit, choose, choose, progress=False)
    with pytest.raises(ValueError, match="Two SAEs"):
        compare_features(model, [live, live], fit, choose, report, progress=False)
    with pytest.raises(ValueError, match="19 nulls"):
        compare_features(model, [live], fit, choose, report, nulls=3, progress=False)
    with pytest.raises(ValueError, match="no effect map"):
        compare_features(model, [live], fit, choose, report, effects=[], progress=False)


# The contest's arithmetic


@pytest.fixture
def contest():
    """Two arms and one control at two sites, three repetitions, two questions, two texts."""
    nan = math.nan
    gains = torch.tensor([[[1.0, 3.0], [5.0, 7.0]], [[0.0, 1.0], [nan, nan]]])
    control = torch.tensor([[[1.0, 1], [4, 4]], [[2, 2], [0, 0]], [[0, 0], [9, 9]]])[None]
    shape = (1, 3, 2, 2)
    return Contest(
        arms=("A", "DiffMean"),
        controls=("random feature",),
        features=torch.tensor([[3, 4], [-1, -1]]),
        senses=torch.ones(2, 2).long(),
        gains=gains,
        utilities=torch.zeros(2, 2, 2),
        kl=torch.full((2, 2, 2), 0.1),
        lengths=torch.ones(2, 2),
        chosen_gains=torch.tensor([[2.0, 1.0], [0.5, nan]]),
        control_gains=control,
        control_utilities=torch.zeros(shape),
        control_kl=torch.full(shape, 0.1),
        control_lengths=torch.ones(1, 3, 2),
        control_chosen_gains=torch.tensor([[[0.0, 1.0], [1.0, 0.0], [nan, 2.0]]]),
    )


def test_an_arm_stands_where_it_did_best_when_choosing(contest):
    assert (contest.site("A"), contest.site("DiffMean")) == (0, 0)
    assert contest.gain("A").value == 2.0 and contest.gain("A", 1).value == 6.0
    assert math.isnan(contest.gain("DiffMean", 1).value)


def test_repetitions_of_a_control_each_choose_their_own_site(contest):
    assert contest.null_gains("random feature").tolist() == [4.0, 2.0, 9.0]
    assert contest.null_gains("random feature", 0).tolist() == [1.0, 2.0, 0.0]
    assert contest.gain("random feature").value == 5.0


def test_p_counts_repetitions_that_gain_as_much(contest):
    assert contest.p_value("A", "random feature", 0) == 0.5  # 2, against 1, 2 and 0
    assert contest.p_value("A", "random feature") == 1.0  # 2, against 4, 2 and 9
    assert math.isnan(contest.p_value("DiffMean", "random feature", 1))


def test_differences_are_paired_by_question(contest):
    found = contest.difference("A", "DiffMean")
    assert found.value == pytest.approx(1.5)  # 1 - 0 and 3 - 1
    assert math.isnan(contest.difference("A", "DiffMean", 1).value)
