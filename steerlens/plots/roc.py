"""Receiver operating characteristics: how often something holds where it should, and where not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from steerlens.plots.arrays import array
from steerlens.plots.look import INK, PALETTE, house
from steerlens.plots.marks import rule
from steerlens.plots.narrow import make_narrow
from steerlens.plots.words import number


def roc_curve(
    false: Sequence[float],
    true: Sequence[float],
    *,
    thresholds: Sequence[float],
    chosen: int,
    title: str,
) -> go.Figure:
    """The share of true over that of false triggers, and the chosen threshold.

    Args:
        false: Share of those without it for which it holds, one for each threshold.
        true: Share of those with it.
        chosen: The number of the chosen threshold.

    Raises:
        ValueError: If the three do not have the same length, or a share is infinite.
    """
    x, y = array("false", list(false)), array("true", list(true), (len(false),), "step")
    at = array("thresholds", list(thresholds), (len(x),), "step")
    figure = go.Figure()
    rule(figure, [0.0, 1.0], [0.0, 1.0], "chance")
    words = [
        f"threshold {number(t)}<br>{b:.0%} of those that have it<br>{a:.0%} of the others"
        for t, a, b in zip(at, x, y, strict=True)
    ]
    figure.add_scatter(
        x=x.tolist(),
        y=y.tolist(),
        mode="lines",
        line={"color": PALETTE[0], "width": 2, "shape": "hv"},
        hovertext=words,
        showlegend=False,
        name="ROC",
    )
    figure.add_scatter(
        x=[float(x[chosen])],
        y=[float(y[chosen])],
        mode="markers",
        marker={"symbol": "diamond", "size": 11, "color": PALETTE[1], "line": {"color": INK}},
        hovertext=[words[chosen]],
        showlegend=True,
        name=f"chosen threshold, {number(float(at[chosen]))}",
    )
    area = float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))
    note = f"Area under the curve {area:.2f}"
    house(figure, title=title, note=note, height=500)
    figure.update_xaxes(title_text="holds for prompts without it", range=[-0.02, 1.02])
    figure.update_yaxes(title_text="holds for prompts with it", range=[-0.02, 1.02])
    for axis in ("xaxis", "yaxis"):
        figure.update_layout({axis: {"tickformat": ".0%", "constrain": "domain"}})
    figure.update_layout(yaxis_scaleanchor="x")  # both are shares of prompts: a square at any width
    make_narrow(figure, title=title, note=note, left=52)
    return figure
