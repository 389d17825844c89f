"""How near interventions bring a model to a target distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.ratios import Bounds, ratio_of_means
from steerlens.report.numbers import format_interval
from steerlens.results import Column, RowResult
from steerlens.results.summary_lines import labelled
from steerlens.sites import Site
from steerlens.stats import Interval

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TargetShare(RowResult):
    """KL from a target distribution in every cell, and the share of it that steering removes.

    share(m) = 1 - KL(p* ‖ p_m) / KL(p* ‖ p_0)

    1 is the target itself, 0 the unsteered model; below 0 steering leads away. Overshoot and broken
    text lower it as much as too little steering, so it needs no second number beside it.
    """

    kind: ClassVar[str] = "target"

    rows: tuple[str, ...]
    sites: tuple[Site | None, ...]
    multipliers: Float[Tensor, " multiplier"]
    kl: Float[Tensor, "row multiplier example"]
    """KL(p* ‖ p_m) in nats per token, a mean over each answer's tokens."""
    unsteered: Float[Tensor, " example"]
    """KL(p* ‖ p_0)."""
    groups: tuple[str, ...]
    """The group of each example, the unit of the intervals."""
    made_by: dict[str, Any]

    @property
    def share(self) -> Float[Tensor, "row multiplier"]:
        """The share of the KL that is removed: of its mean over examples."""
        return 1 - self.kl.mean(-1) / self.unsteered.mean()

    @property
    def share_interval(self) -> Bounds:
        """`share` with its 95% interval over groups (Fieller): value, low, high."""
        groups = stats.group_numbers(self.groups)
        before = self.unsteered.expand_as(self.kl)
        ratio, low, high = ratio_of_means(self.kl, before, (groups, groups), matched=True)
        return 1 - ratio, 1 - high, 1 - low

    def best(self, row: str | int) -> tuple[float, float]:
        """The multiplier with the highest share in a row, and that share.

        The highest of many is biased upwards; report it on examples that did not choose it.
        """
        shares = self.share[self.find(row)]
        k = int(shares.argmax())
        return float(self.multipliers[k]), float(shares[k])

    def columns(self) -> list[Column]:
        """Share with its interval, and the mean KL, of every cell."""
        names = ("share", "share_low", "share_high")
        axes = ("row", "multiplier")
        found = [Column(n, axes, x) for n, x in zip(names, self.share_interval, strict=True)]
        return [*found, Column("kl", axes, self.kl.mean(-1))]

    def summary(self) -> str:
        """The best cell of every row."""
        lines = [
            f"How near to {self.made_by['target']}? KL of the unsteered model "
            f"{float(self.unsteered.mean()):.4f} nats per token"
        ]
        shares = self.share_interval
        for i, row in enumerate(self.rows):
            k = int(shares[0][i].argmax())
            value, low, high = (float(x[i, k]) for x in shares)
            lines.append(
                labelled(
                    row,
                    f"share {format_interval(Interval(value, low, high), _two_digits)} at "
                    f"{float(self.multipliers[k]):+g}",
                )
            )
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """The share over the multiplier, a line for each row."""
        bands = self.share_interval
        return plots.share_lines(
            {row: tuple(bound[i].tolist() for bound in bands) for i, row in enumerate(self.rows)},
            multipliers=self.multipliers.tolist(),
            title=f"How near to {self.made_by['target']}",
        )


def _two_digits(share: float) -> str:
    return f"{share:.2f}"
