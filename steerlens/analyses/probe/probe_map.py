"""How readable a contrast is at each site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerlens.analyses.probe.probe_figure import probe_figure
from steerlens.analyses.probe.probe_scores import ProbeScores
from steerlens.analyses.probe.probe_section import probe_section
from steerlens.results import Result, labelled

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from steerlens.report.section import Section


@dataclass(frozen=True, eq=False, repr=False)
class ProbeMap(ProbeScores):
    """How readable a contrast is at each site: held-out scores of every text, and a control.

    The fields are those of `ProbeScores`; everything else is derived from them.
    """

    def summary(self) -> str:
        """The best site with its AUROC, and the control."""
        name = self.made_by.get("data_name", "the contrast")
        head = f"How readable is {name} at each layer? ({self.made_by.get('model', '')})"
        return f"{head}\n{self.run_summary({})}"

    def run_summary(self, beside: Mapping[str, Result]) -> str:
        """The same in one line."""
        value, low, high = self.best_auroc
        ends = f" [{low:.3f}, {high:.3f}]" if self.best_auroc.known else ""
        found = f"best at {self.best}: AUROC {value:.3f}{ends}, {self.examples}"
        if self.chosen_rows is not None:
            found += ", chosen and reported on different folds"
        if len(self.control):
            control = self.control_auroc
            found += f"; shuffled labels {float(control.min()):.2f} to {float(control.max()):.2f}"
        return labelled("probe", found)

    @property
    def headline_numbers(self) -> Mapping[str, float]:
        """AUROC of the best site, chosen and reported on different folds."""
        value, low, high = self.best_auroc
        found = {"auroc": value, "auroc_low": low, "auroc_high": high}
        return {**found, "probe_layer": float(self.best.layer)}

    def plot(self) -> go.Figure:
        """AUROC and accuracy per layer with intervals, and the shuffled-label control."""
        return probe_figure(self)

    def section(self, beside: Mapping[str, Result]) -> Section:
        """What the probe says on the report page.

        Its numbers by layer are in the table of a steerability map, where there is one.
        """
        return probe_section(self, with_map="map" in beside)
