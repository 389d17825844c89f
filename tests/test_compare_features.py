"""Features compared at equal cost, against planted truth and by hand."""

import math
from dataclasses import replace

import pandas
import pytest
import torch

from steerlens.analyses.features.compare_features import compare_features
from steerlens.analyses.features.feature_comparison import FeatureComparison
from steerlens.analyses.features.feature_effects import fit_effects
from steerlens.analyses.features.paired_comparison import PairedComparison
from steerlens.directions.methods import DiffMean
from steerlens.interventions.residual import Add
from steerlens.measures.reading import activations
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.report.section import Table
from steerlens.sites import Site
from steerlens.store.cells import Cells
from steerlens.store.files import DamagedFile
from tests.handmade_saes import handmade, planted_rows

LIVE, DEAD = Site(2, "resid_pre"), Site(4, "resid_pre")


@pytest.fixture(scope="module")
def model(planted):
    return Model(planted.model)


@pytest.fixture(scope="module")
def live(planted):
    return handmade(planted_rows(planted), LIVE)


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
    numbers = compared.at_equal_kl
    arm = numbers.arms.index("feature by contrast")
    assert numbers.site("feature by contrast") == 0, "the live site"
    assert (int(numbers.features[arm, 0]), int(numbers.signs[arm, 0])) == (0, 1)
    assert numbers.gain("feature by contrast").low > 0
    assert numbers.p_value("feature by contrast", "random direction") == 0.05
    assert numbers.gain("random direction").value < numbers.gain("feature by contrast").value / 2


def test_diffmean_pays_for_the_distractors_it_holds(compared):
    """DiffMean is the direction and what else differs; at equal cost it gains no more."""
    over = compared.at_equal_kl.difference("feature by contrast", "DiffMean")
    assert over.value > -0.05
    assert compared.at_equal_kl.gain("DiffMean").low > 0


def test_what_was_found_among_features_is_compared_with_as_many_random_directions(compared):
    rows = {row.arm: row for row in compared.compared("kl", 0)}
    numbers = compared.at_equal_kl
    a, b = (
        numbers.arms.index(name) for name in ("feature by effect", "random direction by effect")
    )
    expected = float((numbers.gains[a, 0] - numbers.gains[b, 0]).mean())
    assert rows["feature by effect"].over_searched.value == pytest.approx(expected, abs=1e-5)
    assert rows["feature by effect"].over_searched.low > 0, "only one direction steers"
    assert math.isnan(rows["random direction by effect"].over_searched.value)


def test_every_arm_costs_the_same(compared):
    numbers = compared.at_equal_kl
    cost = numbers.kl[:, 0].mean(-1)
    known = cost.isfinite()
    assert int(known.sum()) >= 4, cost
    assert float((cost[known] - 0.1).abs().max()) < 0.03


def test_what_steers_nothing_is_not_measured_or_gains_nothing(compared):
    """Past the reading block the direction costs nothing; what has a cost there gains nothing."""
    row = compared.compared("kl", 1)[0]
    assert math.isnan(row.gain.value) or abs(row.gain.value) < 0.05


def test_the_report_has_no_part_in_the_choice(model, live, planted_data, settings, compared):
    fit, choose, report = planted_data
    flipped = replace(report, pairs=tuple(pair.flipped() for pair in report))
    other = compare_features(model, [live], fit, choose, flipped, **settings).at_equal_kl
    same = compared.at_equal_kl
    assert torch.equal(other.features[:, 0], same.features[:, 0])
    torch.testing.assert_close(other.lengths[:, 0], same.lengths[:, 0], equal_nan=True)
    torch.testing.assert_close(
        other.gains[:, 0], -same.gains[:, 0], equal_nan=True, atol=1e-4, rtol=1e-4
    )


def test_a_reported_gain_is_that_of_the_attached_vector(model, planted, planted_data, compared):
    numbers = compared.at_equal_kl
    arm = numbers.arms.index("DiffMean")
    read = activations(model, planted_data[0], [LIVE], progress=False)
    direction = read.direction(LIVE, DiffMean()) * float(numbers.signs[arm, 0])
    edit = Add(direction, unit=float(numbers.lengths[arm, 0]))
    odds = sweep(model, planted_data[2], [edit], (0.0, 1.0), progress=False).log_odds[0]
    torch.testing.assert_close(numbers.gains[arm, 0], odds[1] - odds[0])


def test_targeted_steering_competes_where_it_is_asked_for(model, live, planted_data, settings):
    made = compare_features(model, [live], *planted_data, **{**settings, "k": 1, "targeted": 12})
    assert "SAE-TS" in made.at_equal_kl.arms
    assert made.made_by["effects_explained"][0] is not None


def assert_same_numbers(found, expected):
    """The same bits, at the sites of `found`, which are the first of `expected`."""
    for cost in ("kl", "utility"):
        for name, values in expected.at_equal(cost).tensors().items():
            axis = 2 if name.startswith("control_") else 1
            first = values.narrow(axis, 0, len(found.sites)) if values.ndim > 1 else values
            torch.testing.assert_close(
                found.at_equal(cost).tensors()[name], first, equal_nan=True, atol=0, rtol=0
            )


