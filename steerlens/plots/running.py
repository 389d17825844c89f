"""What a sequential test knows after every unit."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from steerlens.plots.arrays import Band, array
from steerlens.plots.look import INK, PALETTE, house, span
from steerlens.plots.marks import line
from steerlens.plots.words import axis_title


def running_difference(
    differences: Any, *, quantity: str, unit: str, title: str, note: str = ""
) -> go.Figure:
    """The mean difference so far with its confidence sequence, over the number of pairs.

    Args:
        differences: (mean, low, high) after 1, 2, … pairs; ends are NaN while nothing is known.

    Raises:
        ValueError: If the three have different lengths.
    """
    mean = array("mean", differences[0])
    parts = [array(n, x, mean.shape, f"{len(mean)} pairs") for n, x in
             zip(("low", "high"), differences[1:], strict=True)]  # fmt: skip
    x = np.arange(1, len(mean) + 1, dtype=float)
    figure = go.Figure()
    known = ~np.isnan(parts[0] + parts[1])
    if known.any():
        xs = [*x[known], *x[known][::-1]]
        ys = [*parts[0][known], *parts[1][known][::-1]]
        figure.add_scatter(
            x=xs, y=ys, fill="toself", mode="lines", line={"width": 0},
            fillcolor="rgba(0,114,178,0.16)", name="confidence sequence",
        )  # fmt: skip
    line(
        figure, quantity, x, Band(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)),
        hover=[f"{int(n)} pairs" for n in x], unit=unit, colour=PALETTE[0], listed=False,
    )  # fmt: skip
    house(figure, title=title, note=note)
    figure.update_xaxes(title_text="pairs of texts seen", range=span(x))
    figure.update_yaxes(title_text=axis_title(quantity, unit), zeroline=True, zerolinecolor=INK)
    return figure
