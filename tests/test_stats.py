"""Statistics with known answers: against other libraries, and by simulation."""

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from steerlens.stats import (
    Interval,
    bootstrap_means,
    interval_of_mean,
    max_statistic,
    mean_interval,
    monotonicity,
    proportion_interval,
    rank_correlation,
    simultaneous_interval,
    steerability_slope,
)

MULTIPLIERS = torch.tensor([-2.0, -0.5, 0.0, 1.0, 3.0])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_slopes_are_those_of_least_squares():
    y = normal(3, 4, 5)
    expected = np.polyfit(MULTIPLIERS.numpy(), y.view(12, 5).T.numpy(), 1)[0].reshape(3, 4)
    found = steerability_slope(MULTIPLIERS, y)
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), atol=1e-5, rtol=1e-5)


def test_a_slope_needs_two_different_multipliers():
    with pytest.raises(ValueError, match=r"multipliers=\[1.0, 1.0\]: all are equal. Pass at least"):
        steerability_slope(torch.ones(2), torch.ones(2))


def test_monotonicity_is_spearmans_correlation_ties_included():
    y = normal(20, 5).mul(2).round()
    found = monotonicity(MULTIPLIERS, y)
    for row, value in zip(y, found, strict=True):
        if row.unique().numel() == 1:
            assert bool(value.isnan())
        else:
            expected = scipy_stats.spearmanr(MULTIPLIERS.numpy(), row.numpy()).statistic
            assert float(value) == pytest.approx(expected, abs=1e-5)
    assert bool(monotonicity(MULTIPLIERS, torch.ones(1, 5)).isnan().all())


def test_bootstrap_means_spread_as_the_standard_error():
    values = normal(2, 50)
    means = bootstrap_means(values, draws=4000)
    assert means.shape == (4000, 2)
    expected = values.std(-1, correction=0) / 50**0.5
    torch.testing.assert_close(means.std(0), expected, atol=0, rtol=0.05)
    torch.testing.assert_close(means.mean(0), values.mean(-1), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("draw", "truth", "n", "least"),
    [
        (lambda x: x, 0.0, 20, 0.93),
        (lambda x: x, 0.0, 8, 0.91),
        (lambda x: x.exp(), float(np.exp(0.5)), 40, 0.88),
    ],
    ids=["normal, 20 examples", "normal, 8 examples", "skewed, 40 examples"],
)
def test_intervals_hold_the_truth_as_often_as_they_say(draw, truth, n, least):
    """At level 0.95, over 1500 simulated data sets."""
    _, low, high = mean_interval(draw(normal(1500, n, seed=n)))
    held = float(((low <= truth) & (truth <= high)).float().mean())
    assert least <= held <= 0.975


def test_intervals_do_better_than_plain_percentiles_on_skewed_data():
    values, truth = normal(1500, 15, seed=1).exp(), float(np.exp(0.5))
    _, low, high = mean_interval(values)
    plain = torch.quantile(bootstrap_means(values), torch.tensor([0.025, 0.975]), dim=0)
    ours, theirs = (
        ((lo <= truth) & (truth <= hi)).float().mean() for lo, hi in ((low, high), plain)
    )
    assert float(ours) > float(theirs) + 0.02


def test_intervals_move_with_the_data():
    values = normal(3, 12, seed=2).double()
    mean, low, high = mean_interval(values)
    assert bool((low < mean).all() & (mean < high).all())
    for moved, expected in zip(mean_interval(5 * values + 1e6), (mean, low, high), strict=True):
        torch.testing.assert_close(moved, 5 * expected + 1e6, atol=1e-4, rtol=0)
    negative = mean_interval(-values)
    torch.testing.assert_close(negative[1], -high, atol=1e-5, rtol=1e-5)


def test_a_large_mean_does_not_drown_the_spread():
    values = normal(12, seed=2)
    near, far = interval_of_mean(values), interval_of_mean(values + 1000)
    assert far.high - far.low == pytest.approx(near.high - near.low, rel=0.01)


def test_examples_that_agree_allow_for_those_that_were_not_seen():
    mean, low, high = mean_interval(torch.full((2, 24), 3.0))
    missed = 1 - 0.025 ** (1 / 24)
    torch.testing.assert_close(low, mean * (1 - missed))
    torch.testing.assert_close(high, mean * (1 + missed))
    nothing = mean_interval(torch.zeros(1, 24))
    assert float(nothing[0]) == 0 and bool(nothing[1].isnan()) and bool(nothing[2].isnan())


@pytest.mark.parametrize("n", [1, 2, 7])
def test_few_examples_have_a_mean_and_no_interval(n):
    mean, low, high = mean_interval(torch.ones(3, n))
    assert torch.equal(mean, torch.ones(3))
    assert bool(low.isnan().all() & high.isnan().all())
    with pytest.raises(ValueError, match="needs examples; got none"):
        mean_interval(torch.ones(3, 0))


def test_an_interval_prints_itself():
    assert str(Interval(-0.123456, -1.0, 1e-5)) == "-0.123 [-1, 1e-05]"


