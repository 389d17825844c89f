"""How far each feature x multiplier moves behaviour, and at what cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.sites import Site
from steerlens.store import result_files as files

if TYPE_CHECKING:
    import plotly.graph_objects as go

UNITS = {
    "add": "median residual norms",
    "clamp": "1: at its largest activation",
    "ablate": "1: off",
}


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Propensity and cost of editing some features of one SAE. Everything else is derived.

    As `SteerabilityMap`, with features in place of sites. Where features are added, multipliers
    are in units of the stream's median norm, and a negative one subtracts the feature: which sense
    does more of the concept is the feature's own, so gains are not turned by the multiplier's sign.
    """

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
    """Mean gain of random directions of the same length, or of random features that are edited in
    the same way; as many as features."""
    budget: float
    made_by: dict[str, Any] = field(default_factory=dict)

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
        return stats.mean_interval(self.gains)

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
    def null(self) -> stats.NullThreshold:
        """Against the largest effect, in either sense, of as many random directions or features.

        So the search over features and multipliers counts.
        """
        return stats.max_statistic(self.gains.mean(-1).abs(), self.random.abs())

    @property
    def above_null(self) -> Bool[Tensor, "feature multiplier"]:
        """Cells that move the propensity, up or down, more than random ones do."""
        return self.gains.mean(-1).abs() > self.null.threshold

    @property
    def best(self) -> tuple[int, float] | None:
        """Feature and multiplier with the largest gain above the null and within the budget."""
        allowed = self.above_null & self.within_budget & (self.gains.mean(-1) > 0)
        if not bool(allowed.any()):
            return None
        gain = self.gains.mean(-1).masked_fill(~allowed, -torch.inf)
        i, j = divmod(int(gain.argmax()), gain.shape[1])
        return self.features[i], float(self.multipliers[j])

    def summary(self) -> str:
        """A few lines: the best cell, its gain and cost, the null."""
        lines = [f"{len(self.features)} features of {self.made_by.get('sae', self.site)}"]
        if self.best is None:
            lines.append(f"  no cell is above the null within {self.budget:g} nats of KL per token")
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
        return plots.feature_heatmap(
            mean.tolist(),
            features=list(self.features),
            columns=self.multipliers.tolist(),
            unit="nats",
            quantity="gain",
            title=f"Gain by feature and multiplier at {self.site} ({self.operation}), "
            f"{self.made_by.get('data_name', '')}",
            column_title=f"multiplier ({UNITS[self.operation]})",
            best=self.best,
            below_null=(~self.above_null & (self.multipliers != 0)).tolist(),
            over_budget=(~self.within_budget).tolist(),
            hover=hover,
        )

    def save(self, directory: Path | str) -> Path:
        """Writes feature_map.safetensors and feature_map.json into a folder."""
        names = ("multipliers", "propensities", "utilities", "kl", "random")
        tensors = {name: getattr(self, name) for name in names}
        tensors["features"] = torch.tensor(self.features)
        return files.save(
            Path(directory), "feature_map", tensors, (self.site,), self.made_by, budget=self.budget
        )

    @classmethod
    def load(cls, directory: Path | str) -> FeatureMap:
        """Reads what `save` wrote."""
        tensors, sites, made_by = files.load(Path(directory), "feature_map")
        budget = made_by.pop("_extra")["budget"]
        features = tuple(tensors.pop("features").tolist())
        return cls(site=sites[0], features=features, budget=budget, made_by=made_by, **tensors)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        return self.plot()._repr_mimebundle_(include, exclude)

    def __repr__(self) -> str:
        return self.summary()
