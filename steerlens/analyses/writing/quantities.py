"""What is counted in written texts, and how much of it steering changes."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens import stats

REPEATED, DISTINCT, POOLED = 4, 1, 2
"""Lengths of n-grams: those counted as repeated and as distinct in a text, and in a whole cell."""
Quantity = Literal[
    "surprisal", "repeated", "distinct", "compression", "variety", "length", "judged"
]


class QuantityInfo(NamedTuple):
    """How a quantity is named and drawn."""

    label: str
    unit: str
    worse_down: bool = False
    """Whether less of it is worse."""
    least: float = 0.0
    """The smallest change that a figure draws in full colour, however small all others are."""


QUANTITIES: dict[Quantity, QuantityInfo] = {
    "surprisal": QuantityInfo("surprisal", "nats per token", least=0.1),
    "repeated": QuantityInfo(f"repeated {REPEATED}-grams", "share", least=0.1),
    "distinct": QuantityInfo("distinct tokens", "share", True, least=0.1),
    "compression": QuantityInfo("compression", "ratio", least=0.1),
    "variety": QuantityInfo(f"distinct {POOLED}-grams of all texts", "share", True, least=0.1),
    "length": QuantityInfo("length", "tokens", True, least=1.0),
    "judged": QuantityInfo("judge's score", "as judged", True),
}
FIRST: tuple[Quantity, ...] = ("surprisal", "repeated", "distinct", "variety")
"""The four that are drawn where none is asked for."""


class Change(NamedTuple):
    """Steered minus unsteered texts of the same prompts, for every cell."""

    mean: Float[Tensor, "row multiplier"]
    low: Float[Tensor, "row multiplier"]
    """Lower end of the 95% interval over prompts."""
    high: Float[Tensor, "row multiplier"]
    pairs: Int[Tensor, "row multiplier"]
    """Prompts for which both texts have the number; the others are left out."""

    def at(self, row: int, multiplier: int) -> stats.Interval:
        """The change of one cell, by its indices."""
        mean, low, high = (float(part[row, multiplier]) for part in self[:3])
        return stats.Interval(mean, low, high)


def mean_change(
    changes: Float[Tensor, "row multiplier prompt"], groups: stats.Groups = None
) -> Change:
    """The mean of each cell with its interval, over the prompts that have a number.

    Args:
        groups: The group of each prompt, the unit of the interval.
    """
    fine = changes.isfinite()
    pairs, whole = fine.sum(-1), fine.all(-1)
    found = torch.full((3, *whole.shape), torch.nan)
    if bool(whole.any()):
        found[:, whole] = torch.stack(stats.mean_interval(changes[whole], groups))
    for i, j in (~whole & (pairs >= 2)).nonzero().tolist():
        rows = fine[i, j]
        some = None if groups is None else groups[rows]
        found[:, i, j] = torch.stack(stats.mean_interval(changes[i, j, rows], some))
    mean, low, high = found
    return Change(mean, low, high, pairs)
