"""What heads and MLPs carry, one below the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from steerlens.plots.arrays import band, holes
from steerlens.plots.look import INK, PALETTE, house, span
from steerlens.plots.marks import whiskers
from steerlens.plots.narrow import make_narrow
from steerlens.plots.rows import label_rows, read_rows
from steerlens.plots.words import axis_title, measured

EXACT, EXPECTED = "held, exact", "to first order"


def component_effects(
    effects: Mapping[str, tuple[float, float, float]],
    *,
    expected: Sequence[float],
    unit: str,
    title: str,
) -> go.Figure:
    """A dot with its interval for each component, and a mark for what was expected of it.

    Args:
        effects: Component -> (value, low, high), the first on top; NaN ends where there is no
            interval.
        expected: One number for each of the first components; those beyond have none.

    Raises:
        ValueError: If there is no component, or more is expected than there are.
    """
    if not effects or len(expected) > len(effects):
        raise ValueError(
            f"{len(expected)} numbers are expected of {len(effects)} components. Give at least one "
            "component, and at most one number for each."
        )
    rows = read_rows(list(effects), downwards=True)
    given = np.asarray(list(effects.values()), dtype=float).T
    drawn = band("effects", tuple(given), rows.order, f"{rows.count} components")
    hoped = np.full(rows.count, np.nan)
    hoped[: len(expected)] = expected
    hoped = hoped[rows.order]
    figure = go.Figure()
    places = list(range(rows.count))
    figure.add_scatter(
        x=drawn.mean.tolist(), y=places, mode="markers", name=EXACT, showlegend=True,
        marker={"size": 9, "color": PALETTE[0]}, error_x=whiskers(drawn, PALETTE[0], 4),
        hovertext=[f"{rows.text(i)}<br>{drawn.text(i, unit)}" for i in places],
    )  # fmt: skip
    figure.add_scatter(
        x=holes(hoped), y=places, mode="markers",
        name=EXPECTED, showlegend=True,
        marker={"size": 9, "symbol": "diamond-open", "color": PALETTE[1], "line": {"width": 1.6}},
        hovertext=[f"{rows.text(i)}<br>{measured(float(hoped[i]), unit)} {EXPECTED}" for i in places],
    )  # fmt: skip
    house(figure, title=title, note="95% intervals", height=150 + 24 * rows.count, left=rows.left)
    label_rows(figure, rows, rows.count)
    every = [*drawn.mean, *drawn.low, *drawn.high, *hoped, 0.0]
    figure.update_yaxes(range=[-0.7, rows.count - 0.3], showgrid=False)
    figure.update_xaxes(
        title_text=axis_title("gain lost", unit),
        range=span(every),
        zeroline=True,
        zerolinecolor=INK,
    )
    make_narrow(figure, title=title, note="95% intervals", left=rows.left, below=20)
    return figure
