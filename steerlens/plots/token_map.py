"""Layer x token as heatmaps, one above the other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from steerlens.plots.arrays import Array, array, holes
from steerlens.plots.heatmap import write_cells
from steerlens.plots.look import (
    BAR,
    CELLS,
    DIVERGING,
    MISSING,
    MONO,
    WIDTH,
    colour_range,
    house,
)
from steerlens.plots.marks import key
from steerlens.plots.rows import Rows, label_rows, read_rows
from steerlens.plots.words import measured, number, safe

LONGEST = 18
"""Characters of a token's label."""
PITCH, LETTER = 7.3, 7.4
"""Pixels of a letter of a label across and along."""
RIGHT = 74


def token_heatmap(
    values: Mapping[str, Any],
    *,
    rows: Iterable[SupportsIndex] | Iterable[str],
    tokens: Sequence[str],
    unit: str,
    title: str,
    note: str = "",
) -> go.Figure:
    """A row x token heatmap for each quantity, all on one scale of colours about zero.

    Layers are drawn upwards. Labels of tokens stand upright where they would meet.

    Args:
        values: Name -> values of shape (row, token), or (value, low, high); NaN is drawn grey.
        rows: The layer of each row, or its name.
        tokens: What each column is called; a name may occur again. "one / other" takes two lines.
        unit: Of all values.
        note: A line below the title.

    Raises:
        ValueError: If there is nothing to draw, or a shape does not fit.

    >>> figure = token_heatmap({"effect": [[0.0, 1.0]]}, rows=[3], tokens=["the", "cat"],
    ...                        unit="of the difference", title="Where it is")
    >>> figure.layout.coloraxis.cmax
    1.0
    """
    if not values or not tokens:
        raise ValueError("There is nothing to draw. Give at least one map and one token.")
    lines = read_rows(rows, downwards=True)
    shape = (lines.count, len(tokens))
    maps = {name: _read(name, given, lines, shape) for name, given in values.items()}
    top, clipped = colour_range(np.concatenate([m[0].ravel() for m in maps.values()]))
    many = len(maps)
    figure = make_subplots(
        rows=many, cols=1, shared_xaxes=True, vertical_spacing=0.09 if many > 1 else 0,
        subplot_titles=[safe(name) for name in maps] if many > 1 else None,
    )  # fmt: skip
    labels = [_label(token) for token in tokens]
    room = WIDTH - lines.left - RIGHT
    missing = False
    for k, (name, parts) in enumerate(maps.items()):
        missing |= _panel(figure, name, parts, lines, labels, unit, top, room, k + 1)
    if missing:
        key(figure, "not measured", symbol="square", size=11, color=MISSING)
    longest = max(len(line) for label in labels for line in label)
    upright = longest * PITCH > room / len(labels)
    pitch = max(13, lines.pitch) if shape[0] < 16 else 11
    height = 150 + many * max(200, pitch * shape[0] + 34)
    house(figure, title=title, note=note, height=height, left=lines.left, right=RIGHT)
    layout: Any = figure["layout"]
    for heading in layout.annotations:
        heading.font.size = 13
    if many > 1:
        layout.margin.t += 22
    figure.update_xaxes(range=[-0.5, shape[1] - 0.5], **CELLS)
    figure.update_yaxes(range=[-0.5, shape[0] - 0.5], **CELLS)
    deep = max(map(len, labels))
    step = math.ceil(13 * deep * len(labels) / room) if upright else 1
    shown = range(0, len(labels), step)
    figure.update_xaxes(
        tickvals=list(shown), ticktext=["<br>".join(map(safe, labels[i])) for i in shown],
        tickangle=-90 if upright else 0, tickfont={"family": MONO, "size": 12}, row=many,
    )  # fmt: skip
    more = max(0, round(LETTER * longest) - 26 if upright else 15 * (deep - 1))
    layout.margin.b += more
    layout.height += more
    label_rows(figure, lines, max(6, 16 // many))
    ends = [f"≤ −{number(top, 3)}", "0", f"≥ {number(top, 3)}"] if clipped else None
    axis = {"colorscale": DIVERGING, "cmin": -top, "cmax": top}
    bar = BAR | {"nticks": 5, "len": 1, "y": 0.5}
    if ends:
        bar |= {"tickvals": [-top, 0, top], "ticktext": ends}
    figure.update_layout(coloraxis=axis | {"colorbar": bar})
    return figure


def _read(name: str, given: Any, lines: Rows, shape: tuple[int, int]) -> list[Array]:
    """Values with the ends of their intervals, rows in drawing order."""
    axes = f"{shape[0]} rows x {shape[1]} tokens"
    ends = isinstance(given, tuple) and len(given) == 3 and np.ndim(given[0]) == 2
    parts = given if ends else (given, np.full(shape, np.nan), np.full(shape, np.nan))
    return [array(name, part, shape, axes)[lines.order] for part in parts]


def _label(token: str) -> list[str]:
    """The lines of a label: one, or one for each of two tokens."""
    parts = token.split(" / ", 1)
    short = [part if len(part) <= LONGEST else part[: LONGEST - 1] + "…" for part in parts]
    return short if len(short) == 1 else [short[0], f"/ {short[1]}"]


def _panel(
    figure: go.Figure,
    name: str,
    parts: list[Array],
    lines: Rows,
    labels: Sequence[list[str]],
    unit: str,
    top: float,
    room: float,
    row: int,
) -> bool:
    """Draws one map; returns whether something in it was not measured."""
    value, low, high = parts
    texts = np.empty(value.shape, dtype=object)
    for i, j in np.ndindex(value.shape):
        number_there = measured(float(value[i, j]), unit, float(low[i, j]), float(high[i, j]))
        texts[i, j] = f"{lines.text(i)}, {safe(' '.join(labels[j]))} (token {j})<br>{number_there}"
    place = {"row": row, "col": 1}
    figure.add_heatmap(
        z=holes(value), coloraxis="coloraxis", hovertext=texts, xgap=1, ygap=1, name=name, **place
    )
    missing = np.isnan(value)
    if missing.any():
        figure.add_heatmap(
            z=holes(np.where(missing, 1.0, np.nan)), colorscale=((0, MISSING), (1, MISSING)),
            showscale=False, hovertext=texts, xgap=1, ygap=1, name="not measured", **place,
        )  # fmt: skip
    if value.shape[0] <= 14 and room / value.shape[1] >= 34:
        words = {
            cell: f"{x:.2f}".replace("-0.00", "0.00").replace("-", "−")
            for cell, x in np.ndenumerate(value)
        }
        write_cells(figure, words, value, top, **place)
    return bool(missing.any())
