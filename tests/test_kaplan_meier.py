"""Kaplan and Meier's curve, its interval and its mean, against calculations by hand."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from steerlens.stats.kaplan_meier import kaplan_meier, log_rank

# Ten were watched; a plus is censored: 1 2 2+ 3 3 4+ 5 6+ 7 7+
TIMES = [3, 1, 2, 2, 3, 4, 7, 5, 6, 7]
ENDED = [True, True, True, False, True, False, True, True, False, False]


def test_the_curve_is_that_of_a_calculation_by_hand():
    curve = kaplan_meier(TIMES, ENDED)
    assert curve.times.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert curve.at_risk.tolist() == [10, 9, 7, 5, 4, 3, 2]
    assert curve.ended.tolist() == [1, 1, 2, 0, 1, 0, 1]
    s = [9 / 10, 8 / 10, 8 / 10 * 5 / 7, 8 / 10 * 5 / 7, 8 / 10 * 5 / 7 * 3 / 4]
    s += [s[-1], s[-1] / 2]
    np.testing.assert_allclose(curve.left, s)
    assert curve.median == 5  # 0.43 are left from then on
    assert curve.at(0.5).value == 1 and curve.at(2.9).value == pytest.approx(0.8)
    assert curve.at(100).value == pytest.approx(s[-1])


def test_the_interval_is_greenwoods_on_the_scale_of_log_log():
    curve = kaplan_meier(TIMES, ENDED)
    n, d = curve.at_risk, curve.ended
    inside = (d / (n * (n - d))).cumsum()
    z = scipy_stats.norm.ppf(0.975)
    reach = z * np.sqrt(inside) / np.log(curve.left)
    np.testing.assert_allclose(curve.low, curve.left ** np.exp(-reach), rtol=1e-9)
    np.testing.assert_allclose(curve.high, curve.left ** np.exp(reach), rtol=1e-9)


def test_the_restricted_mean_is_the_area_under_the_curve():
    curve = kaplan_meier(TIMES, ENDED)
    grid = np.arange(0, 6.5, 1e-3) + 5e-4
    area = np.mean([curve.at(float(t)).value for t in grid]) * 6.5
    found = curve.mean_until(6.5)
    assert found.value == pytest.approx(area, abs=2e-3)
    # Greenwood: the area from each end on, squared, times d / (n (n - d)).
    variance = 0.0
    for t, n, d in zip(curve.times, curve.at_risk, curve.ended, strict=True):
        if t < 6.5:
            later = sum(curve.at(float(x)).value * 1e-3 for x in grid if x > t)
            variance += later**2 * d / (n * (n - d))
    assert found.high - found.value == pytest.approx(1.96 * variance**0.5, rel=5e-3)
    assert kaplan_meier([5] * 9, [False] * 9).mean_until(5).value == 5


def test_a_curve_at_an_end_has_an_interval_and_one_of_few_has_none():
    still = kaplan_meier([4] * 10, [False] * 10)
    assert still.at(4) == pytest.approx((1, 0.025 ** (1 / 10), 1))
    assert still.median == math.inf
    gone = kaplan_meier([4] * 10, [True] * 10)
    assert gone.at(4) == pytest.approx((0, 0, 1 - 0.025 ** (1 / 10)))
    assert gone.at(3).low == pytest.approx(0.025 ** (1 / 10))
    few = kaplan_meier([1, 2, 3], [True, False, True])
    assert not few.at(2).known and not few.at(0.5).known and not few.mean_until(3).known


def test_the_log_rank_test_is_that_of_a_calculation_by_hand():
    one, other = (
        (TIMES, ENDED),
        ([8, 9, 9, 9, 9, 5, 9, 9], [True, *[False] * 4, True, False, False]),
    )
    observed = expected = variance = 0.0
    for t in sorted(
        {x for x, e in zip((*TIMES, *other[0]), (*ENDED, *other[1]), strict=True) if e}
    ):
        risk = [sum(x >= t for x in group[0]) for group in (one, other)]
        ends = [sum(x == t and e for x, e in zip(*group, strict=True)) for group in (one, other)]
        n, d = sum(risk), sum(ends)
        observed += ends[0]
        expected += d * risk[0] / n
        if n > 1:
            variance += d * risk[0] / n * risk[1] / n * (n - d) / (n - 1)
    p = float(2 * scipy_stats.norm.sf(abs(observed - expected) / variance**0.5))
    assert log_rank(one, other) == pytest.approx(p) and p < 0.05
    assert log_rank(([1, 2], [False, False]), ([3], [False])) == 1


@pytest.mark.parametrize(
    ("times", "ended", "why"),
    [([], [], "at least one time"), ([1.0], [True, False], "for each"), ([0.0], [True], "above 0"),
     ([math.nan], [True], "above 0")],
)  # fmt: skip
def test_what_has_no_curve_is_refused(times, ended, why):
    with pytest.raises(ValueError, match=why):
        kaplan_meier(times, ended)
