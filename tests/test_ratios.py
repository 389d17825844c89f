"""Differences and ratios of two means have intervals that hold the truth."""

import pytest
import torch

from steerlens.analyses.ratios import difference_of_means, ratio_of_means


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


def test_a_ratio_to_a_mean_of_about_0_is_not_a_number():
    generator = torch.Generator().manual_seed(2)
    one, nothing = 5 + torch.randn(20, generator=generator), torch.randn(20, generator=generator)
    assert all(part.isnan() for part in ratio_of_means(one, nothing, matched=False))
