"""Intervals of any statistic of groups, by leaving each group out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int
from scipy import stats as scipy_stats
from torch import Tensor

from steerlens.stats.grouped import FEWEST
from steerlens.stats.interval import Interval


def jackknife_interval(
    statistic: Callable[[Tensor], float],
    rows: Int[Tensor, " row"],
    groups: Int[Tensor, " row"] | None = None,
    *,
    level: float = 0.95,
) -> Interval:
    """A smooth statistic with Student's t interval of the jackknife over groups.

    Args:
        statistic: Of some of the rows.
        rows: All rows, as `statistic` takes them.
        groups: The group of each row; by default each is one. Below 8 groups the ends are NaN.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 11.
    """
    names = torch.arange(len(rows)) if groups is None else groups
    every = names.unique()
    n, value = len(every), statistic(rows)
    if n < FEWEST:
        return Interval(value, float("nan"), float("nan"))
    without = torch.tensor([statistic(rows[names != g]) for g in every], dtype=torch.float64)
    error = float(((n - 1) / n * (without - without.mean()).square().sum()).sqrt())
    reach = float(scipy_stats.t.ppf((1 + level) / 2, n - 1)) * error
    return Interval(value, value - reach, value + reach)
