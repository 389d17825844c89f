"""The gains of two preferences over the weights between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.ratios import Bounds
from steerlens.report.numbers import format_interval, format_number
from steerlens.results import Column, Result
from steerlens.stats import Interval, group_numbers

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TradeoffCurve(Result):
    """Both gains, example by example, and KL, for every share of the second preference."""

    kind: ClassVar[str] = "preferences"

    preferences: tuple[str, str]
    shares: Float[Tensor, " share"]
    """Weight of the second preference; the first has the rest."""
    first: Float[Tensor, "share _one"]
    """Change of the log-odds on the first preference's pairs, in nats."""
    second: Float[Tensor, "share _other"]
    kl: Float[Tensor, "share _text"]
    """Nats per token on ordinary texts."""
    groups: tuple[tuple[str, ...], tuple[str, ...]]
    text_groups: tuple[str, ...]
    made_by: dict[str, Any]

    def gain(self, preference: str) -> Bounds:
        """Mean gain at every share with its 95% interval over groups: value, low, high."""
        k = self.preferences.index(preference)
        rows = self.first if k == 0 else self.second
        return stats.mean_interval(rows, group_numbers(self.groups[k]))

    @property
    def interaction(self) -> tuple[Interval, Interval]:
        """What half of each gains beyond the mean of both ends, for each preference.

        NaN where one half was not measured. 0 says that effects add up.
        """
        found = []
        for rows, groups in zip((self.first, self.second), self.groups, strict=True):
            middle = (self.shares == 0.5).nonzero()
            if not len(middle):
                found.append(Interval(float("nan"), float("nan"), float("nan")))
                continue
            more = rows[int(middle[0])] - 0.5 * (rows[0] + rows[-1])
            found.append(stats.interval_of_mean(more, group_numbers(groups)))
        return found[0], found[1]

    def columns(self) -> list[Column]:
        """Both gains with intervals, and KL."""
        found = []
        for name in self.preferences:
            for end, values in zip(("", "_low", "_high"), self.gain(name), strict=True):
                found.append(Column(f"{name}{end}", ("share",), values))
        return [*found, Column("kl", ("share",), self.kl.mean(-1))]

    def summary(self) -> str:
        """Both ends and the middle of the curve."""
        one, other = self.preferences
        lines = [f"{one} against {other}: gains in nats, KL in nats per token"]
        bounds = [self.gain(name) for name in self.preferences]
        kl = self.kl.mean(-1).tolist()
        for k in sorted({0, len(self.shares) // 2, len(self.shares) - 1}):
            pair = [Interval(*(float(x[k]) for x in bound)) for bound in bounds]
            lines.append(
                f"{1 - float(self.shares[k]):.3g} of {one}, {float(self.shares[k]):.3g} of {other}: "
                f"{one} {format_interval(pair[0])}, {other} {format_interval(pair[1])}, "
                f"KL {format_number(kl[k])}"
            )
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """One gain over the other, with the share beside each point."""
        one, other = self.preferences
        return plots.preference_curve(
            *(tuple(x.tolist() for x in self.gain(name)) for name in self.preferences),
            shares=self.shares.tolist(), names=(one, other), unit="nats",
            title=f"What {one} costs {other}",
        )  # fmt: skip
