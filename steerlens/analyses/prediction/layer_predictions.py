"""What is known of each layer before it is steered, and how well it orders what steering did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, SupportsFloat

from jaxtyping import Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.prediction.layer_sets import best_first
from steerlens.analyses.steerability.map_numbers import MapNumbers
from steerlens.arguments import ArgumentError, as_float
from steerlens.report.numbers import format_interval, format_number, format_signed
from steerlens.report.section import Figure, Heading, Printed, Section, Table
from steerlens.results import Column, Result
from steerlens.results.grid import layers_of
from steerlens.sites import Site
from steerlens.stats import Interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

AT_BUDGET = ("slope at budget", "mediated at budget", "direct at budget")
"""Predictors in nats, which a figure can show beside a gain."""


def part_of_whole(share: SupportsFloat) -> float:
    """A part of a whole as a float; raises ArgumentError unless it is one."""
    part = as_float("share", share, finite=False)
    if not 0 < part <= 1:
        raise ArgumentError(f"share={part:g} is not a part. Use a number above 0, at most 1.")
    return part


@dataclass(frozen=True, eq=False, repr=False)
class LayerPredictions(Result):
    """One number of every predictor for every site, measured without steering a question.

    `predict_layers` makes it; `steerlens.analyses.prediction.predictors` says what each is.
    """

    kind: ClassVar[str] = "predictions"
    names: tuple[str, ...]
    """Names of the predictors."""
    sites: tuple[Site, ...]
    values: Float[Tensor, "predictor site"]
    budget: float
    """Nats of KL per token for which the lengths of the predictors "at budget" are."""
    made_by: dict[str, Any]

    def value(self, name: str) -> Float[Tensor, " site"]:
        """One predictor at every site.

        Raises:
            ArgumentError: If there is no such predictor.
        """
        if name not in self.names:
            raise ArgumentError(
                f"predictor={name!r} is not one of {', '.join(self.names)}. Use one of them."
            )
        return self.values[self.names.index(name)]

    def shortlist(self, share: SupportsFloat = 0.2, by: str = "mediated at budget") -> list[Site]:
        """The sites that a predictor puts first, best first.

        Args:
            share: Which part of the sites to keep; at least one is kept.
            by: The predictor that orders them. NaN comes last.
        """
        part = part_of_whole(share)
        order = best_first(self.value(by))
        count = max(1, round(part * len(self.sites)))
        return [self.sites[i] for i in order[:count].tolist()]

    def correlation(self, name: str, outcome: Float[Tensor, " site"]) -> Interval:
        """Spearman's correlation over sites of a predictor with what steering did there.

        Args:
            outcome: One number for each site, e.g. `row_scores` of a map. Sites where it or
                the predictor is NaN are left out.
        """
        predictor = self.value(name)
        if outcome.shape != predictor.shape:
            raise ArgumentError(
                f"outcome has shape {tuple(outcome.shape)} for {len(self.sites)} sites. Give one "
                "number for each site, in the same order."
            )
        known = predictor.isfinite() & outcome.isfinite()
        return stats.rank_correlation(predictor[known], outcome[known])

    def coordinates(self, axis: str, size: int) -> Mapping[str, Sequence[Any]]:
        """Predictors by name, sites with their layers."""
        if axis == "predictor":
            return {"predictor": list(self.names)}
        if axis == "site":
            return {"site": list(map(str, self.sites)), "layer": [s.layer for s in self.sites]}
        return super().coordinates(axis, size)

    def columns(self) -> list[Column]:
        """One column."""
        return [Column("value", ("predictor", "site"), self.values)]

    def summary(self) -> str:
        """The sites that come first, by each of the predictors in nats."""
        lines = [f"predictions for {len(self.sites)} sites, without steering a question"]
        for name in AT_BUDGET[:2]:
            if name in self.names and bool(self.value(name).isfinite().any()):
                best = self.shortlist(1e-9, name)[0]
                nats = float(self.value(name)[self.sites.index(best)])
                lines.append(f"  {name}: first {best}, {nats:+.2f} nats to first order")
        return "\n".join(lines)

    def plot(self, names: Iterable[str] | None = None) -> go.Figure:
        """Predictors in nats over the layers; or some others, each by its own largest size."""
        chosen = [name for name in AT_BUDGET if name in self.names]
        asked = list(names) if names is not None else chosen
        rows = layers_of(tuple(map(str, self.sites)), self.sites) or tuple(map(str, self.sites))
        in_nats = set(asked) <= set(AT_BUDGET)
        series = {}
        for name in asked:
            value = self.value(name)
            largest = value.nan_to_num(0).abs().max().clamp(min=1e-30)
            series[name] = (value if in_nats else value / largest).numpy()
        return plots.layer_curve(
            series, rows=rows, unit="nats" if in_nats else "share of the largest",
            quantity="gain to first order" if in_nats else "predictor",
            title="What is expected of each layer before it is steered",
        )  # fmt: skip

    def section(self, beside: Mapping[str, Result]) -> Section:
        """The figure, and all numbers."""
        head = (Heading("site", number=False), *map(Heading, self.names))
        rows = tuple(
            (str(site), *map(format_number, self.values[:, i].tolist()))
            for i, site in enumerate(self.sites)
        )
        blocks = (
            Printed("\n".join([self.summary(), *self._beside(beside.get("map"))])),
            Figure(self.plot, "To first order: how far the log-odds would move at the budget."),
            Table(head, rows, "What each layer shows without steering a question."),
        )
        return Section("Why this layer", blocks, short="Why this layer")

    def _beside(self, made: Result | None) -> list[str]:
        """How well the predictors order what a map of the same sites found, and its chosen site."""
        if not isinstance(made, MapNumbers) or made.sites != self.sites:
            return []
        lines, gains = [], made.row_scores
        for name in AT_BUDGET[:1]:
            if name in self.names:
                found = format_interval(self.correlation(name, gains), format_signed)
                lines.append(
                    f"  Spearman of {name} with the map's best gain within the budget: {found}"
                )
        chosen = made.chosen
        if chosen is not None:
            site = self.sites[made.index(chosen)[0]]
            places = [
                f"number {self.shortlist(1.0, name).index(site) + 1} by {name}"
                for name in AT_BUDGET
                if name in self.names
            ]
            lines.append(
                f"  {site} is chosen; of {len(self.sites)} sites it is {', '.join(places)}"
            )
        return lines
