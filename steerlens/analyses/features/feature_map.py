"""How much each feature x multiplier changes the propensity, and at what cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens import plots, stats
from steerlens.results import Column, Result
from steerlens.sites import Site

if TYPE_CHECKING:
    import plotly.graph_objects as go

UNITS = {
    "add": "median residual norms",
    "clamp": "1: at its largest activation",
    "ablate": "1: off",
}


@dataclass(frozen=True, eq=False, repr=False)
class FeatureMap(Result):
    """Propensity and cost of editing some features of one SAE. Everything else is derived.

    As `SteerabilityMap`, with features as its rows. Where features are added, multipliers are in
    units of the stream's median norm, and a negative one subtracts the feature. Which sign gives
    more of the concept depends on the feature.
    """

    kind: ClassVar[str] = "feature_map"

    site: Site
    features: tuple[int, ...]
    multipliers: Float[Tensor, " multiplier"]
    propensities: Float[Tensor, "feature multiplier example"]
    """Log-odds of the positive over the negative answer, in nats."""
    utilities: Float[Tensor, "feature multiplier example"]
    """Log-odds of either answer over anything else, in nats."""
    kl: Float[Tensor, "feature multiplier text"]
    """KL from the unsteered to the steered model on ordinary text, in nats per token."""
    random: Float[Tensor, "null feature multiplier"]
    """Mean gain of as many random directions of the same length, or of as many random features that
    are edited in the same way."""
    budget: float
    """Nats of KL per token that a recommended cell may cost."""
    made_by: dict[str, Any] = field(default_factory=dict)
    groups: Int[Tensor, " example"] | None = None
    """The group of each example, the unit of every interval; None where each is a group."""

    @property
    def operation(self) -> str:
        """What was done to the features: "add", "clamp" or "ablate"."""
        return self.made_by.get("operation", "add")

    @property
    def _zero(self) -> int:
        return int((self.multipliers == 0).nonzero()[0])

    @cached_property
    def gains(self) -> Float[Tensor, "feature multiplier example"]:
        """Propensity minus the unsteered propensity, in nats."""
        return self.propensities - self.propensities[:, self._zero, None]

    @cached_property
    def gain_interval(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean gain per cell with its 95% interval over examples."""
        found = stats.mean_interval(self.gains, self.groups)
        mean, low, high = (part.masked_fill(self.multipliers == 0, 0.0) for part in found)
        return mean, low, high

    @property
    def cost(self) -> Float[Tensor, "feature multiplier"]:
        """Mean KL per cell, in nats per token."""
        return self.kl.mean(-1)

    @property
    def utility_change(self) -> Float[Tensor, "feature multiplier"]:
        """Mean change of the utility log-odds per cell, in nats."""
        return (self.utilities - self.utilities[:, self._zero, None]).mean(-1)

    @property
    def within_budget(self) -> Bool[Tensor, "feature multiplier"]:
        """Cells whose KL is within the budget."""
        return self.cost <= self.budget

    @cached_property
    def null(self) -> stats.NullTest | None:
        """Against the largest effect, of either sign, of as many random directions or features.

        So the search over features and multipliers counts. None without null maps.
        """
        if not len(self.random):
            return None
        return stats.max_statistic(self.gains.mean(-1).abs(), self.random.abs())

    @property
    def above_null(self) -> Bool[Tensor, "feature multiplier"]:
        """Cells that change the propensity, up or down, more than random ones do.

        Without null maps, every cell but the unsteered ones.
        """
        if self.null is None:
            return (self.multipliers != 0).expand(len(self.features), -1)
        return self.null.above

    @property
    def best(self) -> tuple[int, float] | None:
        """Feature and multiplier with the largest gain above the null and within the budget."""
        allowed = self.above_null & self.within_budget & (self.gains.mean(-1) > 0)
        if not bool(allowed.any()):
            return None
        gain = self.gains.mean(-1).masked_fill(~allowed, -torch.inf)
        i, j = divmod(int(gain.argmax()), gain.shape[1])
        return self.features[i], float(self.multipliers[j])

    def columns(self) -> Sequence[Column]:
        """Gain with its interval, costs, and whether it is more than chance, of every cell."""
        axes = ("feature", "multiplier")
        parts = zip(("", "_low", "_high"), self.gain_interval, strict=True)
        found = [
            *(Column(f"gain{end}", axes, part) for end, part in parts),
            Column("kl", axes, self.cost),
            Column("utility_change", axes, self.utility_change),
            Column("within_budget", axes, self.within_budget),
        ]
        if self.null is not None:
            found.append(Column("above_null", axes, self.above_null))
        return found

    def summary(self) -> str:
        """A few lines: the best cell, its gain and cost, the null."""
        lines = [f"{len(self.features)} features of {self.made_by.get('sae', self.site)}"]
        if self.best is None:
            above = "" if self.null is None else "is above the null and "
            lines.append(f"  no cell {above}gains within {self.budget:g} nats of KL per token")
        else:
            feature, m = self.best
            i = self.features.index(feature)
            j = int((self.multipliers == torch.tensor(m)).nonzero()[0])
            mean, low, high = (float(part[i, j]) for part in self.gain_interval)
            lines += [
                f"  best cell  feature {feature} at multiplier {m:+g}",
                f"  gain       {stats.Interval(mean, low, high)} nats on the examples that chose it",
                f"  cost       {float(self.cost[i, j]):.3g} nats of KL per token, utility "
                f"{float(self.utility_change[i, j]):+.3g} nats",
            ]
        if self.null is None:
            lines.append("  null       none was measured (nulls=0), so there is no p-value")
        else:
            lines.append(
                f"  null       p = {self.null.p_value:.3g} against {len(self.random)} sets of "
                f"{len(self.features)} random "
                + ("directions" if self.operation == "add" else "features")
            )
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Feature x multiplier: mean gain, with the null and the budget marked."""
        mean, low, high = self.gain_interval
        hover = [
            [
                f"[{low[i, j]:.3g}, {high[i, j]:.3g}] nats<br>KL {self.cost[i, j]:.3g} nats per "
                f"token<br>utility {self.utility_change[i, j]:+.3g} nats"
                for j in range(len(self.multipliers))
            ]
            for i in range(len(self.features))
        ]
        best = None if self.best is None else (f"feature {self.best[0]}", self.best[1])
        return plots.layer_heatmap(
            mean.tolist(),
            rows=[f"feature {feature}" for feature in self.features],
            columns=self.multipliers.tolist(),
            unit="nats",
            quantity="gain",
            title=f"Gain by feature and multiplier at {self.site} ({self.operation}), "
            f"{self.made_by.get('data_name', '')}",
            column_title=f"multiplier ({UNITS[self.operation]})",
            best=best,
            below_null=(~self.above_null & (self.multipliers != 0)).tolist(),
            over_budget=(~self.within_budget).tolist(),
            hover=hover,
        )
