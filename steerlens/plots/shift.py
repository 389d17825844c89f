"""Slopes on shifted questions, against the slopes on questions in distribution."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from steerlens.plots.arrays import Band, array, band, bands
from steerlens.plots.look import INK, PALETTE, QUIET, house, layer_markers, span
from steerlens.plots.marks import rule, series_looks, whiskers
from steerlens.plots.probe import label_places
from steerlens.plots.rows import Rows, read_rows
from steerlens.plots.words import axis_title, broken, number, safe

MOST_ACROSS = 3
"""Panels side by side."""
EQUAL = "equal slopes"


def shift_scatter(
    in_distribution: Any,
    shifted: Mapping[str, Any],
    *,
    rows: Iterable[SupportsIndex] | Iterable[str],
    unit: str,
    title: str,
    correlations: Mapping[str, tuple[float, float, float]] | None = None,
    quantity: str = "slope",
) -> go.Figure:
    """Slope on shifted questions over slope in distribution: a point per row, a panel per set.

    Args:
        in_distribution: (mean, low, high) with 95% intervals, each of shape (row,); or the mean
            alone.
        shifted: Name of a set -> the same for it.
        rows: The layer of each row, which then colours and labels its point, or its name.
        correlations: Name of a set -> (value, low, high) of Spearman's correlation over rows.
    """
    points = read_rows(rows)
    axes = f"{points.count} rows"
    x = band("in_distribution", in_distribution, points.order, axes)
    drawn = bands("shifted", shifted, points.order, axes)
    across = 2 if len(drawn) == 4 else min(MOST_ACROSS, len(drawn))
    down = math.ceil(len(drawn) / across)
    heads = [_head(name, (correlations or {}).get(name), 66 // across) for name in drawn]
    figure = make_subplots(
        rows=down,
        cols=across,
        subplot_titles=heads,
        horizontal_spacing=0.05,
        vertical_spacing=0.28 / down if down > 1 else 0.0,
    )
    figure.update_annotations(font={"size": 12, "color": INK})
    every = np.concatenate([*x, *(part for y in drawn.values() for part in y), [0.0]])
    low, high = span(every)
    ends = [low - 0.05 * (high - low), high + 0.05 * (high - low)]  # room for labels
    for k, (name, y) in enumerate(drawn.items()):
        panel: dict[str, Any] = {"row": k // across + 1, "col": k % across + 1}
        rule(figure, ends, ends, EQUAL, **panel)
        figure.data[-1].showlegend = k == 0  # pyright: ignore[reportAttributeAccessIssue]
        figure.data[-1].legendgroup = EQUAL  # pyright: ignore[reportAttributeAccessIssue]
        hover = [
            f"{points.text(i)}<br>in distribution: {x.text(i, unit, quantity)}"
            f"<br>{safe(name)}: {y.text(i, unit, quantity)}"
            for i in range(points.count)
        ]
        draw = _layer_points if points.are_layers else _named_points
        draw(figure, points, x, y, name, hover, first=k == 0, alone=across == 1, panel=panel)
    notes = [f"{quantity.capitalize()}s in {unit}"]
    if x.has_interval or any(y.has_interval for y in drawn.values()):
        notes.append("whiskers: 95% interval")
    if correlations:
        notes.append("ρ: rank correlation over points")
    house(
        figure,
        title=title,
        note="; ".join(notes),
        height=(440 if down == 1 else 150 + 270 * down),
        right=90 if points.are_layers else 30,
    )
    margin: Any = figure["layout"]["margin"]
    margin.t += 20 * max(head.count("<br>") + 1 for head in heads)
    figure.update_xaxes(range=ends, nticks=5, zeroline=True, zerolinecolor=QUIET)
    figure.update_yaxes(range=ends, nticks=6, zeroline=True, zerolinecolor=QUIET)
    for k in range(len(drawn)):
        row, col = k // across + 1, k % across + 1
        lowest = k + across >= len(drawn)
        figure.update_xaxes(showticklabels=lowest, row=row, col=col)
        figure.update_xaxes(title_text="in distribution" if lowest else "", row=row, col=col)
        figure.update_yaxes(showticklabels=col == 1, row=row, col=col)
    figure.update_yaxes(title_text="shifted", col=1)
    return figure


def _head(name: str, correlation: tuple[float, float, float] | None, width: int) -> str:
    """The title of a panel: its set and its rank correlation."""
    head = broken(safe(name), width)
    if correlation is None:
        return head
    value, low, high = (number(x, 2) for x in correlation)
    return f"{head}<br>ρ {value} [{low}, {high}]"


def _layer_points(
    figure: go.Figure,
    rows: Rows,
    x: Band,
    y: Band,
    name: str,
    hover: Sequence[str],
    *,
    first: bool,
    alone: bool,
    panel: dict[str, int],
) -> None:
    """One trace, coloured by layer, with numbers beside the points where one panel is all."""
    seen = _measured(x, y)
    layers = [rows.names[i] for i in seen]
    trace = _points(figure, x, y, seen, hover, panel)
    trace.update(marker=layer_markers(layers, rows.names) | {"size": 9}, name=safe(name))
    trace.update(marker_showscale=first)
    if alone:
        places = label_places(x.mean[seen], y.mean[seen])
        trace.update(
            mode="markers+text",
            text=[str(layer) if p else "" for layer, p in zip(layers, places, strict=True)],
            textposition=[p or "middle center" for p in places],
            textfont={"size": 11, "color": INK},
        )


def _named_points(
    figure: go.Figure,
    rows: Rows,
    x: Band,
    y: Band,
    name: str,
    hover: Sequence[str],
    *,
    first: bool,
    alone: bool,
    panel: dict[str, int],
) -> None:
    """A trace for each row, which is in the legend once."""
    looks = series_looks(rows.names)
    for i in _measured(x, y):
        look = looks[rows.names[i]]
        _points(figure, x, y, [i], hover, panel).update(
            marker={"size": 9, "color": look["colour"], "symbol": look["symbol"]},
            name=rows.text(i),
            legendgroup=rows.names[i],
            showlegend=first,
        )


def _measured(x: Band, y: Band) -> list[int]:
    return np.flatnonzero(~np.isnan(x.mean + y.mean)).tolist()


def _points(
    figure: go.Figure,
    x: Band,
    y: Band,
    kept: Sequence[int],
    hover: Sequence[str],
    panel: dict[str, int],
) -> Any:
    x, y = (Band(*(part[kept] for part in values)) for values in (x, y))
    figure.add_scatter(
        x=x.mean.tolist(),
        y=y.mean.tolist(),
        mode="markers",
        error_x=whiskers(x, "rgba(90,90,90,0.45)"),
        error_y=whiskers(y, "rgba(90,90,90,0.45)"),
        hovertext=[hover[i] for i in kept],
        **panel,
    )
    return figure.data[-1]


def shift_dots(
    slopes: Mapping[str, tuple[float, float, float]],
    *,
    in_distribution: str,
    unit: str,
    title: str,
    ratios: Mapping[str, tuple[float, float, float]] | None = None,
    quantity: str = "mean slope",
) -> go.Figure:
    """One slope with its interval for each set; that in distribution is on top and shaded behind.

    Args:
        slopes: Name of a set -> (value, low, high) with its 95% interval.
        in_distribution: The set that the others are compared with.
        ratios: Name of a set -> (value, low, high) of its slope over the slope in distribution;
            written beside it.

    Raises:
        ValueError: If `in_distribution` is not among the sets.
    """
    if in_distribution not in slopes:
        raise ValueError(
            f"in_distribution={in_distribution!r} is none of the sets {list(slopes)}. Name one of "
            "them."
        )
    names = [in_distribution, *(name for name in slopes if name != in_distribution)]
    values = array("slopes", [slopes[name] for name in names], (len(names), 3), "(set, 3)")
    points = band("slopes", tuple(values.T), np.arange(len(names)), f"{len(names)} sets")
    places = list(range(len(names)))[::-1]
    labels = [broken(safe(name), 26) for name in names]
    figure = go.Figure()
    figure.add_vrect(
        x0=values[0, 1], x1=values[0, 2], fillcolor="rgba(0,0,0,0.06)", line_width=0, layer="below"
    )
    figure.add_vline(x=values[0, 0], line={"color": INK, "width": 1.3, "dash": "dash"})
    figure.add_scatter(
        x=values[:, 0].tolist(),
        y=places,
        mode="markers",
        marker={"size": 10, "color": [INK] + [PALETTE[0]] * (len(names) - 1)},
        error_x=whiskers(points, QUIET, width=4),
        hovertext=[f"{name}<br>{points.text(i, unit, quantity)}" for i, name in enumerate(labels)],
        name="slopes",
    )
    ends = span([*values.ravel(), 0.0])
    for name, place in zip(names, places, strict=True):
        text = "in distribution" if name == in_distribution else _ratio((ratios or {}).get(name))
        figure.add_annotation(
            x=1, xref="paper", xanchor="left", xshift=10, y=place, yref="y", text=text,
            showarrow=False, font={"size": 12, "color": INK},
        )  # fmt: skip
    note = "Whiskers and shading: 95% interval" + (
        "; right: slope over the slope in distribution" if ratios else ""
    )
    longest = max(len(part) for label in labels for part in label.split("<br>"))
    house(
        figure, title=title, note=note, height=max(300, 150 + 42 * len(names)),
        left=34 + round(6.6 * longest), right=150 if ratios else 110,
    )  # fmt: skip
    figure.update_xaxes(title_text=axis_title(quantity, unit), range=ends, zeroline=True)
    figure.update_yaxes(
        tickvals=places, ticktext=labels, range=[-0.6, len(names) - 0.4], showgrid=False
    )
    return figure


def _ratio(ratio: tuple[float, float, float] | None) -> str:
    """A ratio of slopes with its interval, as it is written beside the point."""
    if ratio is None:
        return ""
    if math.isnan(ratio[0]):
        return "× not known"
    value, low, high = (f"{x:.2f}".replace("-", "−") for x in ratio)
    return f"× {value} [{low}, {high}]"
