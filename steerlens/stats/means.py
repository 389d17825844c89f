"""Means with intervals over groups of examples: arrays in, arrays out."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from scipy import stats as scipy_stats
from torch import Tensor

from steerlens.stats.grouped import FEWEST, Groups, Units
from steerlens.stats.interval import Interval
from steerlens.stats.shares import wilson

Bounds = tuple[Float[Tensor, "*grid"], Float[Tensor, "*grid"], Float[Tensor, "*grid"]]
"""Value, low and high."""

SAME = 1e-6
"""Values this close, as a share of the largest, count as the same number."""


def bootstrap_means(
    values: Float[Tensor, "*grid example"],
    groups: Groups = None,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Float[Tensor, "draw *grid"]:
    """Means over examples of resampled groups; all cells share each draw of groups."""
    units = Units.of(groups, values.shape[-1])
    counts = units.counts(draws, seed).to(values)
    sums = torch.einsum("dn,...n->d...", counts, units.totals(values))
    weights = counts @ units.sizes.to(values)
    return sums / weights.view(-1, *[1] * (values.ndim - 1))


def mean_interval(
    values: Float[Tensor, "*grid example"],
    groups: Groups = None,
    *,
    level: float = 0.95,
    least: float | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Bounds:
    """Mean over examples with an interval over groups of examples: mean, low, high.

    The wider end, on either side, of the bootstrap-t interval (each resampled mean is divided by
    its own standard error, so that skewed data are covered) and of Student's t (jackknife standard
    error, one degree of freedom less than effective groups).

    Where more than half of the groups have the same value, resampling says too little of the few
    that differ: there the interval is that of their share (Wilson) and of their mean (gamma),
    joined. Where all groups agree, it allows for the share of others that so many groups may have
    missed, with no effect. Below 8 groups, and where everything is 0, there is no interval: the
    ends are NaN.

    Args:
        groups: The group of each example; None where every example is a group.
        least: The smallest possible mean, e.g. 0 for KL.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 12.5; Cameron,
    Gelbach and Miller 2008, doi:10.1162/rest.90.3.414, for groups; Zou and Donner 2008,
    doi:10.1002/sim.3095, for joining two intervals. docs/trust.md has the coverage.
    """
    units = Units.of(groups, values.shape[-1])
    mean = values.mean(-1)
    if len(units) < FEWEST:
        return mean, torch.full_like(mean, torch.nan), torch.full_like(mean, torch.nan)
    sizes = units.sizes.to(values)
    totals = units.totals(values - mean[..., None])  # a large mean drowns the spread in rounding
    error = jackknife_error(totals, sizes)
    shift, spread = resampled(totals, units, draws, seed)
    flat = spread <= 1e-3 * error
    ratio = (shift / spread).masked_fill(flat, torch.nan)
    cuts = torch.tensor([(1 + level) / 2, (1 - level) / 2], dtype=torch.float64)
    reach = float(scipy_stats.t.ppf((1 + level) / 2, max(1.0, units.effective - 1))) * error
    studentised = torch.nanquantile(ratio.double(), cuts, dim=0).to(mean).nan_to_num() * error
    low = torch.minimum(mean - reach, mean - studentised[0])
    high = torch.maximum(mean + reach, mean - studentised[1])
    rare = _rare(values, units, level)
    low, high = (torch.where(rare[2], r, x) for r, x in zip(rare, (low, high), strict=False))
    if least is not None:
        low = torch.where(low.isnan(), low, low.clamp(min=least))
    return mean, low, high


def jackknife_error(
    totals: Float[Tensor, "*grid unit"], sizes: Float[Tensor, " unit"]
) -> Float[Tensor, "*grid"]:
    """Standard error of a mean over examples, from the centred totals of groups."""
    n, units = sizes.sum(), len(sizes)
    alone = totals / (1 - sizes / n)
    return (alone.square().sum(-1) * (units - 1) / units).sqrt() / n


def resampled(
    totals: Float[Tensor, "*grid unit"], units: Units, draws: int, seed: int
) -> tuple[Float[Tensor, "draw *grid"], Float[Tensor, "draw *grid"]]:
    """Deviations of resampled means from the mean, and the standard error of each resample.

    Args:
        totals: Sums over each group of deviations from the mean.
    """
    sizes, many = units.sizes.to(totals), len(units)
    counts = units.counts(draws, seed).to(totals)
    weight = (counts @ sizes).view(-1, *[1] * (totals.ndim - 1))

    def sums(x: Tensor) -> Tensor:
        return torch.einsum("dn,...n->d...", counts, x)

    drawn = sums(totals)
    shift = drawn / weight
    # Where every group is one example, its total is weighted by 1.
    weighted = drawn if bool((sizes == 1).all()) else sums(totals * sizes)
    squares = sums(totals.square()) - 2 * shift * weighted
    squares = squares + shift.square() * (counts @ sizes.square()).view_as(weight)
    return shift, (squares.clamp(min=0) * many / (many - 1)).sqrt() / weight


def _rare(
    values: Float[Tensor, "*grid example"], units: Units, level: float
) -> tuple[Float[Tensor, "*grid"], Float[Tensor, "*grid"], Bool[Tensor, "*grid"]]:
    """Low and high where more than half of the groups have the same value, and where that is."""
    sizes = units.sizes.double()
    each = units.totals(values).double() / sizes
    usual = each.median(-1).values
    off = each - usual[..., None]
    moved = off.abs() > SAME * each.abs().amax(-1, keepdim=True)
    mostly = moved.double().mean(-1) < 0.5
    if not bool(mostly.any()):
        nothing = torch.zeros_like(usual).to(values)
        return nothing, nothing, mostly
    # What is usual bounds what a group may differ by; 0 bounds nothing.
    most = torch.maximum(usual.abs(), off.abs().amax(-1)).masked_fill(usual == 0, torch.inf)
    up, down = (_part(off * side, moved, sizes, units.effective, level, most) for side in (1, -1))
    value = usual + up[0] - down[0]
    low = value - ((up[0] - up[1]).square() + (down[2] - down[0]).square()).sqrt()
    high = value + ((up[2] - up[0]).square() + (down[0] - down[1]).square()).sqrt()
    # Nothing differs: the share that may be missing, without an effect; of no effect, no interval.
    missed = 1 - ((1 - level) / 2) ** (1 / units.effective)
    still = ~moved.any(-1)
    unknown = torch.where(usual == 0, torch.nan, missed * usual.abs())
    low, high = torch.where(still, usual - unknown, low), torch.where(still, usual + unknown, high)
    return low.to(values), high.to(values), mostly


def _part(
    off: Float[Tensor, "*grid unit"],
    moved: Bool[Tensor, "*grid unit"],
    sizes: Float[Tensor, " unit"],
    effective: float,
    level: float,
    bound: Float[Tensor, "*grid"],
) -> Bounds:
    """What the groups above the usual value add to the mean: share times mean, with an interval."""
    there = moved & (off > 0)
    weight = there * sizes
    total = weight.sum(-1)
    share = total / sizes.sum()
    some = total > 0
    safe = total.clamp(min=1.0)
    mean = (weight * off).sum(-1) / safe
    count = (safe.square() / (weight * sizes).sum(-1).clamp(min=1.0)).clamp(min=1.0)
    squares = (weight * (off - mean[..., None]).square()).sum(-1) / safe * count
    # The coefficient of variation starts at 1 and is known the better the more groups there are.
    variation = (squares / mean.square().clamp(min=1e-300) + 1) / count
    shape = (count / variation).clamp(min=0.5)
    ends = [
        torch.as_tensor(scipy_stats.gamma.ppf(q, shape.numpy()) / shape.numpy())
        for q in ((1 + level) / 2, (1 - level) / 2)
    ]
    least, most = wilson(share, effective, level)
    value = share * mean
    logs = [
        ((share.clamp(min=1e-12) / one.clamp(min=1e-12)).log().square() + end.log().square()).sqrt()
        for one, end in ((least, ends[0]), (most, ends[1]))
    ]
    zero = torch.zeros_like(value)
    return (
        torch.where(some, value, zero),
        torch.where(some, value * (-logs[0]).exp(), zero),
        torch.where(some, torch.minimum(value * logs[1].exp(), most * bound), zero),
    )


def simultaneous_interval(
    values: Float[Tensor, "*grid example"],
    groups: Groups = None,
    *,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Bounds:
    """Means of all cells with intervals that hold together: mean, low, high.

    They cover all cells at once with probability `level`, so also the one that was chosen because
    it looked best: an interval that accounts for the choice. The reach of every cell is its
    standard error times one number, the quantile of the largest studentised deviation among
    resampled maps; below 8 groups the ends are NaN.

    Source: Romano and Wolf 2005, doi:10.1111/j.1468-0262.2005.00615.x (step 1, two-sided).
    """
    units = Units.of(groups, values.shape[-1])
    mean = values.mean(-1)
    if len(units) < FEWEST:
        return mean, torch.full_like(mean, torch.nan), torch.full_like(mean, torch.nan)
    totals = units.totals(values - mean[..., None])
    error = jackknife_error(totals, units.sizes.to(values))
    shift, spread = resampled(totals, units, draws, seed)
    flat = (spread <= 1e-3 * error) | (error == 0)
    ratio = (shift / spread).abs().masked_fill(flat, 0.0)
    largest = ratio.flatten(1).amax(1).double()
    reach = float(torch.quantile(largest, level)) * error
    missed = 1 - ((1 - level) / 2) ** (1 / units.effective)
    still = totals.abs().amax(-1) <= SAME * mean.abs()
    reach = torch.where(still, missed * mean.abs(), reach)
    return mean, mean - reach, mean + reach


def interval_of_mean(
    values: Float[Tensor, " example"], groups: Groups = None, **options
) -> Interval:
    """`mean_interval` of one row of numbers."""
    mean, low, high = mean_interval(values, groups, **options)
    return Interval(float(mean), float(low), float(high))