def test_kept_numbers_are_taken_for_the_same_settings_only(
    model, live, planted_data, settings, compared, tmp_path
):
    cells = Cells(tmp_path)
    whole = compare_features(model, [live], *planted_data, **settings, cells=cells)
    again = compare_features(model, [live], *planted_data, **settings, cells=cells)
    assert_same_numbers(again, whole)
    assert_same_numbers(whole, compared)
    with pytest.raises(DamagedFile, match="budget .* k .* seed "):
        compare_features(
            model, [live], *planted_data, **{**settings, "k": 1, "seed": 7, "budget": 0.2},
            cells=cells,
        )  # fmt: skip


def test_an_arm_without_candidates_at_a_site_is_a_hole_there(
    model, planted, planted_data, settings
):
    """An effect map in which no vector moves a feature gives SAE-TS no candidate."""
    saes = [handmade(planted_rows(planted), site) for site in (LIVE, DEAD)]
    prompts = [pair.prompt for pair in planted_data[1]][:4]
    fitted = fit_effects(model, saes[0], prompts, vectors=12, new_tokens=3, progress=False)
    blind = replace(
        fitted, sae=saes[1].facts, sae_hash=saes[1].hash, weights=torch.zeros_like(fitted.weights)
    )
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
        for name, values in compared.at_equal(cost).tensors().items():
            torch.testing.assert_close(again.at_equal(cost).tensors()[name], values, equal_nan=True)
        assert again.summary(cost) == compared.summary(cost)
    table = pandas.read_csv(tmp_path / "comparison.csv")
    best = table[(table.layer == "best") & ~table.arm.isin(compared.controls)]
    assert len(best) == 2 * len(compared.at_equal_kl.arms)
    curves = {trace.name for trace in compared.plot().data}
    assert {"feature by contrast", "DiffMean", "random feature"} <= curves
    drawn = compared.plot_candidates()
    assert drawn.layout.xaxis.title.text == "rank by contrast"
    written = next(trace.text for trace in drawn.data if trace.name == "written values")
    assert written[0].startswith(f"{int(compared.candidates[0, 0])}: "), "features are named"
    section = compared.section({})
    tables = [block for block in section.blocks if isinstance(block, Table)]
    assert [row[0] for row in tables[0].rows] == list(compared.arms)
    assert "The feature found by effect" in section.answer[0]
    assert len(section.answer) == 1 and "p-values" not in section.blocks[0].text


def test_without_random_searches_there_are_no_p_values(model, live, planted_data, settings):
    found = compare_features(model, [live], *planted_data, **{**settings, "nulls": 0})
    assert all(math.isnan(row.p_random_feature) for row in found.compared())
    assert "no random searches" in found.summary() and " p " not in found.summary()
    assert "there are no p-values" in found.section({}).blocks[0].text
    assert "random feature" not in {trace.name for trace in found.plot().data}


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


# The numbers's arithmetic


@pytest.fixture
def numbers():
    """Two arms and one control at two sites, three repetitions, two questions, two texts."""
    nan = math.nan
    gains = torch.tensor([[[1.0, 3.0], [5.0, 7.0]], [[0.0, 1.0], [nan, nan]]])
    control = torch.tensor([[[1.0, 1], [4, 4]], [[2, 2], [0, 0]], [[0, 0], [9, 9]]])[None]
    shape = (1, 3, 2, 2)
    return PairedComparison(
        arms=("A", "DiffMean"),
        controls=("random feature",),
        features=torch.tensor([[3, 4], [-1, -1]]),
        signs=torch.ones(2, 2).long(),
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


def test_an_arm_stands_where_it_did_best_when_choosing(numbers):
    assert (numbers.site("A"), numbers.site("DiffMean")) == (0, 0)
    assert numbers.gain("A").value == 2.0 and numbers.gain("A", 1).value == 6.0
    assert math.isnan(numbers.gain("DiffMean", 1).value)


def test_repetitions_of_a_control_each_choose_their_own_site(numbers):
    assert numbers.null_gains("random feature").tolist() == [4.0, 2.0, 9.0]
    assert numbers.null_gains("random feature", 0).tolist() == [1.0, 2.0, 0.0]
    assert numbers.gain("random feature").value == 5.0


def test_p_counts_repetitions_that_gain_as_much(numbers):
    assert numbers.p_value("A", "random feature", 0) == 0.5  # 2, against 1, 2 and 0
    assert numbers.p_value("A", "random feature") == 1.0  # 2, against 4, 2 and 9
    assert math.isnan(numbers.p_value("DiffMean", "random feature", 1))


def test_differences_are_paired_by_question(numbers):
    found = numbers.difference("A", "DiffMean")
    assert found.value == pytest.approx(1.5)  # 1 - 0 and 3 - 1
    assert math.isnan(numbers.difference("A", "DiffMean", 1).value)
