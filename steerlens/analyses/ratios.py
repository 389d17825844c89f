"""Differences and ratios of two means, with intervals: arrays in, arrays out."""

from __future__ import annotations

import torch
from jaxtyping import Float
from scipy import stats as scipy_stats
from torch import Tensor

from steerlens import stats

Bounds = tuple[Float[Tensor, "*grid"], Float[Tensor, "*grid"], Float[Tensor, "*grid"]]
"""Value, low and high."""


def difference_of_means(
    one: Float[Tensor, "*grid _one"],
    other: Float[Tensor, "*grid _other"],
    *,
    matched: bool,
    level: float = 0.95,
) -> Bounds:
    """Mean of `one` minus mean of `other` over the last axis, with an interval.

    Args:
        matched: Whether row i of both is the same question: then it is the mean of the differences
            (`stats.mean_interval`), else Welch's interval for independent samples.

    >>> one, other = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 1.0, 2.0, 5.0])
    >>> [round(float(x), 2) for x in difference_of_means(one, other, matched=False)]
    [0.0, -3.28, 3.28]
    """
    if matched:
        return stats.mean_interval(one - other, level=level)
    value = one.mean(-1) - other.mean(-1)
    errors = [side.double().var(-1) / side.shape[-1] for side in (one, other)]
    variance = errors[0] + errors[1]
    shares = [
        error.square() / (side.shape[-1] - 1)
        for error, side in zip(errors, (one, other), strict=True)
    ]
    # Without any spread the degrees of freedom are undefined, and the width is 0.
    freedom = torch.where(variance > 0, variance.square() / (shares[0] + shares[1]), 1.0)
    reach = (_student(freedom, level) * variance.sqrt()).to(value)
    return value, value - reach, value + reach


def ratio_of_means(
    one: Float[Tensor, "*grid _one"],
    other: Float[Tensor, "*grid _other"],
    *,
    matched: bool,
    level: float = 0.95,
) -> Bounds:
    """Mean of `one` over mean of `other`, with Fieller's interval.

    NaN where the interval of the mean of `other` holds 0 at this level: then any ratio is possible.

    Args:
        matched: Whether row i of both is the same question, so that they vary together.

    Source: Fieller 1954. For independent samples it has the degrees of freedom of the smaller one,
    which makes it slightly too wide.

    >>> one, other = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 4.0, 5.0])
    >>> [round(float(x), 2) for x in ratio_of_means(one, other, matched=True)]
    [0.5, -0.32, 0.69]
    """
    n, m = one.shape[-1], other.shape[-1]
    x, y = one.double(), other.double()
    a, b, var_a, var_b = x.mean(-1), y.mean(-1), x.var(-1) / n, y.var(-1) / m
    both = torch.zeros_like(a)
    if matched:
        both = ((x - a[..., None]) * (y - b[..., None])).sum(-1) / (n - 1) / n
    t2 = _student(torch.tensor(float(min(n, m) - 1)), level).square()
    lead, middle = b.square() - t2 * var_b, a * b - t2 * both
    root = (middle.square() - lead * (a.square() - t2 * var_a)).clamp(min=0).sqrt()
    bounded = lead > 0
    return tuple(
        torch.where(bounded, found, torch.nan).to(one)
        for found in (a / b, (middle - root) / lead, (middle + root) / lead)
    )  # type: ignore[return-value]


def _student(freedom: Tensor, level: float) -> Tensor:
    return torch.as_tensor(scipy_stats.t.ppf(0.5 + level / 2, freedom.numpy()))
