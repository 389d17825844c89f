"""How each example responds, row by row."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, SupportsIndex

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from steerlens.plots.arrays import array, holes
from steerlens.plots.look import INK, MISSING, PALETTE, WIDTH, house
from steerlens.plots.marks import key
from steerlens.plots.rows import label_columns, read_rows
from steerlens.plots.words import measured


def example_slopes(
    slopes: ArrayLike,
    *,
    rows: Iterable[SupportsIndex] | Iterable[str],
    unit: str,
    title: str,
) -> go.Figure:
    """Per-example steering slopes of each row, with the share steered the wrong way above.

    Boxes span the quartiles with the median, whiskers reach the last point within 1.5 box lengths
    (Tukey), and every example is a point. The upper panel is the share of examples with a slope
    below zero (anti-steerable, arXiv:2407.12404).

    Args:
        slopes: Shape (row, example); NaN examples are left out and counted on hover.
        rows: The layer of each row, or its name.
        unit: Unit of the slopes, e.g. "nats per unit multiplier".

    Raises:
        ValueError: If the shape is not (row, example).
    """
    columns = read_rows(rows)
    n = columns.count
    grid = array("slopes", slopes, (n, None), f"{n} rows x examples")[columns.order]
    examples = grid.shape[1]
    counts = (~np.isnan(grid)).sum(1)
    full, empty = np.flatnonzero(counts), np.flatnonzero(counts == 0)
    below = np.full(n, np.nan)
    below[full] = (grid[full] < 0).sum(1) / counts[full]
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[0.2, 0.8], vertical_spacing=0.06
    )
    above: dict[str, Any] = {"row": 1, "col": 1}
    main: dict[str, Any] = {"row": 2, "col": 1}
    roomy = n <= 16
    figure.add_bar(
        x=list(range(n)),
        y=holes(below),
        width=0.7,
        marker={"color": PALETTE[1]},
        text=["" if math.isnan(b) else f"{b:.0%}" for b in below] if roomy else None,
        textposition="outside",
        textfont={"size": 11, "color": INK},
        cliponaxis=False,
        hovertext=[
            f"{columns.text(i)}<br>{b:.1%} of {seen} examples below zero"
            f"<br>{examples - seen} not measured"
            if seen
            else f"{columns.text(i)}<br>not measured"
            for i, (b, seen) in enumerate(zip(below, counts, strict=True))
        ],
        name="share below zero",
        **above,
    )
    for name, chosen, colour in (
        ("slope above or at zero", grid >= 0, PALETTE[0]),
        ("below zero: anti-steerable", grid < 0, PALETTE[1]),
    ):
        r, e = np.nonzero(chosen)
        which = list(zip(r.tolist(), e.tolist(), strict=True))
        # The golden-ratio sequence spreads the examples evenly and needs no seed.
        spread = (0.5 + e * 0.6180339887498949) % 1.0 - 0.5
        figure.add_scatter(
            x=(r + 0.5 * spread).tolist(),
            y=grid[chosen].tolist(),
            mode="markers",
            marker={"size": 4.5 if grid.size <= 1500 else 3, "color": colour, "opacity": 0.45},
            hovertext=[
                f"{columns.text(i)}, example {j}"
                f"<br>{measured(float(grid[i, j]), unit, quantity='slope')}"
                for i, j in which
            ],
            legendgroup=name,
            name=name,
            **main,
        )
        key(figure, name, symbol="circle", size=7, color=colour)
    if len(full):
        q1, median, q3 = np.nanquantile(grid[full], [0.25, 0.5, 0.75], axis=1)
        reach = 1.5 * (q3 - q1)[:, None]
        near = (grid[full] >= q1[:, None] - reach) & (grid[full] <= q3[:, None] + reach)
        figure.add_box(
            x=full.tolist(),
            q1=q1.tolist(),
            median=median.tolist(),
            q3=q3.tolist(),
            lowerfence=np.where(near, grid[full], np.inf).min(1).tolist(),
            upperfence=np.where(near, grid[full], -np.inf).max(1).tolist(),
            width=0.7,
            fillcolor="rgba(255,255,255,0)",
            line={"color": INK, "width": 1.3},
            hoverinfo="y",
            name="quartiles",
            **main,
        )
    for i in empty.tolist():
        figure.add_vrect(
            x0=i - 0.45, x1=i + 0.45, fillcolor=MISSING, opacity=0.5, line_width=0, layer="below",
            **main
        )  # fmt: skip
    if len(empty):
        key(figure, "not measured", symbol="square", size=11, color=MISSING)
    note = f"{examples} examples; boxes: quartiles, whiskers: 1.5 box lengths"
    house(figure, title=title, note=note, height=500)
    figure.update_xaxes(range=[-0.6, n - 0.4], showgrid=False)
    label_columns(figure, columns, 20, WIDTH - 98, by_place=True)
    figure.update_xaxes(title_text=columns.title, **main)
    highest = max(below[full], default=0.0)
    ceiling = max(0.1, min(1.0, 1.1 * highest)) * (1.25 if roomy else 1.0)
    figure.update_yaxes(
        title_text="below 0", tickformat=".0%", range=[0, ceiling], nticks=4, **above
    )
    figure.update_yaxes(title_text=f"slope ({unit})", zeroline=True, zerolinecolor=INK, **main)
    return figure
