"""Maps of features and multipliers, against planted truth and by hand."""

from dataclasses import replace

import pandas
import pytest
import torch

from steerlens.analyses.features.feature_map import FeatureMap
from steerlens.analyses.features.map_features import feature_map
from steerlens.analyses.features.random_directions import random_directions
from steerlens.interventions.residual import Add
from steerlens.measures import scores
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.saes.feature_edits import AblateFeature, ClampFeature
from steerlens.sites import Site
from tests.handmade import handmade, planted_rows

LIVE = Site(2, "resid_pre")


@pytest.fixture(scope="module")
def model(planted):
    return Model(planted.model)


@pytest.fixture(scope="module")
def live(planted):
    return handmade(planted_rows(planted), LIVE)


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
    negated = replace(mapped, propensities=-mapped.propensities)
    assert torch.equal(negated.above_null, mapped.above_null)
    assert mapped.best is None or mapped.best[1] > 0
    assert negated.best is None or negated.best[1] < 0


def test_the_map_of_features_is_saved_and_drawn(mapped, tmp_path):
    again = FeatureMap.load(mapped.save(tmp_path))
    assert again.features == (1, 0, 9) and again.budget == mapped.budget
    torch.testing.assert_close(again.random, mapped.random)
    figure = mapped.plot()
    rows = dict(zip(figure.layout.yaxis.ticktext, figure.data[0].z, strict=True))
    assert list(rows) == ["feature 9", "feature 0", "feature 1"], "upwards: the first is on top"
    assert list(rows["feature 1"]) == mapped.gains.mean(-1)[0].tolist()
    assert list(rows["feature 9"]) == mapped.gains.mean(-1)[2].tolist()
    table = pandas.read_csv(tmp_path / "feature_map.csv")
    assert len(table) == 3 * 4 and {"gain_low", "kl", "above_null"} <= set(table.columns)


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


def test_a_map_without_nulls_has_no_p_value_and_says_so(model, live, mapped, planted_data):
    found = feature_map(
        model, live, [1, 0, 9], planted_data[1], multipliers=(-0.5, 0.0, 0.25, 0.5), nulls=0,
        progress=False,
    )  # fmt: skip
    assert found.null is None and "no p-value" in found.summary()
    torch.testing.assert_close(found.gains, mapped.gains)
    assert "above_null" not in found.to_frame().columns
    found.plot()


def test_random_directions_are_units_of_their_own_seed(live):
    one, other = random_directions(live, 3, seed=1), random_directions(live, 3, seed=2)
    assert all(d.norm == pytest.approx(1) and d.site == live.site for d in one)
    assert abs(one[0].cosine(other[0])) < 0.99
