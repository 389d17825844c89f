"""How long something lasts, where some were watched for a shorter time: Kaplan and Meier."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats as scipy_stats

from steerlens.stats.grouped import FEWEST
from steerlens.stats.interval import Interval


@dataclass(frozen=True, eq=False)
class SurvivalCurve:
    """The share that is left after each time; 1 before the first time."""

    times: Float[np.ndarray, " time"]
    """Times at which something ended or was watched no longer, in increasing order."""
    left: Float[np.ndarray, " time"]
    """The share that is left from this time on."""
    low: Float[np.ndarray, " time"]
    """The end of its 95% interval below; NaN where there are fewer than 8."""
    high: Float[np.ndarray, " time"]
    at_risk: Float[np.ndarray, " time"]
    """How many were watched and had not ended just before this time."""
    ended: Float[np.ndarray, " time"]
    """How many ended at this time."""

    def at(self, time: float) -> Interval:
        """The share that is left at a time, with its interval."""
        k = int(np.searchsorted(self.times, time, side="right")) - 1
        if k < 0:
            return Interval(1.0, *_nothing_ended(int(self.at_risk[0])))
        return Interval(float(self.left[k]), float(self.low[k]), float(self.high[k]))

    @property
    def median(self) -> float:
        """The first time at which at most half are left; infinite where more than half always are."""
        under = np.flatnonzero(self.left <= 0.5 + 1e-12)
        return float(self.times[under[0]]) if len(under) else math.inf

    def mean_until(self, horizon: float) -> Interval:
        """The mean time until the end, of which no more than `horizon` counts, with its interval.

        It is the area under the curve (the restricted mean), with Greenwood's variance and a normal
        95% interval inside of 0 and the horizon; no interval where there are fewer than 8.
        """
        inside = self.times < horizon
        edges = np.concatenate([[0.0], self.times[inside], [horizon]])
        heights = np.concatenate([[1.0], self.left[inside]])
        pieces = np.diff(edges) * heights
        value = float(pieces.sum())
        if self.at_risk[0] < FEWEST:
            return Interval(value, math.nan, math.nan)
        after = pieces[::-1].cumsum()[::-1][1:]  # the area from each time on
        n, d = self.at_risk[inside], self.ended[inside]
        known = n > d
        variance = float((after[known] ** 2 * d[known] / (n[known] * (n[known] - d[known]))).sum())
        reach = float(scipy_stats.norm.ppf(0.975)) * variance**0.5
        return Interval(value, max(0.0, value - reach), min(float(horizon), value + reach))


def kaplan_meier(times: Sequence[float], ended: Sequence[bool]) -> SurvivalCurve:
    """The share of some that lasts longer than each time, by Kaplan and Meier, through SciPy.

    Intervals are Greenwood's on the scale of log(-log). Where nothing has ended yet, and where nothing
    is left, that has no width: there they are those of Clopper and Pearson.

    Args:
        times: When each one ended, or until when it was watched.
        ended: Whether it ended then; else it was only watched no longer.

    Raises:
        ValueError: If there are none, there is not one of each, or a time is not above 0.

    >>> curve = kaplan_meier([1, 2, 2, 3], [True, True, False, False])
    >>> curve.left.tolist(), curve.at_risk.tolist()
    ([0.75, 0.5, 0.5], [4.0, 3.0, 1.0])
    """
    given, known = _checked(times, ended)
    data = scipy_stats.CensoredData.right_censored(given, ~known)
    function = scipy_stats.ecdf(data).sf
    at = np.asarray(function.quantiles, dtype=float)
    left = np.asarray(function.probabilities, dtype=float)
    at_risk = (given[None] >= at[:, None]).sum(1).astype(float)
    ends = ((given[None] == at[:, None]) & known[None]).sum(1).astype(float)
    low, high = np.full_like(left, np.nan), np.full_like(left, np.nan)
    if len(given) >= FEWEST:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)  # of places without a width
            found = function.confidence_interval(0.95, method="log-log")
        low = np.asarray(found.low.probabilities, dtype=float)
        high = np.asarray(found.high.probabilities, dtype=float)
        for k in range(len(at)):
            if left[k] == 1:
                low[k], high[k] = _nothing_ended(int(at_risk[k]))
            elif left[k] == 0:
                low[k], high[k] = 0.0, 1 - 0.025 ** (1 / known.sum())
    return SurvivalCurve(at, left, low, high, at_risk, ends)


def _nothing_ended(n: int) -> tuple[float, float]:
    """The interval of a share of n that is 1."""
    return (0.025 ** (1 / n), 1.0) if n >= FEWEST else (math.nan, math.nan)


def log_rank(
    one: tuple[Sequence[float], Sequence[bool]], other: tuple[Sequence[float], Sequence[bool]]
) -> float:
    """The p-value of the two-sided log-rank test that two groups last as long as each other.

    Both groups are taken to be independent. Where they are pairs that are alike, such as texts of the
    same prompts, the true p-value is smaller.

    Args:
        one: Times and whether each ended then, as for `kaplan_meier`.

    Returns:
        In [0, 1]; 1 where nothing ended in either group.

    Source: Mantel 1966, through scipy.stats.logrank.
    """
    pairs = [_checked(*group) for group in (one, other)]
    if not any(known.any() for _, known in pairs):
        return 1.0
    first, second = (scipy_stats.CensoredData.right_censored(x, ~known) for x, known in pairs)
    with np.errstate(all="ignore"):
        found = float(scipy_stats.logrank(first, second).pvalue)
    return 1.0 if math.isnan(found) else found


def _checked(
    times: Sequence[float], ended: Sequence[bool]
) -> tuple[Float[np.ndarray, " one"], np.ndarray]:
    given, known = np.asarray(times, dtype=float), np.asarray(ended, dtype=bool)
    if given.ndim != 1 or not len(given) or given.shape != known.shape:
        raise ValueError(
            f"{given.shape} times and {known.shape} ends: give at least one time, and for each whether "
            "it ended then."
        )
    if not bool((np.isfinite(given) & (given > 0)).all()):
        raise ValueError("A time is not above 0. Leave out what was not watched at all.")
    return given, known
