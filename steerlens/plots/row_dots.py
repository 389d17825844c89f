"""Named rows with a few series of dots, in one or more panels."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from steerlens.plots.arrays import band
from steerlens.plots.look import INK, MISSING, house, span
from steerlens.plots.marks import series_looks, whiskers
from steerlens.plots.narrow import make_narrow
from steerlens.plots.rows import label_rows, read_rows
from steerlens.plots.words import axis_title, safe

APART = 0.34
"""How far the series of a row are spread, as a part of the distance of two rows."""


def row_dots(
    panels: Mapping[str, tuple[Mapping[str, Any], str]],
    *,
    rows: Iterable[str],
    title: str,
    note: str,
    quiet: Collection[str] = (),
    quiet_name: str = "",
) -> go.Figure:
    """A dot with its whisker for each row and series; panels are side by side.

    Args:
        panels: Quantity -> (series, unit), with series name -> (value, low, high), or the value
            alone, each of shape (row,). NaN is not drawn.
        rows: The name of each row, the first on top.
        quiet: Series that are drawn small and grey: what the others are compared with.
        quiet_name: Their one entry in the legend.

    Raises:
        ValueError: If there is no panel or no series.
    """
    if not panels or not all(series for series, _ in panels.values()):
        raise ValueError("A figure of dots needs a panel with a series. Pass at least one.")
    names = read_rows(rows, downwards=True)
    if names.are_layers:
        raise ValueError(f"rows={names.names} must be names, not layers.")
    figure = make_subplots(rows=1, cols=len(panels), shared_yaxes=True, horizontal_spacing=0.06)
    loud = [
        s
        for s in dict.fromkeys(s for series, _ in panels.values() for s in series)
        if s not in quiet
    ]
    looks = series_looks(loud)
    steps = dict(zip(loud, _steps(len(loud)), strict=True))
    listed: set[str] = set()
    for k, (quantity, (series, unit)) in enumerate(panels.items(), start=1):
        ends = [0.0]
        for name in sorted(series, key=lambda s: s not in quiet):  # grey dots lie below
            drawn = band(f"series {name!r}", series[name], names.order, f"{names.count} rows")
            grey = name in quiet
            colour = MISSING if grey else looks[name]["colour"]
            key = safe(quiet_name) if grey else safe(name)
            places = [i + (0.0 if grey else steps[name]) for i in range(names.count)]
            figure.add_scatter(
                x=[None if np.isnan(m) else m for m in drawn.mean.tolist()], y=places, mode="markers",
                name=key, legendgroup=key, showlegend=key not in listed,
                marker={"size": 6 if grey else 8, "color": colour,
                        "symbol": "circle" if grey else looks[name]["symbol"]},
                error_x=whiskers(drawn, colour, 3),
                hovertext=[
                    f"{names.text(i)}<br>{safe(name)}<br>{drawn.text(i, unit, quantity)}"
                    for i in range(names.count)
                ],
                row=1, col=k,
            )  # fmt: skip
            listed.add(key)
            every = np.concatenate([drawn.mean, drawn.low, drawn.high])
            ends += every[~np.isnan(every)].tolist()
        figure.update_xaxes(
            title_text=axis_title(quantity, unit) if unit else quantity, range=span(ends),
            zeroline=True, zerolinecolor=INK, nticks=5, tickangle=0, row=1, col=k,
        )  # fmt: skip
    height = 150 + max(24, names.pitch) * names.count
    house(figure, title=title, note=note, height=height, left=names.left)
    for k in range(1, len(panels) + 1):
        label_rows(figure, names, names.count, row=1, col=k)
        figure.update_yaxes(showticklabels=k == 1, row=1, col=k)
    figure.update_yaxes(range=[-0.7, names.count - 0.3], showgrid=False)
    make_narrow(
        figure, title=title, note=note, left=names.left, below=16, layout=_stacked(len(panels)),
        panel=(height - 150) * len(panels) + 70 * (len(panels) - 1),
    )  # fmt: skip
    return figure


def _steps(count: int) -> list[float]:
    """Where each of some series is drawn beside its row: the first above."""
    return [APART * (0.5 - k / (count - 1)) for k in range(count)] if count > 1 else [0.0]


def _stacked(count: int) -> dict[str, Any]:
    """Panels below each other, each with its own labels of the rows."""
    gap = 0.12 if count > 1 else 0.0
    each = (1 - gap * (count - 1)) / count
    changes: dict[str, Any] = {}
    for k in range(count):
        end = "" if k == 0 else str(k + 1)
        top = 1 - k * (each + gap)
        changes |= {
            f"xaxis{end}.domain": [0.0, 1.0], f"yaxis{end}.domain": [max(0.0, top - each), top],
            f"yaxis{end}.showticklabels": True,
        }  # fmt: skip
    return changes
