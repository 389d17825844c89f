"""How readable a contrast is in each row, beside how steerable."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, SupportsIndex

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from steerlens.plots.arrays import Array, Band, band
from steerlens.plots.look import INK, PALETTE, WIDTH, house
from steerlens.plots.marks import line, whiskers
from steerlens.plots.rows import label_columns, read_rows, row_keys, row_markers
from steerlens.plots.words import axis_title, broken, number


def probe_against_steering(
    probe: Any,
    steering: Any,
    *,
    rows: Iterable[SupportsIndex] | Iterable[str],
    probe_unit: str,
    steering_unit: str,
    title: str,
    probe_quantity: str = "probe",
    steering_quantity: str = "steering",
    correlation: tuple[float, float, float] | None = None,
) -> go.Figure:
    """How readable a concept is at each layer, beside how far steering there moves the model.

    Left, one panel for each over the layers, never a shared axis with two scales; right, one
    against the other, a point for each layer.

    Args:
        probe: (mean, low, high) with 95% intervals, each of shape (row,); or the mean alone.
        steering: The same, for steering.
        rows: The layer of each row, or its name.
        correlation: (value, low, high) of Spearman's rank correlation over rows.
    """
    columns = read_rows(rows)
    x = columns.places
    hover = [columns.text(i) for i in range(columns.count)]
    figure = make_subplots(
        rows=2,
        cols=2,
        specs=[[{}, {"rowspan": 2}], [{}, None]],
        column_widths=[0.47, 0.53],
        horizontal_spacing=0.14,
        vertical_spacing=0.07,
    )
    read, steer = (
        band(name, value, columns.order, f"{columns.count} rows")
        for name, value in (("probe", probe), ("steering", steering))
    )
    left = ((read, probe_quantity, probe_unit), (steer, steering_quantity, steering_unit))
    for row, (values, quantity, unit) in enumerate(left, start=1):
        line(
            figure, quantity, x, values, hover=hover, unit=unit, colour=PALETTE[row - 1],
            listed=False, joined=columns.are_layers, row=row, col=1,
        )  # fmt: skip
    seen = np.flatnonzero(~np.isnan(read.mean + steer.mean)).tolist()
    read_seen, steer_seen = (Band(*(part[seen] for part in values)) for values in (read, steer))
    places = label_places(read_seen.mean, steer_seen.mean)
    if not columns.are_layers:
        places = [None] * len(seen)  # the legend names the points
    figure.add_scatter(
        x=read_seen.mean.tolist(),
        y=steer_seen.mean.tolist(),
        mode="markers+text",
        marker=row_markers(columns.names, seen) | {"size": 9 if len(seen) <= 24 else 7},
        error_x=whiskers(read_seen, "rgba(90,90,90,0.35)"),
        error_y=whiskers(steer_seen, "rgba(90,90,90,0.35)"),
        text=[
            str(columns.names[i]) if place else "" for i, place in zip(seen, places, strict=True)
        ],
        textposition=[place or "middle center" for place in places],
        textfont={"size": 11, "color": INK},
        hovertext=[
            "<br>".join([hover[i], *(v.text(i, unit, quantity) for v, quantity, unit in left)])
            for i in seen
        ],
        name="rows",
        row=1,
        col=2,
    )
    named = row_keys(figure, columns.names)
    notes = []
    if correlation is not None:
        value, low, high = map(number, correlation)
        over = "layers" if columns.are_layers else "rows"
        notes.append(f"Spearman ρ over {len(seen)} {over}: {value} [{low}, {high}]")
    if read.has_interval or steer.has_interval:
        notes.append(f"{'shaded and ' * columns.are_layers}whiskers: 95% interval")
    house(figure, title=title, note="; ".join(notes), height=460 + 12 * named, right=90)
    figure.update_xaxes(range=columns.extent, col=1)
    label_columns(figure, columns, 9, 0.47 * (WIDTH - 158), by_place=False, col=1)
    figure.update_xaxes(showticklabels=False, row=1, col=1)
    figure.update_xaxes(title_text=columns.title, row=2, col=1)
    titles = [axis_title(quantity, unit) for _, quantity, unit in left]
    for row, text in enumerate(titles, start=1):
        figure.update_yaxes(title_text=broken(text, 24), nticks=6, row=row, col=1)
    figure.update_xaxes(title_text=titles[0], nticks=6, row=1, col=2)
    figure.update_yaxes(title_text=titles[1], row=1, col=2)
    figure.update_traces(cliponaxis=False, selector={"type": "scatter", "fill": None})
    # Rounding must not fill an axis where all layers are the same.
    for name, shown in (
        ("yaxis", PROBE_SHOWN),
        ("xaxis3", PROBE_SHOWN),
        ("yaxis2", STEERING_SHOWN),
    ):
        figure.layout[name].autorangeoptions = {"include": shown}
    figure.layout.yaxis3.autorangeoptions = {"include": STEERING_SHOWN}
    return figure


PROBE_SHOWN, STEERING_SHOWN = [0.5, 1.0], [0.0, 0.1]
"""What the axes of `probe_against_steering` always reach: guessing to perfect, and 0 upwards."""
SIDES = {
    "top center": (0, 13), "middle right": (14, 0), "bottom center": (0, -13),
    "middle left": (-14, 0), "top right": (12, 9), "bottom right": (12, -9),
    "top left": (-12, 9), "bottom left": (-12, -9),
}  # fmt: skip
"""Pixels from a point to the middle of its label."""


def label_places(x: Array, y: Array) -> list[str | None]:
    """Where each point's label goes without touching a point or a label; None where it cannot."""
    if not len(x):
        return []
    px, py = (
        pixels * (v - v.min()) / max(float(np.ptp(v)), 1e-12) for pixels, v in ((250, x), (290, y))
    )
    # Each row is left, bottom, right, top.
    boxes = np.stack([px - 5, py - 5, px + 5, py + 5], axis=1)
    places: list[str | None] = [None] * len(x)
    # The ends of both scales are what a reader looks up first, so they are labelled first.
    far = np.abs(px - np.median(px)) / 250 + np.abs(py - np.median(py)) / 290
    for i in np.argsort(-far).tolist():
        others = np.delete(boxes, i, axis=0)
        for side, (dx, dy) in SIDES.items():
            a, b = px[i] + dx, py[i] + dy
            apart = (others[:, :2] >= (a + 8, b + 7)) | (others[:, 2:] <= (a - 8, b - 7))
            if apart.any(1).all():
                places[i] = side
                boxes = np.vstack([boxes, (a - 8, b - 7, a + 8, b + 7)])
                break
    return places
