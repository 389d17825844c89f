"""How a propensity responds to the multiplier, and rank correlations: arrays in, arrays out."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats as scipy_stats
from torch import Tensor

from steerlens.stats.grouped import Groups, Units
from steerlens.stats.interval import Interval


def steerability_slope(
    multipliers: Float[Tensor, " multiplier"],
    propensities: Float[Tensor, "*grid multiplier"],
) -> Float[Tensor, "*grid"]:
    """Least-squares slope of propensity against multiplier.

    Args:
        multipliers: Steering strengths; at least two different values.
        propensities: Log-odds of the matching answer, in nats.

    Returns:
        Nats gained per unit multiplier; negative means anti-steerable.

    Raises:
        ValueError: If all multipliers are equal, since no line fits.

    Source: Tan et al. 2024, arXiv:2407.12404; here per grid cell, not per dataset.

    >>> steerability_slope(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([1.0, 3.0, 5.0]))
    tensor(2.)
    """
    centred = multipliers - multipliers.mean()
    spread = centred.square().sum()
    if spread == 0:
        raise ValueError(
            f"Cannot fit a slope to multipliers={multipliers.tolist()}: all are equal. "
            "Pass at least two different strengths, e.g. (-1.0, 0.0, 1.0)."
        )
    return propensities @ centred / spread


def monotonicity(
    multipliers: Float[Tensor, " multiplier"], propensities: Float[Tensor, "*grid multiplier"]
) -> Float[Tensor, "*grid"]:
    """Spearman's rank correlation of propensity with multiplier, in [-1, 1]; NaN where constant.

    >>> round(float(monotonicity(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([0.0, 5.0, 6.0]))), 4)
    1.0
    """
    x = torch.from_numpy(scipy_stats.rankdata(multipliers.numpy(force=True))).to(propensities)
    y = torch.from_numpy(scipy_stats.rankdata(propensities.numpy(force=True), axis=-1))
    x, y = x - x.mean(), y.to(propensities) - y.mean(-1, keepdim=True).to(propensities)
    return (y @ x) / (y.norm(dim=-1) * x.norm())


def rank_correlation(
    x: Float[Tensor, " cell"],
    y: Float[Tensor, " cell"],
    groups: Groups = None,
    *,
    level: float = 0.95,
) -> Interval:
    """Spearman's correlation with an interval from Fisher's z (with Bonett-Wright's variance).

    NaN when either side is constant or there are fewer than four cells, or groups of cells: the
    interval has as many independent cells as there are effective groups.

    Source: Bonett and Wright 2000, doi:10.1007/BF02294183.
    """
    many = Units.of(groups, len(x)).effective if len(x) else 0.0
    if many < 4 or float(x.std()) == 0 or float(y.std()) == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    ranks = [scipy_stats.rankdata(side.numpy(force=True)) for side in (x, y)]
    r = float(np.corrcoef(ranks[0], ranks[1])[0, 1])
    # The largest rank correlation short of 1: a perfect order of a few is not certain.
    n = len(x)
    most = 1 - 12 / (n * (n**2 - 1))
    z, width = np.arctanh(np.clip(r, -most, most)), np.sqrt((1 + r**2 / 2) / (many - 3))
    reach = scipy_stats.norm.ppf(0.5 + level / 2) * width
    return Interval(r, min(r, float(np.tanh(z - reach))), max(r, float(np.tanh(z + reach))))
