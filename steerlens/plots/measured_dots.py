"""One measured quantity over another, a dot for each thing that was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from steerlens.plots.arrays import array
from steerlens.plots.look import house, span
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
    figure, left_out = go.Figure(), 0
    across_all: list[float] = []
    up_all: list[float] = []
    for (name, (across, up, what)), look in zip(
        series.items(), series_looks(list(series)).values(), strict=True
    ):
        xs = array(f"x of {name!r}", across, (None,), "dots")
        ys = array(f"y of {name!r}", up, (len(xs),), f"{len(xs)} dots")
        seen = np.flatnonzero((xs > 0) & (ys > 0))  # NaN is not
        left_out += len(xs) - len(seen)
        across_all += xs[seen].tolist()
        up_all += ys[seen].tolist()
        figure.add_scatter(
            x=xs[seen].tolist(), y=ys[seen].tolist(), mode="markers", name=safe(name),
            showlegend=True,
            marker={"size": 7, "color": look["colour"], "symbol": look["symbol"], "opacity": 0.8},
            hovertext=[
                f"{safe(str(what[i]))}<br>{number(float(xs[i]))}, {number(float(ys[i]))}"
                for i in seen.tolist()
            ],
        )  # fmt: skip
    if not across_all:
        raise ValueError("No dot has values above 0 on both axes, so there is nothing to draw.")
    if left_out:
        note = f"{note}; {left_out} dots are below 0".lstrip("; ")
    house(figure, title=title, note=note)
    for update, text, values in (
        (figure.update_xaxes, x, across_all),
        (figure.update_yaxes, y, up_all),
    ):
        ends = span(np.log10(np.asarray(values)))
        dtick = 1 if ends[1] - ends[0] > 1.6 else "D2"
        update(title_text=text, type="log", range=ends, dtick=dtick, tickformat="~g")
    make_narrow(figure, title=title, note=note, left=56)
    return figure
