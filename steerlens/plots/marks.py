"""What several figures draw: lines with bands, whiskers, rules, legend keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from steerlens.plots.arrays import Array, Band, holes
from steerlens.plots.look import INK, PALETTE, SEQUENTIAL, SYMBOLS
from steerlens.plots.words import safe


def line(
    figure: go.Figure,
    name: str,
    x: Array,
    band: Band,
    *,
    hover: Sequence[str],
    unit: str,
    colour: str,
    symbol: str = "circle",
    dash: str = "solid",
    listed: bool = True,
    joined: bool = True,
    quantity: str | None = None,
    **panel: int,
) -> None:
    """A line with markers and, where it has an interval, a shaded band behind it.

    Args:
        joined: False for places without an order, such as names: points with whiskers.
        hover: Where each point is, in words.
        listed: Whether the line is in the legend.
        quantity: What the values are, where the figure shows several quantities.
        panel: The row and col of the panel to draw in.
    """
    label = safe(name)
    if joined and band.has_interval:
        xs, ys = _outline(x, band)
        figure.add_scatter(
            x=xs,
            y=ys,
            fill="toself",
            mode="lines",
            line={"width": 0},
            fillcolor=_faded(colour),
            legendgroup=name,
            name=f"{label} interval",
            **panel,
        )
    figure.add_scatter(
        x=x.tolist(),
        y=holes(band.mean),
        mode="lines+markers" if joined else "markers",
        line={"color": colour, "width": 2, "dash": dash},
        marker={"symbol": symbol, "size": 7 if len(x) <= 24 else 5, "color": colour},
        error_y=None if joined else whiskers(band, colour, width=4),
        hovertext=[
            f"{label}<br>{where}<br>{band.text(i, unit, quantity)}" for i, where in enumerate(hover)
        ],
        showlegend=listed,
        legendgroup=name,
        name=label,
        **panel,
    )


def _outline(x: Array, band: Band) -> tuple[list[Any], list[Any]]:
    """The outline of a band, one polygon for each unbroken run of measured points."""
    fine = ~(np.isnan(band.low) | np.isnan(band.high))
    step = float(np.diff(x).min()) if len(x) > 1 else 1.0
    xs: list[Any] = []
    ys: list[Any] = []
    for run in np.split(np.arange(len(x)), np.flatnonzero(np.diff(fine)) + 1):
        if not fine[run[0]]:
            continue
        at, low, high = x[run].tolist(), band.low[run].tolist(), band.high[run].tolist()
        if len(run) == 1:  # a lone point has no width of its own
            at = [at[0] - 0.15 * step, at[0] + 0.15 * step]
            low, high = low * 2, high * 2
        gap = [None] if xs else []
        xs += [*gap, *at, *at[::-1], at[0]]
        ys += [*gap, *high, *low[::-1], high[0]]
    return xs, ys


def _faded(colour: str) -> str:
    if colour.startswith("rgb("):
        return f"rgba({colour[4:-1]}, 0.16)"
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r}, {g}, {b}, 0.16)"


def series_looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and symbol of each series; more series than the palette has run along viridis."""
    colours = list(PALETTE)
    if len(names) > len(PALETTE):
        places = [i / (len(names) - 1) for i in range(len(names))]
        colours = sample_colorscale(list(SEQUENTIAL), places)
    return {
        name: {"colour": str(colours[i]), "symbol": SYMBOLS[i % len(SYMBOLS)]}
        for i, name in enumerate(names)
    }


def whiskers(band: Band, colour: str, width: float = 0) -> dict[str, Any] | None:
    """Error bars from the mean to the ends of the intervals; None where there are none."""
    if not band.has_interval:
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": holes(band.high - band.mean),
        "arrayminus": holes(band.mean - band.low),
        "color": colour,
        "thickness": 1.2,
        "width": width,
    }


def rule(
    figure: go.Figure, x: Sequence[float], y: Sequence[float], name: str, **panel: int
) -> None:
    """A dashed line to compare with, named in the legend."""
    figure.add_scatter(
        x=list(x),
        y=list(y),
        mode="lines",
        line={"color": INK, "width": 1.3, "dash": "dash"},
        hovertext=name,
        showlegend=True,
        name=name,
        **panel,
    )


def key(figure: go.Figure, name: str, *, symbol: str, size: float, color: str) -> None:
    """A legend entry without a point, for a mark that is drawn cell by cell."""
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        marker={"symbol": symbol, "size": size, "color": color}
        | ({"line": {"width": 2}} if symbol.endswith("open") else {}),
        legendgroup=name,
        showlegend=True,
        name=name,
    )
