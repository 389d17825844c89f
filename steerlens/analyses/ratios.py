"""Differences and ratios of two means, with intervals: arrays in, arrays out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from scipy import stats as scipy_stats
from torch import Tensor

from steerlens import stats
from steerlens.stats import Groups, Units

Bounds = tuple[Float[Tensor, "*grid"], Float[Tensor, "*grid"], Float[Tensor, "*grid"]]
"""Value, low and high."""


def difference_of_means(
    one: Float[Tensor, "*grid _one"],
    other: Float[Tensor, "*grid _other"],
    groups: tuple[Groups, Groups] = (None, None),
    *,
    matched: bool,
    level: float = 0.95,
) -> Bounds:
    """Mean of `one` minus mean of `other` over the last axis, with an interval.

    Args:
        groups: The group of each example of both: the unit of the interval. Below 8 groups the ends
            are NaN.
        matched: Whether row i of both is the same question: then it is the mean of the differences
            (`stats.mean_interval`), else Welch's interval for independent samples.

    >>> one, other = torch.arange(10.0), torch.arange(8.0)
    >>> [round(float(x), 2) for x in difference_of_means(one, other, matched=False)]
    [1.0, -1.74, 3.74]
    """
    if matched:
        return stats.mean_interval(one - other, groups[0], level=level)
    value = one.mean(-1) - other.mean(-1)
    parts = [_variance(side, own) for side, own in zip((one, other), groups, strict=True)]
    variance = parts[0].of_mean + parts[1].of_mean
    shares = [part.of_mean.square() / max(1.0, part.units - 1) for part in parts]
    # Without any spread the degrees of freedom are undefined, and the width is 0.
    freedom = torch.where(variance > 0, variance.square() / (shares[0] + shares[1]), 1.0)
    reach = (_student(freedom, level) * variance.sqrt()).to(value)
    if min(part.count for part in parts) < stats.FEWEST:
        reach = torch.full_like(value, torch.nan)
    return value, value - reach, value + reach


class _Variance(NamedTuple):
    """The variance of a mean over groups of examples."""

    of_mean: Tensor
    units: float
    """Effective groups."""
    count: int
    totals: Tensor
    """Centred, for each group."""


def _variance(values: Tensor, groups: Groups) -> _Variance:
    units = Units.of(groups, values.shape[-1])
    x = values.double()
    totals = units.totals(x - x.mean(-1, keepdim=True))
    error = stats.jackknife_error(totals, units.sizes.double())
    return _Variance(error.square(), units.effective, len(units), totals)


def ratio_of_means(
    one: Float[Tensor, "*grid _one"],
    other: Float[Tensor, "*grid _other"],
    groups: tuple[Groups, Groups] = (None, None),
    *,
    matched: bool,
    level: float = 0.95,
) -> Bounds:
    """Mean of `one` over mean of `other`, with Fieller's interval.

    NaN where the interval of the mean of `other` holds 0 at this level: then any ratio is possible;
    and below 8 groups.

    Args:
        groups: The group of each example of both: the unit of the interval.
        matched: Whether row i of both is the same question, so that they vary together.

    Source: Fieller 1954. For independent samples it has the degrees of freedom of the smaller one,
    which makes it slightly too wide.

    >>> one, other = torch.arange(8.0), torch.arange(8.0) + 3
    >>> [round(float(x), 2) for x in ratio_of_means(one, other, matched=True)]
    [0.54, 0.33, 0.65]
    """
    a, b = one.double().mean(-1), other.double().mean(-1)
    parts = [_variance(side, own) for side, own in zip((one, other), groups, strict=True)]
    var_a, var_b = (part.of_mean for part in parts)
    both = torch.zeros_like(a)
    if matched:
        many = parts[0].count
        joint = (parts[0].totals * parts[1].totals).sum(-1) * many / max(1, many - 1)
        both = joint / one.shape[-1] ** 2
    freedom = max(1.0, min(part.units for part in parts) - 1)
    t2 = _student(torch.tensor(freedom, dtype=torch.float64), level).square()
    lead, middle = b.square() - t2 * var_b, a * b - t2 * both
    root = (middle.square() - lead * (a.square() - t2 * var_a)).clamp(min=0).sqrt()
    bounded = (lead > 0) & (min(part.count for part in parts) >= stats.FEWEST)
    return tuple(
        torch.where(bounded, found, torch.nan).to(one)
        for found in (a / b, (middle - root) / lead, (middle + root) / lead)
    )  # type: ignore[return-value]


def _student(freedom: Tensor, level: float) -> Tensor:
    return torch.as_tensor(scipy_stats.t.ppf(0.5 + level / 2, freedom.numpy()))
