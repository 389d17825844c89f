"""What each cell gains and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import SupportsIndex

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from steerlens.plots.arrays import Array, array, fit
from steerlens.plots.look import INK, PALETTE, house, span
from steerlens.plots.marks import rule
from steerlens.plots.rows import row_keys, row_markers
from steerlens.plots.words import axis_title, number, safe


def tradeoff(
    gain: ArrayLike,
    cost: ArrayLike,
    *,
    labels: Sequence[str],
    rows: Iterable[SupportsIndex | str],
    gain_unit: str,
    cost_unit: str,
    title: str,
    gain_quantity: str = "gain",
    cost_quantity: str = "cost",
    budget: float | None = None,
    best: str | None = None,
) -> go.Figure:
    """Gain against cost, a point for each cell, with the most to be had at each cost as steps.

    The steps start at the unsteered model, which costs and gains nothing; on a logarithmic axis it
    stands at the left edge.

    Cells with a NaN are counted under the title. Where positive costs span more than two decades
    the cost axis is logarithmic, unless the budget is zero; cells that cost nothing then stand at
    its left edge and are counted under the title as well.

    Args:
        gain: Shape (cell,); larger is better.
        cost: Shape (cell,); smaller is better.
        labels: What each cell is, e.g. "layer 4, multiplier 1.5".
        rows: The layer of each cell, or the name of its row; colours the points.
        budget: Largest cost allowed: a dashed line, with what lies beyond it shaded.
        best: The label of the cell to mark.

    Raises:
        ValueError: If no cell has both numbers, or `best` is not the label of such a cell.
    """
    names = [safe(label) for label in labels]
    shape, axes = (len(names),), f"{len(names)} labels"
    y, x = array("gain", gain, shape, axes), array("cost", cost, shape, axes)
    given = fit("rows", np.asarray(list(rows)), shape, axes).tolist()
    seen = ~np.isnan(x + y)
    if not seen.any():
        raise ValueError("No cell has both a gain and a cost (all are NaN): nothing to draw.")
    drawn = {labels[i]: i for i in np.flatnonzero(seen).tolist()}
    if best is not None and best not in drawn:
        raise ValueError(
            f"best={best!r} is not the label of a cell with a gain and a cost, such as "
            f"{next(iter(drawn))!r}, so it cannot be marked."
        )
    bounds = [] if budget is None else [budget]
    positive = x[seen & (x > 0)]
    log = positive.size > 0 and positive.max() > 100 * positive.min() and min(bounds, default=1) > 0
    at = np.where(x > 0, x, positive.min() / 2) if log else x
    if log:
        ends = span(np.log10([*at[seen], *bounds]))
        edges = [10**end for end in ends]
    else:
        ends = edges = span([*at[seen], *bounds, 0.0])
    rise = span([*y[seen], 0.0])
    figure = go.Figure()
    if budget is not None:
        figure.add_scatter(
            x=[budget, edges[1], edges[1], budget],
            y=[rise[0], rise[0], rise[1], rise[1]],
            fill="toself",
            mode="none",
            fillcolor="rgba(0,0,0,0.05)",
            name="over budget",
        )
    figure.add_scatter(
        x=at[seen].tolist(),
        y=y[seen].tolist(),
        mode="markers",
        marker=row_markers(given, list(drawn.values())) | {"size": 8 if seen.sum() <= 200 else 6},
        hovertext=[
            f"{names[i]}<br>{gain_quantity} {number(float(y[i]))} {gain_unit}"
            f"<br>{cost_quantity} {number(float(x[i]))} {cost_unit}"
            for i in drawn.values()
        ],
        name="cells",
    )
    named = row_keys(figure, given)
    fx, fy = _frontier(at[seen], y[seen], edges[0] if log else 0.0)
    figure.add_scatter(
        x=[*fx, float(at[seen].max())],
        y=[*fy, fy[-1]],
        mode="lines",
        line={"shape": "hv", "color": INK, "width": 1.4},
        showlegend=True,
        name="efficient frontier",
    )
    if budget is not None:
        rule(figure, [budget, budget], rise, f"budget ({number(budget)} {cost_unit})")
    if best is not None:
        star = drawn[best]
        figure.add_scatter(
            x=[float(at[star])],
            y=[float(y[star])],
            mode="markers",
            marker={"symbol": "star", "size": 15, "color": PALETTE[1]}
            | {"line": {"width": 1.2, "color": "black"}},
            showlegend=True,
            name=f"best: {names[star]}",
        )
    lost, free = int((~seen).sum()), int((x[seen] <= 0).sum()) if log else 0
    notes = [f"{lost} of {y.size} cells not measured and not drawn"] if lost else []
    notes += [f"{free} of {y.size} cells cost nothing and stand at the left edge"] if free else []
    height, right = (450 + 12 * named, 30) if named else (450, 95)
    house(figure, title=title, note="; ".join(notes), height=height, right=right)
    figure.update_xaxes(title_text=axis_title(cost_quantity, cost_unit), range=ends)
    if log:
        figure.update_xaxes(type="log", dtick=1, tickformat="~g")
        figure.update_xaxes(minor={"dtick": "D1", "ticks": "outside", "ticklen": 3})
    figure.update_yaxes(title_text=axis_title(gain_quantity, gain_unit), range=rise, zeroline=True)
    return figure


def _frontier(cost: Array, gain: Array, free: float) -> tuple[list[float], list[float]]:
    """Cells that no other beats on both cost and gain, by increasing cost.

    The first is the unsteered model, which costs and gains nothing.

    Args:
        free: Where a cost of zero stands.
    """
    xs, ys = [free], [0.0]
    for i in np.lexsort((-gain, cost)):
        if gain[i] > ys[-1]:
            xs.append(float(cost[i]))
            ys.append(float(gain[i]))
    return xs, ys
