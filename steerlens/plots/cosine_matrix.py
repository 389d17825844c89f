"""A square of cosines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, SupportsIndex

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from steerlens.plots.arrays import array
from steerlens.plots.heatmap import write_cells
from steerlens.plots.look import CELLS, DIVERGING, colour_bar, house
from steerlens.plots.rows import label_columns, label_rows, read_rows
from steerlens.plots.words import number

ROOM = 500
"""Pixels that the columns share at the narrowest width."""


def cosine_matrix(
    values: ArrayLike,
    *,
    rows: Iterable[SupportsIndex] | Iterable[str],
    title: str,
    note: str = "",
) -> go.Figure:
    """The cosine of every two of some directions, on a colour scale from -1 to 1.

    Layers go upwards and to the right; names downwards and to the right.

    Args:
        values: Shape (row, row), between -1 and 1.
        rows: The layer of each direction, or its name.

    Raises:
        ValueError: If a cosine is beyond 1, or the shape is another one.
    """
    given: list[Any] = list(rows)
    down, across = read_rows(given, downwards=True), read_rows(given)
    count = down.count
    grid = array("values", values, (count, count), f"{count} rows x {count} rows")
    if float(np.nanmax(np.abs(grid))) > 1 + 1e-5:
        raise ValueError("values holds a cosine beyond 1. Divide by the lengths of both vectors.")
    grid = grid[np.ix_(down.order, across.order)]
    texts = [[f"{down.text(r)} and {across.text(c)}" for c in range(count)] for r in range(count)]
    for (r, c), value in np.ndenumerate(grid):
        texts[r][c] += f"<br>cosine {number(float(value), 3)}"
    figure = go.Figure()
    figure.add_heatmap(
        z=grid.tolist(),
        zmin=-1,
        zmax=1,
        colorscale=DIVERGING,
        colorbar=colour_bar("cosine", 1.0, False),
        xgap=1,
        ygap=1,
        hovertext=texts,
        name="cosines",
    )
    if count * 30 <= ROOM:
        write_cells(
            figure,
            {cell: f"{v:.2f}".replace("-", "−") for cell, v in np.ndenumerate(grid)},
            grid,
            1.0,
        )
    height = 150 + min(32, max(14, 420 // count)) * count
    house(figure, title=title, note=note, height=max(330, height), left=down.left, right=112)
    label_columns(figure, across, 16, ROOM, by_place=True)
    figure.update_xaxes(title_text=across.title, range=[-0.5, count - 0.5], **CELLS)
    figure.update_yaxes(range=[-0.5, count - 0.5], **CELLS)
    label_rows(figure, down, 16)
    return figure
