"""How a cost begins: the power of the strength that it grows with near 0."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens import stats
from steerlens.arguments import ArgumentError
from steerlens.stats import Groups, Interval

NEAR, FIRST = (0.2, 1.0), (0.05, 0.25)
"""Within the budget, which multiplier 1 costs; and the first sixteenth of that cost."""
DRAWS = 1000
"""Resamples of the texts."""


def local_exponent(
    multipliers: Float[Tensor, " multiplier"],
    costs: Float[Tensor, "multiplier text"],
    groups: Groups = None,
    *,
    near: tuple[float, float] = NEAR,
) -> Interval:
    """The slope of log cost over log strength near 0: 2 where the cost is quadratic.

    The cost at a strength is the mean over both signs, so that a slope at 0, which a change of
    cross-entropy may have, does not count. The 95% interval is of resampled texts; its ends are NaN
    below 8 groups, and where a fortieth of the resamples has a mean cost that is not above 0.

    Args:
        costs: KL or change of cross-entropy of each text, in nats per token.
        near: The least and the largest strength that count.

    Raises:
        ArgumentError: If fewer than two strengths between these have both signs.

    >>> m = torch.tensor([-1.0, -0.5, 0.5, 1.0])
    >>> round(local_exponent(m, m[:, None].abs().pow(2).expand(4, 9)).value, 3)
    2.0
    """
    sizes = strengths_between(multipliers, near)
    if len(sizes) < 2:
        raise ArgumentError(
            f"multipliers={multipliers.tolist()} hold {len(sizes)} strengths between {near[0]:g} and "
            f"{near[1]:g} with both signs, and a slope needs two. Use law_strengths(8.0)."
        )
    place = {_rounded(m): j for j, m in enumerate(multipliers)}
    both = torch.stack([(costs[place[m]] + costs[place[-m]]) / 2 for m in sizes]).double()
    x = torch.tensor(sizes, dtype=torch.float64).log()
    value = float(_slopes(x, both.mean(-1)[None])[0])
    units = stats.Units.of(groups, both.shape[-1])
    if len(units) < stats.FEWEST:
        return Interval(value, float("nan"), float("nan"))
    slopes = _slopes(x, stats.bootstrap_means(both, groups, draws=DRAWS))
    known: Bool[Tensor, " draw"] = slopes.isfinite()
    if float((~known).double().mean()) > 0.025:
        return Interval(value, float("nan"), float("nan"))
    low, high = torch.quantile(slopes[known], torch.tensor([0.025, 0.975], dtype=torch.float64))
    return Interval(value, float(low), float(high))


def strengths_between(
    multipliers: Float[Tensor, " multiplier"], near: tuple[float, float]
) -> list[float]:
    """The strengths between two that were measured with both signs."""
    known = {_rounded(m) for m in multipliers}
    return sorted(m for m in known if near[0] <= m <= near[1] and -m in known)


def _rounded(multiplier: Tensor) -> float:
    return round(float(multiplier), 6)


def _slopes(x: Tensor, costs: Float[Tensor, "draw strength"]) -> Float[Tensor, " draw"]:
    """Least-squares slopes of log cost; NaN where a cost is not above 0."""
    y = costs.log()
    y = torch.where(costs > 0, y, torch.nan)
    x = x - x.mean()
    return (y * x).sum(-1) / x.square().sum()