def test_shares_have_wilsons_interval():
    found = proportion_interval(0, 20)
    assert found.value == 0
    assert found.low == pytest.approx(0, abs=1e-12)
    assert found.high == pytest.approx(0.1611, abs=1e-4)  # Wilson: z² / (n + z²)


@pytest.mark.parametrize("nulls", [19, 21, 50])
def test_the_best_cell_of_nothing_passes_as_rarely_as_promised(nulls):
    """600 searched maps of correlated, unequal, heavy-tailed cells in which nothing is there."""
    generator = torch.Generator().manual_seed(nulls)
    scale = torch.tensor([0.1, 1.0, 10.0])
    passed = 0
    for _ in range(600):
        noise = torch.randn(nulls + 1, 4, 3, generator=generator)
        maps = (noise + torch.randn(nulls + 1, 1, 1, generator=generator)) ** 3 * scale
        found = max_statistic(maps[0], maps[1:])
        above = bool(found.above.any())
        assert above == (found.p_value <= 0.05 + 1e-9), "the best cell has the p-value of the map"
        assert float(found.p_values.min()) == pytest.approx(found.p_value)
        passed += above
    assert passed <= scipy_stats.binom.ppf(0.999, 600, 0.05)
    exact = int(0.05 * (nulls + 1) + 1e-9) / (nulls + 1)
    assert passed >= scipy_stats.binom.ppf(0.001, 600, exact)


def test_a_cell_that_stands_out_passes_and_a_still_one_never_does():
    nulls = normal(39, 2, 3)
    nulls[:, 0, 0] = 0  # multiplier 0
    observed = torch.zeros(2, 3)
    observed[1, 1] = 8
    found = max_statistic(observed, nulls)
    assert found.p_value == pytest.approx(1 / 40)
    assert found.above.nonzero().tolist() == [[1, 1]]
    assert float(found.p_values[0, 0]) == 1.0
    assert found.outstanding.shape == (39,)


def test_too_few_nulls_for_the_level_are_refused():
    with pytest.raises(ValueError, match="18 null maps .* level 0.95: at least 19 are needed"):
        max_statistic(torch.ones(2), normal(18, 2))
    with pytest.raises(ValueError, match="at least 99"):
        max_statistic(torch.ones(2), normal(50, 2), level=0.99)


def test_rank_correlation_is_scipys_with_an_interval_that_holds_the_truth():
    pairs = normal(300, 30, 2, seed=4)
    x, y = pairs[..., 0], 0.6 * pairs[..., 0] + 0.8 * pairs[..., 1]
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman's of a normal pair
    found = [rank_correlation(a, b) for a, b in zip(x, y, strict=True)]
    expected = scipy_stats.spearmanr(x[0].numpy(), y[0].numpy()).statistic
    assert found[0].value == pytest.approx(expected)
    held = sum(f.low <= truth <= f.high for f in found) / 300
    assert 0.91 <= held <= 0.985


def test_a_perfect_ranking_of_a_few_is_not_certain():
    few = rank_correlation(torch.arange(5.0), torch.arange(5.0))
    many = rank_correlation(torch.arange(50.0), torch.arange(50.0))
    assert few.value == few.high == pytest.approx(1.0)
    assert few.low < 0.9 < many.low


@pytest.mark.parametrize("y", [torch.ones(6), torch.arange(3.0)], ids=["constant", "three cells"])
def test_a_rank_correlation_of_too_little_is_unknown(y):
    assert np.isnan(rank_correlation(torch.arange(float(len(y))), y)).all()


@pytest.mark.parametrize("odd", [1, 2, 3, 5])
def test_an_interval_of_nearly_constant_data_stays_near_it(odd):
    values = torch.ones(200)
    values[:odd] = 0.5
    mean, low, high = mean_interval(values)
    assert 0.95 < float(low) <= float(mean) <= float(high) <= 1.01


def test_cells_that_are_not_numbers_are_refused():
    nulls = torch.randn(19, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="NaN or infinite"):
        max_statistic(torch.tensor([0.1, float("nan"), 0.2]), nulls)


def test_simultaneous_intervals_cover_the_best_of_many_cells():
    """Twenty cells of nothing: the best one's ordinary interval misses, the simultaneous does not."""
    generator = torch.Generator().manual_seed(0)
    ordinary, together, repeats = 0, 0, 200
    for _ in range(repeats):
        values = torch.randn(20, 40, generator=generator)
        best = int(values.mean(-1).argmax())
        ordinary += int(mean_interval(values[best], draws=300)[1] <= 0)
        low, high = simultaneous_interval(values, draws=300)[1:]
        together += int(bool(low[best] <= 0) and bool(high[best] >= 0))
    assert ordinary / repeats < 0.8
    assert together / repeats >= 0.93


def test_a_simultaneous_interval_is_wider_than_one_by_itself_and_flat_cells_do_no_harm():
    values = torch.randn(5, 30, generator=torch.Generator().manual_seed(1))
    values = torch.cat([values, torch.zeros(1, 30)])
    _, low, high = simultaneous_interval(values)
    _, narrow_low, narrow_high = mean_interval(values)
    assert bool(((high - low)[:5] > (narrow_high - narrow_low)[:5]).all())
    assert float(low[5]) == float(high[5]) == 0.0
