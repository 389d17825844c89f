"""Quantities over the layers or other rows, and over the steering multiplier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from steerlens.plots.arrays import bands, ordered
from steerlens.plots.look import QUIET, WIDTH, house, span
from steerlens.plots.marks import line, rule, series_looks
from steerlens.plots.rows import label_columns, read_rows
from steerlens.plots.words import axis_title, number


def multiplier_lines(
    series: Mapping[str, Any],
    multipliers: Iterable[SupportsFloat],
    unit: str,
    over: str = "multiplier",
) -> tuple[go.Figure, np.ndarray, str]:
    """A line and a band over the multiplier for each name; its figure, the multipliers and a note.

    Args:
        series: Name -> (mean, low, high) with 95% intervals, each of shape (multiplier,).
        over: What the multipliers are, where they are something else.
    """
    strengths, order = ordered(f"{over}s", multipliers)
    x = np.asarray(strengths, dtype=float)
    drawn = bands("series", series, order, f"{len(strengths)} {over}s")
    hover = [f"{over} {number(m)}" for m in strengths]
    figure = go.Figure()
    for name, look in series_looks(list(drawn)).items():
        line(figure, name, x, drawn[name], hover=hover, unit=unit, **look)
    shaded = any(each.has_interval for each in drawn.values())
    return figure, x, "Shaded: 95% interval" if shaded else ""


def layer_curve(
    series: Mapping[str, Any],
    *,
    rows: Iterable[SupportsIndex] | Iterable[str],
    unit: str,
    title: str,
    quantity: str | None = None,
    controls: Iterable[str] = (),
    reference: float | None = None,
    band_label: str = "95% interval",
) -> go.Figure:
    """One quantity over the layers, a line and a shaded interval for each series.

    Rows that have names instead of layers have no order, so their points are not joined.

    Args:
        series: Name -> (mean, low, high), each of shape (row,); or the mean alone.
        rows: The layer of each entry, or its name.
        unit: Unit of the values, e.g. "accuracy".
        quantity: What the values are, for the axis title.
        controls: Names in `series` that are controls: drawn grey and dashed.
        reference: What chance gives: a horizontal line.
        band_label: What the shaded bands or whiskers are; written under the title.

    Raises:
        ValueError: If a control is not in `series`.
    """
    columns = read_rows(rows)
    x = columns.places
    drawn = bands("series", series, columns.order, f"{columns.count} rows")
    grey = list(controls)
    if unknown := [name for name in grey if name not in drawn]:
        raise ValueError(
            f"controls={grey} names {unknown}, not in series ({list(drawn)}). "
            "Use names of the series."
        )
    looks = series_looks([name for name in drawn if name not in grey])
    control = {"colour": "#8a8a8a", "symbol": "circle-open", "dash": "dash"}
    hover = [columns.text(i) for i in range(columns.count)]
    joined = columns.are_layers
    figure = go.Figure()
    for name, band in drawn.items():
        look = looks.get(name, control)
        line(figure, name, x, band, hover=hover, unit=unit, joined=joined, **look)
    if reference is not None:
        rule(figure, columns.extent, [reference, reference], f"chance ({number(reference)})")
    shaded = any(band.has_interval for band in drawn.values())
    note = f"{'Shaded' if joined else 'Whiskers'}: {band_label}" if shaded else ""
    house(figure, title=title, note=note)
    figure.update_xaxes(title_text=columns.title, range=columns.extent)
    label_columns(figure, columns, 17, WIDTH - 98, by_place=False)
    figure.update_yaxes(title_text=axis_title(quantity, unit))
    return figure


def dose_response(
    series: Mapping[str, Any],
    *,
    multipliers: Iterable[SupportsFloat],
    unit: str,
    title: str,
    cost: Mapping[str, Any],
    quantity: str | None = None,
    cost_unit: str = "nats",
    cost_quantity: str = "cost",
    budget: float | None = None,
    multiplier_unit: str = "",
) -> go.Figure:
    """Response to the steering multiplier, with its cost in a panel below.

    Args:
        series: Name (e.g. "layer 4") -> (mean, low, high) with 95% intervals, each of shape
            (multiplier,); or the mean alone.
        multipliers: The strength of each entry; 0, the unsteered model, is marked.
        unit: Unit of the response.
        cost: The same names -> what each multiplier costs, like `series`.
        quantity: What the response is, for the axis title.
        budget: Largest cost allowed: a dashed line.
        multiplier_unit: E.g. "fraction of the median residual norm".

    Raises:
        ValueError: If `cost` and `series` have different names.
    """
    strengths, order = ordered("multipliers", multipliers)
    x = np.asarray(strengths, dtype=float)
    axes = f"{len(strengths)} multipliers"
    responses = bands("series", series, order, axes)
    costs = bands("cost", cost, order, axes)
    if set(costs) != set(responses):
        raise ValueError(
            f"cost is of {list(costs)} but series of {list(responses)}. Pass a cost for each one."
        )
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[0.66, 0.34], vertical_spacing=0.05
    )
    hover = [f"multiplier {number(m)}" for m in strengths]
    for name, look in series_looks(list(responses)).items():
        line(figure, name, x, responses[name], hover=hover, unit=unit, row=1, col=1, **look)
        line(
            figure, name, x, costs[name], hover=hover, unit=cost_unit, quantity=cost_quantity,
            listed=False, row=2, col=1, **look,
        )  # fmt: skip
    if budget is not None:
        name = f"budget ({number(budget)} {cost_unit})"
        rule(figure, span(x), [budget, budget], name, row=2, col=1)
    figure.add_vline(x=0, line={"color": QUIET, "width": 1, "dash": "dot"}, row="all", col=1)  # pyright: ignore[reportArgumentType]
    figure.add_annotation(
        x=0, y=1, xref="x", yref="paper", yanchor="bottom", text="unsteered", showarrow=False,
        font={"size": 11, "color": QUIET},
    )  # fmt: skip
    shaded = any(band.has_interval for band in (*responses.values(), *costs.values()))
    note = "Shaded around the lines: 95% interval" if shaded else ""
    house(figure, title=title, note=note, height=560)
    margin: Any = figure["layout"]["margin"]
    margin.t += 14  # for the word over the panel
    where = f"multiplier ({multiplier_unit})" if multiplier_unit else "multiplier"
    figure.update_xaxes(range=span(x))
    figure.update_xaxes(title_text=where, row=2, col=1)
    figure.update_yaxes(title_text=axis_title(quantity, unit), row=1, col=1)
    figure.update_yaxes(title_text=axis_title(cost_quantity, cost_unit), nticks=5, row=2, col=1)
    return figure
