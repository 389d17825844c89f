"""The rows of a figure: layers, which are numbers, or interventions, which have names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import plotly.graph_objects as go

from steerlens.plots.arrays import Array, Order, ordered
from steerlens.plots.look import layer_markers, layer_ticks, span
from steerlens.plots.marks import key, series_looks
from steerlens.plots.words import broken, safe

LETTER = 6.6
"""Pixels that a letter of a tick label takes, about."""


class Rows(NamedTuple):
    """Rows in the order in which they are drawn: layers upwards, names as they were given."""

    names: list[Any]
    """The layer of each row, or its name."""
    order: Order
    """Which of the given rows each one is."""
    are_layers: bool

    def text(self, i: int) -> str:
        """The row in words."""
        return f"layer {self.names[i]}" if self.are_layers else safe(self.names[i])

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.names)

    @property
    def title(self) -> str:
        """The title of an axis of rows. Names need none."""
        return "layer" if self.are_layers else ""

    @property
    def places(self) -> Array:
        """Where the rows are on a numeric axis: at their layer, or one after the other."""
        return np.asarray(self.names if self.are_layers else range(self.count), dtype=float)

    @property
    def extent(self) -> list[float]:
        """The range of a numeric axis, with a little room at its ends."""
        return span(self.places) if self.are_layers else [-0.5, self.count - 0.5]

    @property
    def labels(self) -> list[str]:
        """The rows as tick labels of a vertical axis."""
        return [str(n) if self.are_layers else broken(safe(n), 24) for n in self.names]

    @property
    def pitch(self) -> int:
        """The smallest height of a row, in pixels."""
        if self.are_layers:
            return 11
        return 8 + 15 * max(label.count("<br>") + 1 for label in self.labels)

    @property
    def left(self) -> int:
        """The left margin that the tick labels of a vertical axis need, in pixels."""
        if self.are_layers:
            return 68
        return 42 + round(LETTER * max(_width(label) for label in self.labels))


def read_rows(rows: Iterable[SupportsIndex] | Iterable[str], *, downwards: bool = False) -> Rows:
    """The rows of a figure, checked.

    Args:
        rows: The layer of each row, or the name of each row.
        downwards: Whether the axis is vertical, where the first name is to be on top.

    Raises:
        ValueError: If there are none, one is there twice, or some are layers and some names.
    """
    given: list[Any] = list(rows)
    named = [isinstance(row, str) for row in given]
    if not any(named):
        layers, order = ordered("rows", given)
        return Rows(layers, order, True)
    if not all(named):
        raise ValueError(
            f"rows={given} holds layers and names. Give the layer of every row, or a name for "
            "every row."
        )
    if len(set(given)) != len(given):
        raise ValueError(f"rows={given} holds a name twice. Each row needs its own.")
    order = np.arange(len(given))[:: -1 if downwards else 1]
    return Rows([given[i] for i in order], order, False)


def label_rows(figure: go.Figure, rows: Rows, most: int, **panel: Any) -> None:
    """Ticks and title of a vertical axis of rows, which are one unit apart from 0 on.

    Args:
        most: The largest number of layers to label. Names are all labelled.
        panel: The row and col of the panel.
    """
    ticks: dict[str, Any] = {"tickvals": list(range(rows.count)), "ticktext": rows.labels}
    ticks |= {"ticklabelstandoff": 6}
    if rows.are_layers:
        ticks = layer_ticks(rows.names, most, by_place=True)
    figure.update_yaxes(title_text=rows.title, **ticks, **panel)


def label_columns(
    figure: go.Figure, rows: Rows, most: int, room: float, *, by_place: bool, **panel: Any
) -> None:
    """Ticks of a horizontal axis of rows. It must come after `house`, whose margin it extends.

    Args:
        most: The largest number of layers to label. Names are all labelled.
        room: Pixels that the axis has.
        by_place: Whether layers are one unit apart from 0 on, instead of at their numbers.
        panel: The row and col of the panel.
    """
    if rows.are_layers:
        figure.update_xaxes(**layer_ticks(rows.names, most, by_place=by_place), **panel)
        return
    letters = int(room / rows.count / LETTER)
    upright = letters < 6
    labels = [broken(safe(name), 26 if upright else letters) for name in rows.names]
    figure.update_xaxes(
        tickvals=list(range(rows.count)),
        ticktext=labels,
        tickangle=-90 if upright else 0,
        **panel,
    )
    lines = max(label.count("<br>") for label in labels)
    more = round(LETTER * max(map(_width, labels))) if upright else 15 * lines
    layout: Any = figure["layout"]
    layout.margin.b += more
    layout.height += more


def row_markers(rows: list[Any], drawn: list[int]) -> dict[str, Any]:
    """Markers of points, a colour for each row: along a scale for layers, one each for names.

    Args:
        rows: The layer of each point, or the name of its row.
        drawn: The points that are drawn.
    """
    if not isinstance(rows[0], str):
        return layer_markers([rows[i] for i in drawn], rows)
    looks = series_looks(list(dict.fromkeys(rows)))
    return {
        "color": [looks[rows[i]]["colour"] for i in drawn],
        "symbol": [looks[rows[i]]["symbol"] for i in drawn],
        "line": {"width": 0.7, "color": "white"},
    }


def row_keys(figure: go.Figure, rows: list[Any]) -> int:
    """Legend entries for the markers of named rows; how many. Layers have a colour bar instead."""
    if not isinstance(rows[0], str):
        return 0
    looks = series_looks(list(dict.fromkeys(rows)))
    for name, look in looks.items():
        key(figure, safe(name), symbol=look["symbol"], size=8, color=look["colour"])
    return len(looks)


def _width(label: str) -> int:
    return max(map(len, label.split("<br>")))
