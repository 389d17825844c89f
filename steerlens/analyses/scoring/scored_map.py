"""A score of the user's own in every cell of a grid of interventions and multipliers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens import plots, stats
from steerlens.results import Column, RowResult
from steerlens.results.grid import find_multiplier
from steerlens.sites import Site
from steerlens.stats import Interval

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False)
class ScoredMap(RowResult):
    """A score of every prompt under every intervention at every multiplier.

    Everything else is derived. A change is the score minus that of the unsteered model on the same
    prompt; its intervals are 95%, over groups of prompts, each for its own cell. There is no null
    and no cost here: `steerability` has both, for questions with two answers.
    """

    kind: ClassVar[str] = "scored"
    rows: tuple[str, ...]
    sites: tuple[Site | None, ...]
    multipliers: Float[Tensor, " multiplier"]
    prompts: tuple[str, ...]
    scores: Float[Tensor, "row multiplier prompt"]
    groups: Int[Tensor, " prompt"]
    """The group of near-duplicates of each prompt."""
    score: str
    """What the score is called."""
    made_by: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def changes(self) -> Float[Tensor, "row multiplier prompt"]:
        """Steered minus unsteered."""
        zero = find_multiplier(self.multipliers, 0.0)
        return self.scores - self.scores[:, zero, None]

    @cached_property
    def change_interval(
        self,
    ) -> tuple[
        Float[Tensor, "row multiplier"],
        Float[Tensor, "row multiplier"],
        Float[Tensor, "row multiplier"],
    ]:
        """Mean change with its interval; NaN ends below 8 groups of prompts."""
        value, low, high = stats.mean_interval(self.changes, self.groups)
        none = self.multipliers == 0
        return value, low.masked_fill(none, 0.0), high.masked_fill(none, 0.0)

    def columns(self) -> list[Column]:
        """Score and change of every prompt."""
        axes = ("row", "multiplier", "prompt")
        return [Column("score", axes, self.scores), Column("change", axes, self.changes)]

    def change(self, row: Any, multiplier: Any) -> Interval:
        """Mean change of one cell with its interval.

        Args:
            row: The name of the row, its site, or its layer.
        """
        at = self.find(row), find_multiplier(self.multipliers, multiplier)
        value, low, high = (float(part[at]) for part in self.change_interval)
        return Interval(value, low, high)

    def summary(self) -> str:
        """The unsteered mean, and the cells that raise and lower the score most."""
        zero = find_multiplier(self.multipliers, 0.0)
        mean = self.change_interval[0]
        lines = [
            f"{self.score} of {len(self.prompts)} prompts, unsteered "
            f"{float(self.scores[0, zero].mean()):.4g}"
        ]
        for word, index in (("raised", int(mean.argmax())), ("lowered", int(mean.argmin()))):
            i, j = divmod(index, mean.shape[1])
            found = self.change(self.rows[i], self.multipliers[j])
            lines.append(
                f"  most {word} by {found} at {self.row_name(i)}, multiplier "
                f"{float(self.multipliers[j]):g}"
            )
        lines.append(
            f"  the best of {mean.numel()} cells on the prompts that chose it: measure it again on "
            "others"
        )
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Row x multiplier: mean change of the score."""
        value, low, high = self.change_interval
        rows = "intervention" if self.layers is None else "layer"
        return plots.layer_heatmap(
            value.tolist(),
            rows=self.row_labels,
            columns=self.multipliers.tolist(),
            unit=self.score,
            quantity="change",
            title=f"Change of {self.score} by {rows} and multiplier",
            note=f"Mean over {len(self.prompts)} prompts, steered minus unsteered.",
            hover=[
                [
                    "" if torch.isnan(a + b) else f"95% interval [{float(a):.3g}, {float(b):.3g}]"
                    for a, b in zip(lows, highs, strict=True)
                ]
                for lows, highs in zip(low, high, strict=True)
            ],
        )
