"""Means over repetitions and examples, with intervals that allow for both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from scipy import stats as scipy_stats
from torch import Tensor

from steerlens import stats
from steerlens.stats import Bounds, Groups, Units


def crossed_interval(
    parts: Sequence[Float[Tensor, "*grid repeat _example"]],
    groups: Sequence[Groups],
    *,
    level: float = 0.95,
) -> Bounds:
    """The mean over parts of means over repetitions and examples, with an interval.

    Every repetition is measured on the same examples of its part, so both vary: the variance of a
    part's mean is taken as the sum of what groups of examples and what repetitions contribute,
    which counts their interaction twice and is therefore never too small. With one repetition it is
    that of the examples alone. Parts are fixed; their variances add. Student's t has Satterthwaite's
    degrees of freedom. Below 8 groups of a part the ends are NaN.

    Args:
        parts: E.g. one for each concept.
        groups: The group of each example of each part, the unit of its interval.

    Source: Owen 2007, doi:10.1214/07-AOAS122, whose resampling of both factors has this variance.

    >>> one = torch.arange(10.0).expand(2, 10)
    >>> [round(float(x), 2) for x in crossed_interval([one], [None])]
    [4.5, 2.33, 6.67]
    """
    values, variance, shares = [], [], []
    few = False
    for part, own in zip(parts, groups, strict=True):
        x = part.double()
        mean = x.mean((-1, -2))
        units = Units.of(own, x.shape[-1])
        few = few or len(units) < stats.FEWEST
        totals = units.totals(x.mean(-2) - mean[..., None])
        of_examples = stats.jackknife_error(totals, units.sizes.double()).square()
        values.append(mean)
        variance.append(of_examples)
        shares.append(of_examples.square() / max(1.0, units.effective - 1))
        if (repeats := x.shape[-2]) > 1:
            of_repeats = x.mean(-1).var(-1) / repeats
            variance.append(of_repeats)
            shares.append(of_repeats.square() / (repeats - 1))
    count = len(parts)
    value = torch.stack(values).mean(0)
    total = torch.stack(variance).sum(0)
    freedom = total.square() / torch.stack(shares).sum(0).clamp(min=1e-300)
    freedom = torch.where(total > 0, freedom, torch.ones_like(freedom)).clamp(min=1.0)
    reach = torch.as_tensor(scipy_stats.t.ppf(0.5 + level / 2, freedom.numpy()))
    reach = reach * total.sqrt() / count
    if few:
        reach = torch.full_like(value, torch.nan)
    return tuple(x.to(parts[0]) for x in (value, value - reach, value + reach))  # type: ignore[return-value]


def as_ratio(
    one: Float[Tensor, "*grid repeat _example"], other: Float[Tensor, "*grid repeat _example"]
) -> Float[Tensor, "*grid repeat _example"]:
    """Numbers whose mean is the ratio of two means, and which vary about it as the ratio does.

    They are r + (one - r · other) / mean(other), with r = mean(one) / mean(other): the ratio to first
    order in each example, so that a ratio has the interval of a mean. It is to be trusted where the
    mean of `other` is many standard errors from 0.

    >>> as_ratio(torch.tensor([[1.0, 3.0]]), torch.tensor([[4.0, 4.0]]))
    tensor([[0.2500, 0.7500]])
    """
    return as_ratios([one], [other])[0]


def as_ratios(
    parts: Sequence[Float[Tensor, "*grid repeat _example"]],
    others: Sequence[Float[Tensor, "*grid repeat _example"]],
) -> list[Float[Tensor, "*grid repeat _example"]]:
    """`as_ratio` of several parts: the mean over them, as of `crossed_interval`, is a ratio of means.

    A part whose own mean is near 0 does not decide it, as it would a mean of ratios.

    >>> one = torch.ones(1, 2)
    >>> sum(float(part.mean()) for part in as_ratios([one, one], [0 * one, 4 * one])) / 2
    0.5
    """

    # In double precision: equal numbers must have the ratio 1 and no spread.
    def mean(given: Sequence[Tensor]) -> Tensor:
        return torch.stack([x.double().mean((-1, -2), keepdim=True) for x in given]).mean(0)

    below = mean(others)
    ratio = mean(parts) / below
    return [
        (ratio + (one.double() - ratio * other.double()) / below).to(one)
        for one, other in zip(parts, others, strict=True)
    ]
