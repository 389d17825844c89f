"""How far the first order of a change of weights explains the shift that it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.comparison.crossed import as_ratio, crossed_interval
from steerlens.report.numbers import format_number, format_percent
from steerlens.results import Column, Result, labelled
from steerlens.sites import Site
from steerlens.stats import Bounds

if TYPE_CHECKING:
    import plotly.graph_objects as go

RANKS = (1, 2, 4, 8, 16)
"""Directions whose share of the shift is measured."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ShiftEquivalence(Result):
    """Squares of the true shift and of what its first order misses, text by text.

    `explained` is 1 - |δ - m·δ'|² / |δ|², both summed over tokens and texts, with δ' the derivative
    of the stream at multiplier 0: 1 where the shift is first-order, and below 0 where the first order
    is further away than no shift at all.
    """

    kind: ClassVar[str] = "equivalence"

    sites: tuple[Site, ...]
    multipliers: Float[Tensor, " multiplier"]
    missed: Float[Tensor, "multiplier site text"]
    """Squared length of the true shift less the predicted one, summed over tokens."""
    moved: Float[Tensor, "multiplier site text"]
    """Squared length of the true shift."""
    size: Float[Tensor, "site text"]
    """Squared length of the stream itself."""
    low_rank: Float[Tensor, "site rank"]
    """At the last multiplier: the share of the squared shift that is one vector for all tokens, then
    that of its best 1, 2, 4, 8 and 16 directions."""
    groups: tuple[str, ...]
    """The group of each text, the unit of intervals."""
    made_by: dict[str, Any]

    @property
    def explained(self) -> Bounds:
        """The share of the shift that the first order explains, [multiplier, site], with intervals
        over texts."""
        ratio = as_ratio(self.missed[:, :, None], self.moved[:, :, None])
        return crossed_interval([1 - ratio], [stats.group_numbers(self.groups)])

    @property
    def relative_shift(self) -> Float[Tensor, "multiplier site"]:
        """The length of the true shift relative to the stream's, over all tokens."""
        return (self.moved.sum(-1) / self.size.sum(-1)).sqrt()

    def columns(self) -> Sequence[Column]:
        """The share explained and the relative shift at every multiplier and site."""
        axes = ("multiplier", "site")
        ends = zip(("explained", "explained_low", "explained_high"), self.explained, strict=True)
        found = [Column(name, axes, values) for name, values in ends]
        return [*found, Column("relative_shift", axes, self.relative_shift)]

    def summary(self) -> str:
        """For every multiplier the least and the most over layers."""
        lines = ["Share of the shift that its first order explains, least and most over layers:"]
        shift, explained = self.relative_shift, self.explained[0]
        for m, row, size in zip(self.multipliers.tolist(), explained, shift, strict=True):
            ends = f"{format_percent(row.min())} to {format_percent(row.max())}"
            sizes = f"{format_number(size.min())} to {format_number(size.max())}"
            lines.append(labelled(f"multiplier {m:g}", f"{ends} at a relative shift of {sizes}"))
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """The share explained over the relative shift, a line for each layer."""
        value, low, high = self.explained
        shift = self.relative_shift
        lines: Mapping[str, Any] = {
            f"layer {site.layer}": (
                shift[:, s].tolist(),
                tuple(part[:, s].tolist() for part in (value, low, high)),
            )
            for s, site in enumerate(self.sites)
        }
        return plots.measured_lines(
            lines,
            title="How much of the shift of the stream its first order explains",
            x="length of the shift, relative to the stream",
            y="share explained",
            log=True,
            lowest=-0.2,
            rule=(1.0, "all of it"),
        )
