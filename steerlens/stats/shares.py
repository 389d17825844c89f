"""Shares and AUROC with intervals that are not empty at 0 and 1."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from scipy import stats as scipy_stats
from torch import Tensor

from steerlens.stats.grouped import FEWEST, Groups, Units
from steerlens.stats.interval import Interval

Bounds = tuple[Float[Tensor, "*grid"], Float[Tensor, "*grid"], Float[Tensor, "*grid"]]
"""Value, low and high."""


def wilson(
    share: Float[Tensor, "*grid"], n: float | Float[Tensor, "*grid"], level: float = 0.95
) -> tuple[Float[Tensor, "*grid"], Float[Tensor, "*grid"]]:
    """The ends of Wilson's interval of a share of n."""
    z2 = float(scipy_stats.norm.ppf(0.5 + level / 2)) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = (z2 * (share * (1 - share) / n + z2 / (4 * n**2))) ** 0.5 / (1 + z2 / n)
    # Exactly 0 and 1 there: rounding would leave the share itself outside.
    low = torch.where(share <= 0, 0.0, (centre - reach).clamp(min=0))
    return low, torch.where(share >= 1, 1.0, (centre + reach).clamp(max=1))


def proportion_interval(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """A share of independent examples with Wilson's interval.

    >>> str(proportion_interval(8, 10))
    '0.8 [0.49, 0.943]'
    """
    found = scipy_stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    return Interval(successes / n, float(found.low), float(found.high))


def share_interval(
    hits: Float[Tensor, "*grid example"], groups: Groups = None, *, level: float = 0.95
) -> Bounds:
    """The mean of numbers from 0 to 1 with Wilson's interval over groups: value, low, high.

    Wilson's interval has the number of independent examples that would vary as much as these
    groups do; where all are 0 or 1, the number of groups. Below 8 groups the ends are NaN.

    Source: Korn and Graubard 1998, Survey Methodology 24, 193-201, for the effective number.
    """
    n = hits.shape[-1]
    units = Units.of(groups, n)
    share = hits.mean(-1)
    if len(units) < FEWEST:
        return share, torch.full_like(share, torch.nan), torch.full_like(share, torch.nan)
    totals = units.totals(hits - share[..., None]).double()
    many = len(units)
    variance = totals.square().sum(-1) * many / (many - 1) / n**2
    p = share.double()
    known = (variance > 0) & (p > 0) & (p < 1)
    effective = torch.where(known, p * (1 - p) / variance.clamp(min=1e-300), float(many))
    # What a sample of so few groups says of its own variance is uncertain: Student's t for z.
    z, t = scipy_stats.norm.ppf(0.5 + level / 2), scipy_stats.t.ppf(0.5 + level / 2, many - 1)
    grouped = effective * float(z / t) ** 2
    effective = torch.where(torch.tensor(many == n), float(n), grouped).clamp(min=1.0, max=float(n))
    low, high = wilson(p, effective, level)
    return share, low.to(share), high.to(share)


def auroc(scores: Float[Tensor, "*grid pair side=2"]) -> Float[Tensor, "*grid"]:
    """Probability that a positive score is above a negative one; a tie counts a half."""
    return _wins(scores).mean((-1, -2))


def auroc_interval(
    scores: Float[Tensor, "*grid pair side=2"],
    groups: Groups = None,
    *,
    blocks: Int[Tensor, " pair"] | None = None,
    level: float = 0.95,
) -> Bounds:
    """AUROC with an interval over groups of pairs: value, low, high.

    The interval holds every AUROC that the observed one does not contradict, by a score test: so it
    is not symmetric near 1, and not empty at 1. The variance is that of an AUROC of as many
    independent pairs as would vary as much as these groups do (DeLong's variance), at most the
    number of groups. Below 8 groups the ends are NaN.

    Args:
        scores: Of the positive and the negative text of each pair.
        blocks: Parts of the pairs whose scores are comparable with each other only: then AUROC is
            the mean over parts, weighted by pairs.

    Source: Newcombe 2006, doi:10.1002/sim.2324 (method 5); DeLong, DeLong and Clarke-Pearson 1988,
    doi:10.2307/2531595. The effective number is ours.
    """
    n = scores.shape[-2]
    units = Units.of(groups, n)
    parts = [torch.arange(n)] if blocks is None else [
        (blocks == b).nonzero()[:, 0] for b in blocks.unique().tolist()
    ]  # fmt: skip
    value = scores.new_zeros(scores.shape[:-2]).double()
    influence = torch.zeros(scores.shape[:-1], dtype=torch.float64)
    for rows in parts:
        wins = _wins(scores[..., rows, :]).double()
        one = wins.mean((-1, -2))
        value = value + one * len(rows) / n
        influence[..., rows] = wins.mean(-1) + wins.mean(-2) - 2 * one[..., None]
    unknown = torch.full_like(value, torch.nan)
    if len(units) < FEWEST:
        low, high = unknown, unknown
    else:
        many = len(units)
        variance = units.totals(influence).square().sum(-1) * many / (many - 1) / n**2
        losing = (units.totals((influence + 2 * value[..., None] < 2 - 1e-9).double()) > 0).sum(-1)
        low, high = _newcombe(value, variance, losing, units.effective, level)
    return tuple(x.to(scores) for x in (value, low, high))  # type: ignore[return-value]


def _newcombe(
    value: Float[Tensor, "*grid"],
    variance: Float[Tensor, "*grid"],
    losing: Int[Tensor, "*grid"],
    units: float,
    level: float,
) -> tuple[Float[Tensor, "*grid"], Float[Tensor, "*grid"]]:
    """The AUROCs that the observed one does not contradict, to a quarter of a thousandth.

    Args:
        losing: How many groups hold a text that is not above or below all of the other side.
    """

    def spread(theta: Tensor, n: Tensor) -> Tensor:
        inner = (n - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return theta * (1 - theta) * (1 + inner) / n**2

    # The variance falls as 1 / n for all but tiny n: one step from n = units is near enough.
    most = torch.full_like(value, units)
    inside = value.clamp(0.5 / units, 1 - 0.5 / units)
    found = most * spread(inside, most) / variance.clamp(min=1e-12)
    found = found.clamp(min=units / 4, max=8 * units)
    # Near 1 few groups lose, and the observed variance says little: there the groups count.
    trust = losing / (losing + FEWEST)
    n = (trust * found.log() + (1 - trust) * most.log()).exp()
    z = float(scipy_stats.norm.ppf(0.5 + level / 2))
    theta = torch.linspace(0, 1, 4001, dtype=torch.float64)
    shaped = [x[..., None] for x in (value, n)]
    fits = (shaped[0] - theta).square() <= z**2 * spread(theta, shaped[1])
    low = torch.where(fits, theta, torch.inf).amin(-1)
    high = torch.where(fits, theta, -torch.inf).amax(-1)
    return torch.minimum(low, value), torch.maximum(high, value)


def _wins(scores: Float[Tensor, "*grid pair side=2"]) -> Float[Tensor, "*grid pair pair"]:
    """Positive text i against negative text j: 1 for a win, a half for a tie."""
    gap = scores[..., :, None, 0] - scores[..., None, :, 1]
    return (gap > 0).float() + 0.5 * (gap == 0).float()
