"""The house look: colours, margins, axes, legends, colour bars."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from steerlens.plots.arrays import Array
from steerlens.plots.words import broken, number

INK = "#222222"
QUIET = "#6b6b6b"
RULE = "#e4e4e4"
MISSING = "#b9b9b9"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "triangle-down", "cross")
DIVERGING = [
    [i / 10, colour] for i, colour in enumerate((
        "#053061", "#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#fafafa",
        "#fddbc7", "#f4a582", "#d6604d", "#b2182b", "#67001f",
    ))
]  # fmt: skip
# The yellow end of viridis is lost on white paper, so it is left out.
SEQUENTIAL = tuple(sample_colorscale("Viridis", [0.9 * i / 8 for i in range(9)]))
FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"
MONO = "'DejaVu Sans Mono', Menlo, Consolas, 'Liberation Mono', monospace"
# These would cover the title; double click zooms out, and nothing is sent anywhere.
IDLE_BUTTONS = [
    "zoom2d", "pan2d", "select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d",
    "sendChartToCloud",
]  # fmt: skip
WIDTH = 700
"""Pixels a figure must be readable at; it stretches to its container above that."""
AXIS: dict[str, Any] = {
    "showgrid": True,
    "gridcolor": RULE,
    "zeroline": False,
    "zerolinecolor": QUIET,
    "showline": True,
    "linecolor": QUIET,
    "ticks": "outside",
    "tickcolor": QUIET,
    "title": {"font": {"size": 13}, "standoff": 8},
}
CELLS: dict[str, Any] = {"showgrid": False, "zeroline": False, "showline": False, "ticks": ""}
"""An axis of cells, which need no lines of their own."""
BAR: dict[str, Any] = {
    "thickness": 12,
    "outlinewidth": 0,
    "tickfont": {"size": 11},
    "ticks": "outside",
}


def house(
    figure: go.Figure,
    *,
    title: str,
    note: str = "",
    height: int = 450,
    left: int = 68,
    right: int = 30,
) -> None:
    """Writes the house layout into a figure whose traces are all there.

    Only traces that ask for it (`showlegend=True`) are in the legend; those with a `hovertext` show
    it and the others do not answer the mouse.
    """
    for trace in figure.data:
        shown: Any = trace
        shown.showlegend = bool(shown.showlegend)
        shown.hoverinfo = shown.hoverinfo or ("skip" if shown.hovertext is None else "text")
    titles = broken(title, 76).split("<br>")
    notes = broken(note, 100).split("<br>") if note else []
    lines = [f"<b>{line}</b>" for line in titles]
    lines += [f"<span style='font-size:12px;color:{QUIET}'>{line}</span>" for line in notes]
    traces: list[Any] = list(figure.data)
    rows = legend_rows([t.name for t in traces if t.showlegend], WIDTH - left - right)
    _state(figure.layout, {
        "template": "none",
        "title": {
            "text": "<br>".join(lines),
            "x": 0,
            "y": 1,
            # plotly lifts a title of several lines by most of a line.
            "pad": {"l": 14, "t": 26 if len(lines) > 1 else 14},
            "font": {"size": 15, "color": INK},
        },
        "font": {"family": FONT, "size": 12, "color": INK},
        "height": height,
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "white", "font": {"family": FONT, "color": INK}, "align": "left"},
        "margin": {
            "l": left,
            "r": right,
            "t": 26 + 20 * len(titles) + 18 * len(notes),
            "b": 52 + (8 + 20 * rows if rows else 0),
            # Room is counted here; plotly's own guesses move titles and shrink the panel.
            "autoexpand": False,
        },
        "modebar": {"remove": IDLE_BUTTONS, "bgcolor": "rgba(255,255,255,0)"},
        "showlegend": rows > 0,
        "legend": {
            "orientation": "h",
            "xref": "container",
            "x": 0.5,
            "xanchor": "center",
            "yref": "container",
            "y": 0.01,
            "traceorder": "normal",
        },
    })  # fmt: skip
    for axis in (*figure.select_xaxes(), *figure.select_yaxes()):
        _state(axis, AXIS)


def _state(part: Any, stated: Mapping[str, Any]) -> None:
    """What `part.update(stated)` does, in a fraction of its time."""
    for name, value in stated.items():
        if isinstance(value, dict) and part[name].to_plotly_json():
            part[name].update(value)
        else:
            part[name] = value


def legend_rows(names: Sequence[str], room: float) -> int:
    """Rows a horizontal legend takes at the narrowest width; plotly aligns wrapped columns."""
    if not names:
        return 0
    widths = [48 + 6.4 * len(name) for name in names]
    if sum(widths) <= room:
        return 1
    return math.ceil(len(names) / max(1, int(room // max(widths))))


def colour_range(values: Array) -> tuple[float, bool]:
    """Half the colour range about zero, and whether a value lies beyond it.

    Only isolated cells are clipped (one, and one more for each 300 cells), and only when they are
    more than three times beyond all others: a single live layer must not be taken for an outlier.
    """
    sizes = np.sort(np.abs(values[~np.isnan(values)]))
    largest = float(sizes[-1]) if sizes.size else 0.0
    rest = float(sizes[-2 - sizes.size // 300]) if sizes.size >= 6 else 0.0
    if 0 < 3 * rest < largest:
        return rest, True
    return largest or 1.0, False


def colour_bar(title: str, top: float, clipped: bool) -> dict[str, Any]:
    """The colour bar of a range about zero; it says so where the range was clipped."""
    if not clipped:
        return BAR | {"title": {"text": broken(title, 15), "font": {"size": 12}}, "nticks": 5}
    end = number(top, 3)
    return BAR | {
        "title": {"text": f"{broken(title, 15)}<br>clipped at<br>±{end}", "font": {"size": 12}},
        "tickvals": [-top, 0, top],
        "ticktext": [f"≤ −{end}", "0", f"≥ {end}"],
    }


def layer_markers(layers: Sequence[int], every: Sequence[int]) -> dict[str, Any]:
    """Points coloured by their layer, on a scale over every layer of the figure."""
    least, most = min(every), max(every)
    ticks = layer_ticks(sorted(set(every)))
    return {
        "color": list(layers),
        "colorscale": SEQUENTIAL,
        "cmin": least,
        "cmax": max(most, least + 1),
        "line": {"width": 0.7, "color": "white"},
        "colorbar": BAR | {"title": {"text": "layer", "font": {"size": 12}}} | ticks,
    }


def layer_ticks(layers: Sequence[int], most: int = 17, *, by_place: bool = False) -> dict[str, Any]:
    """Ticks at layers in round steps, `most` at the most; `by_place` for an axis of cells."""
    step = next(s for s in (1, 2, 4, 5, 10, 20, 25, 50, 100, 1000) if len(layers) / s <= most)
    shown = range(0, len(layers), step)
    return {
        "tickvals": list(shown) if by_place else [layers[i] for i in shown],
        "ticktext": [str(layers[i]) for i in shown],
    }


def span(values: Iterable[float]) -> list[float]:
    """An axis range with a little room about the values."""
    finite = [float(v) for v in values if math.isfinite(v)]
    low, high = min(finite), max(finite)
    pad = 0.04 * (high - low) or 0.5
    return [low - pad, high + pad]
