"""Statistics of steering: arrays in, arrays out. Knows no model.

The unit of every interval is a group of examples (`Groups`): pairs that share a question, a
template or a duplicate are drawn together.
"""

from steerlens.stats.chance import LEVEL, NullTest, clear_after, looks, max_statistic
from steerlens.stats.clouds import Clouds, explained_by, two_clouds
from steerlens.stats.grouped import (
    FEW,
    FEWEST,
    Groups,
    Units,
    group_numbers,
    sizes_in_words,
    too_few,
)
from steerlens.stats.interval import Interval
from steerlens.stats.jackknife import jackknife_interval
from steerlens.stats.means import (
    Bounds,
    bootstrap_means,
    interval_of_mean,
    jackknife_error,
    mean_interval,
    simultaneous_interval,
)
from steerlens.stats.paired_shares import share_change_interval
from steerlens.stats.response import monotonicity, rank_correlation, steerability_slope
from steerlens.stats.sequential import confidence_sequence, log_evidence, p_value_anytime
from steerlens.stats.shares import auroc, auroc_interval, proportion_interval, share_interval

__all__ = [
    "FEW",
    "FEWEST",
    "LEVEL",
    "Bounds",
    "Clouds",
    "Groups",
    "Interval",
    "NullTest",
    "Units",
    "auroc",
    "auroc_interval",
    "bootstrap_means",
    "clear_after",
    "confidence_sequence",
    "explained_by",
    "group_numbers",
    "interval_of_mean",
    "jackknife_error",
    "jackknife_interval",
    "log_evidence",
    "looks",
    "max_statistic",
    "mean_interval",
    "monotonicity",
    "p_value_anytime",
    "proportion_interval",
    "rank_correlation",
    "share_change_interval",
    "share_interval",
    "simultaneous_interval",
    "sizes_in_words",
    "steerability_slope",
    "too_few",
    "two_clouds",
]
