"""What a search loses over how much of the sites it maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, SupportsFloat

import plotly.graph_objects as go

from steerlens.plots.curves import multiplier_lines
from steerlens.plots.look import INK, house, span


def regret_curve(
    series: Mapping[str, Any],
    *,
    shares: Iterable[SupportsFloat],
    title: str,
    over: str = "share of the sites that is mapped",
) -> go.Figure:
    """A line and a band for each way to choose the sites, over a share that is drawn from 0 on.

    Args:
        series: Name -> (mean, low, high) with 95% intervals, each of shape (share,).
        shares: Which part of the sites is mapped, or which part of another whole is spent.
        over: What the shares are, for the axis.
    """
    figure, x, note = multiplier_lines(series, shares, "of the best gain", "share")
    house(figure, title=title, note=note)
    figure.update_xaxes(title_text=over, range=span([0.0, *x]), tickformat=".0%")
    figure.update_yaxes(
        title_text="share of the best gain that is lost", zeroline=True, zerolinecolor=INK,
        tickformat=".1~%",
    )  # fmt: skip
    return figure
