"""The figure of a probe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerlens import plots
from steerlens.analyses.probe.probe_scores import ProbeScores

if TYPE_CHECKING:
    import plotly.graph_objects as go

CONTROL = "AUROC, shuffled labels"


def probe_figure(scores: ProbeScores) -> go.Figure:
    """AUROC and accuracy of every site with intervals, and the shuffled-label control."""
    series = {"AUROC": scores.auroc_interval, "accuracy": scores.accuracy_interval}
    note = "95% interval"
    if len(scores.control):
        control = scores.control_auroc
        series[CONTROL] = (control.mean(0), control.amin(0), control.amax(0))
        note += "; for shuffled labels, the range"
    return plots.layer_curve(
        {name: tuple(x.tolist() for x in band) for name, band in series.items()},
        rows=scores.row_labels,
        unit="share",
        title=f"How readable is {scores.made_by.get('data_name', 'the contrast')} at each layer",
        controls=[name for name in series if name == CONTROL],
        reference=0.5,
        band_label=note,
    )
