"""One measured quantity over another, a dot for each thing that was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from steerlens.plots.arrays import array
from steerlens.plots.look import house
from steerlens.plots.marks import series_looks
from steerlens.plots.narrow import make_narrow
from steerlens.plots.words import number, safe


def measured_dots(
    series: Mapping[str, tuple[ArrayLike, ArrayLike, Sequence[str]]],
    *,
    title: str,
    x: str,
    y: str,
    note: str = "",
) -> go.Figure:
    """Dots of a few kinds on logarithmic axes.

    Values that are not above 0 have no logarithm; they are left out and counted in the note.

    Args:
        series: Kind -> (x, y, what each dot is), each of shape (dot,).
        x: What the horizontal axis shows, with its unit.
        y: The same of the vertical one.

    Raises:
        ValueError: If there is no series, or no dot can be drawn.
    """
    if not series:
        raise ValueError("series is empty, so there is nothing to draw. Pass at least one.")
    figure, left_out, drawn = go.Figure(), 0, 0
    for (name, (across, up, what)), look in zip(
        series.items(), series_looks(list(series)).values(), strict=True
    ):
        xs = array(f"x of {name!r}", across, (None,), "dots")
        ys = array(f"y of {name!r}", up, (len(xs),), f"{len(xs)} dots")
        seen = np.flatnonzero((xs > 0) & (ys > 0))  # NaN is not
        left_out += len(xs) - len(seen)
        drawn += len(seen)
        figure.add_scatter(
            x=xs[seen].tolist(), y=ys[seen].tolist(), mode="markers", name=safe(name),
            showlegend=True,
            marker={"size": 7, "color": look["colour"], "symbol": look["symbol"], "opacity": 0.8},
            hovertext=[
                f"{safe(str(what[i]))}<br>{number(float(xs[i]))}, {number(float(ys[i]))}"
                for i in seen.tolist()
            ],
        )  # fmt: skip
    if not drawn:
        raise ValueError("No dot has values above 0 on both axes, so there is nothing to draw.")
    if left_out:
        note = f"{note}; {left_out} dots are not above 0 and left out".lstrip("; ")
    house(figure, title=title, note=note)
    figure.update_xaxes(title_text=x, type="log", tickformat="~g", nticks=6)
    figure.update_yaxes(title_text=y, type="log", tickformat="~g", nticks=6)
    make_narrow(figure, title=title, note=note, left=56)
    return figure
