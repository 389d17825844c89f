"""Lines with bands over any quantity that was measured, each with its own places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from steerlens.plots.arrays import array, band
from steerlens.plots.look import INK, house, span
from steerlens.plots.marks import line, series_looks
from steerlens.plots.marks import rule as draw_rule
from steerlens.plots.words import number


def measured_lines(
    series: Mapping[str, tuple[Any, Any]],
    *,
    title: str,
    x: str,
    y: str,
    unit: str = "",
    log: bool = False,
    lowest: float | None = None,
    rule: tuple[float, str] | None = None,
    note: str = "Bands: 95% intervals.",
) -> go.Figure:
    """A line with its band for each series, over places that are its own.

    Args:
        series: Name -> (places, (mean, low, high)), each of shape (place,). NaN is not drawn.
        x: What the places are.
        y: What the values are.
        log: Whether places are on a logarithmic axis; they must be above 0.
        lowest: Where the axis of values ends below, if some lie further down.
        rule: A dashed line at a value, with its name.

    Raises:
        ValueError: If there is no series, or nothing can be drawn.
    """
    if not series:
        raise ValueError("series is empty, so there is nothing to draw. Pass at least one.")
    figure = go.Figure()
    places: list[float] = []
    values: list[float] = []
    for (name, (given, bounds)), look in zip(
        series.items(), series_looks(list(series)).values(), strict=True
    ):
        where = array(f"places of {name!r}", given, (None,), "places")
        order = np.argsort(where, kind="stable")
        drawn = band(f"values of {name!r}", bounds, order, f"{len(where)} places")
        where = where[order]
        if log and where.size and float(np.nanmin(where)) <= 0:
            raise ValueError(f"A place of {name!r} is not above 0, so it has no logarithm.")
        hover = [f"{x}: {number(float(place))}" for place in where]
        line(figure, name, where, drawn, hover=hover, unit=unit, **look)
        places += where.tolist()
        ends = np.concatenate([drawn.mean, drawn.low, drawn.high])
        values += ends[~np.isnan(ends)].tolist()
    if not values:
        raise ValueError("No value is known, so there is nothing to draw.")
    least = min(values) if lowest is None else max(lowest, min(values))
    if least > min(values):
        note += f" The axis ends at {number(least)}, and some lines go on below."
    if rule is not None:
        draw_rule(figure, [min(places), max(places)], [rule[0]] * 2, rule[1])
        values.append(rule[0])
    house(figure, title=title, note=note)
    wide = span(np.log10(np.asarray(places))) if log else span(places)
    figure.update_xaxes(title_text=x, range=wide)
    if log:
        figure.update_xaxes(
            type="log", dtick=1 if wide[1] - wide[0] > 1.2 else "D2", tickformat="~g"
        )
    figure.update_yaxes(
        title_text=y, range=span([least, max(values)]), zeroline=True, zerolinecolor=INK
    )
    return figure
