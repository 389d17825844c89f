"""What ways of adapting a model gain from few pairs and from many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.comparison.crossed import crossed_interval
from steerlens.report.numbers import format_number, format_signed
from steerlens.results import Column, Result, labelled
from steerlens.stats import Bounds

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DataCurve(Result):
    """Gains at equal cost of ways that were made of so many pairs, question by question."""

    kind: ClassVar[str] = "data_curve"

    ways: tuple[str, ...]
    sizes: tuple[int, ...]
    """Pairs that a way was made of; the smaller sets are the first pairs of the larger ones."""
    concept: str
    budget: float
    """Nats of KL per token of ordinary text."""
    values: Float[Tensor, "way size repeat question"]
    """Gain in nats; NaN where no multiplier costs the budget."""
    multiplier: Float[Tensor, "way size repeat"]
    """The multiplier that costs the budget."""
    groups: tuple[str, ...]
    """The group of each question."""
    made_by: dict[str, Any]

    @property
    def gain(self) -> Bounds:
        """The mean gain [way, size] with its interval over groups of questions and repetitions."""
        return crossed_interval([self.values], [stats.group_numbers(self.groups)])

    def columns(self) -> Sequence[Column]:
        """The gain of every way and size with its interval."""
        ends = zip(("gain", "gain_low", "gain_high"), self.gain, strict=True)
        return [Column(name, ("way", "size"), values) for name, values in ends]

    def pairs_for(self, share: float = 0.9) -> dict[str, int | None]:
        """The fewest pairs that give a share of what the most pairs give, by way.

        Args:
            share: Of the gain with the most pairs.

        Returns:
            None for a way whose gain with the most pairs is not clearly above 0.
        """
        value, low, _ = self.gain
        found: dict[str, int | None] = {}
        for i, way in enumerate(self.ways):
            known = bool(low[i, -1] > 0)
            enough = [
                n for n, x in zip(self.sizes, value[i], strict=True) if x >= share * value[i, -1]
            ]
            found[way] = enough[0] if known and enough else None
        return found

    def summary(self) -> str:
        """The gain of every way at every number of pairs."""
        lines = [
            f"Gain on {self.concept} in nats, by pairs, at {format_number(self.budget)} nats of KL:"
        ]
        for way, row in zip(self.ways, self.gain[0], strict=True):
            words = [f"{n}: {format_signed(x)}" for n, x in zip(self.sizes, row, strict=True)]
            lines.append(labelled(way, ", ".join(words)))
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Gain over the number of pairs, a line with its band for each way."""
        bounds = self.gain
        figure = plots.measured_lines(
            {
                way: (list(self.sizes), tuple(part[i].tolist() for part in bounds))
                for i, way in enumerate(self.ways)
                if bool(torch.isfinite(bounds[0][i]).any())
            },
            title=f"What each way gains from few pairs and from many, on {self.concept}",
            x="pairs",
            y="gain (nats)",
            unit="nats",
            log=True,
            rule=(0.0, "no gain"),
            note=f"At {format_number(self.budget)} nats of KL per token. Bands: 95% intervals.",
        )
        return figure.update_xaxes(tickvals=self.sizes, ticktext=[str(n) for n in self.sizes])
