"""The gain of one preference over that of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from steerlens.plots.arrays import Band, array
from steerlens.plots.look import INK, PALETTE, QUIET, SEQUENTIAL, house, span
from steerlens.plots.marks import whiskers
from steerlens.plots.words import number, safe


def preference_curve(
    first: Any,
    second: Any,
    *,
    shares: Sequence[float],
    names: tuple[str, str],
    unit: str,
    title: str,
) -> go.Figure:
    """The second gain over the first, joined in the order of the shares; whiskers are intervals.

    Args:
        first: (value, low, high), each of shape (share,); ends may be NaN.
        shares: Of the second preference, written beside the points.

    Raises:
        ValueError: If the shapes differ.
    """
    where = array("shares", shares)
    axes = f"{len(where)} shares"
    x, y = (
        Band(*(array("gain", part, where.shape, axes) for part in both)) for both in (first, second)
    )
    texts = [
        f"{number(1 - s)} of {safe(names[0])}, {number(s)} of {safe(names[1])}<br>"
        + "<br>".join(
            band.text(k, unit, safe(name)) for name, band in zip(names, (x, y), strict=True)
        )
        for k, s in enumerate(where.tolist())
    ]
    figure = go.Figure()
    figure.add_scatter(
        x=x.mean.tolist(), y=y.mean.tolist(), mode="lines+markers+text",
        line={"color": QUIET, "width": 1.5},
        marker={"size": 9, "color": where.tolist(), "cmin": 0, "cmax": 1,
                "colorscale": SEQUENTIAL, "line": {"width": 0.7, "color": "white"}},
        text=[number(s) for s in where], textposition="top right", textfont={"size": 11},
        error_x=whiskers(x, PALETTE[5]), error_y=whiskers(y, PALETTE[5]), hovertext=texts,
        name="mixtures",
    )  # fmt: skip
    note = f"Beside each point: the weight of {names[1]}; {names[0]} has the rest."
    house(figure, title=title, note=note)
    ends = [v for part in x for v in part.tolist()], [v for part in y for v in part.tolist()]
    figure.update_xaxes(
        title_text=f"gain of {safe(names[0])} ({unit})", range=span([0.0, *ends[0]]),
        zeroline=True, zerolinecolor=INK,
    )  # fmt: skip
    figure.update_yaxes(
        title_text=f"gain of {safe(names[1])} ({unit})", range=span([0.0, *ends[1]]),
        zeroline=True, zerolinecolor=INK,
    )  # fmt: skip
    return figure
