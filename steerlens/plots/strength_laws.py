"""Laws of the strength: their curves over what was measured, and their errors as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsFloat

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from steerlens.plots.arrays import array, band, holes, ordered
from steerlens.plots.look import BAR, CELLS, INK, PALETTE, QUIET, SEQUENTIAL, house, span
from steerlens.plots.marks import line
from steerlens.plots.words import axis_title, broken, number, safe

DASHES = ("solid", "dash", "dot", "dashdot")
LEAST, MOST = 1e-3, 3.0
"""Ends of the colours: errors below and above have the colour of the end."""
FEW = 14
"""Columns up to which the numbers are written into the cells."""


def law_curves(
    points: Mapping[str, tuple[Any, str]],
    *,
    multipliers: Iterable[SupportsFloat],
    along: Iterable[SupportsFloat],
    curves: Mapping[str, Mapping[str, Any]],
    title: str,
) -> go.Figure:
    """Quantities over the multiplier, a panel each, with the laws that were fitted to them.

    Args:
        points: Quantity -> ((mean, low, high), unit), each of shape (multiplier,).
        along: Multipliers at which the laws are given.
        curves: The same quantities -> law -> values along them.

    Raises:
        ValueError: If there is no quantity, or a quantity has no curves.
    """
    if not points or set(points) != set(curves):
        raise ValueError(
            f"points are of {list(points)} and curves of {list(curves)}. Pass both for each quantity."
        )
    strengths, order = ordered("multipliers", multipliers)
    fine, along_order = ordered("along", along)
    x = np.asarray(strengths, dtype=float)
    laws = list(dict.fromkeys(law for each in curves.values() for law in each))
    figure = make_subplots(
        rows=len(points), cols=1, shared_xaxes=True, vertical_spacing=0.12 / len(points)
    )
    hover = [f"multiplier {number(m)}" for m in strengths]
    seen: set[str] = set()
    for row, (name, (bounds, unit)) in enumerate(points.items(), start=1):
        panel: dict[str, Any] = {"row": row, "col": 1}
        drawn = band(name, bounds, order, f"{len(x)} multipliers")
        line(
            figure, "measured", x, drawn, hover=hover, unit=unit, colour=INK, quantity=safe(name),
            listed=row == 1, **panel,
        )  # fmt: skip
        figure.update_traces(selector=-1, mode="markers")
        for law, values in curves[name].items():
            k = laws.index(law)
            y = array(f"{law} of {name}", values, (len(fine),), "the multipliers along the curve")
            figure.add_scatter(
                x=fine, y=y[along_order].tolist(), mode="lines", name=safe(law), legendgroup=law,
                showlegend=law not in seen,
                line={"color": PALETTE[k % len(PALETTE)], "width": 2, "dash": DASHES[k % 4]},
                **panel,
            )  # fmt: skip
            seen.add(law)
        ends = np.concatenate([drawn.mean, drawn.low, drawn.high])
        # A law that leaves the points far behind is cut, so that the points are seen.
        figure.update_yaxes(
            title_text=axis_title(name, unit) if unit else name, nticks=6,
            range=span(ends[~np.isnan(ends)]), **panel,
        )  # fmt: skip
    figure.add_vline(x=0, line={"color": QUIET, "width": 1, "dash": "dot"}, row="all", col=1)  # pyright: ignore[reportArgumentType]
    note = "Lines: laws fitted to all points, cut where they leave the panel. Shaded: 95% interval"
    house(figure, title=title, note=note, height=130 + 175 * len(points))
    figure.update_xaxes(range=span(x))
    figure.update_xaxes(title_text="multiplier", row=len(points), col=1)
    return figure


def law_errors(
    panels: Mapping[str, tuple[Sequence[str], Sequence[Sequence[float]]]],
    *,
    rows: Sequence[str],
    over: str,
    title: str,
    note: str = "",
) -> go.Figure:
    """Relative errors as a table: a panel for each quantity, its laws below each other.

    Args:
        panels: Quantity -> (its laws, the errors of each row: one for each law). NaN is left empty.
        rows: What stands side by side, such as layers.
        over: What the rows are.

    Raises:
        ValueError: If there is no quantity, or the errors do not fit the rows and laws.
    """
    if not panels:
        raise ValueError("panels is empty, so there is nothing to draw. Pass at least one.")
    names, count = list(rows), len(panels)
    heights = [len(laws) for laws, _ in panels.values()]
    total = 24 * sum(heights) + 34 * count
    figure = make_subplots(
        rows=count, cols=1, shared_xaxes=True, vertical_spacing=min(34 / total, 0.9 / count),
        row_heights=heights, subplot_titles=[safe(name) for name in panels],
    )  # fmt: skip
    low, high = np.log10([LEAST, MOST])
    ticks = [0.01, 0.1, 1.0]
    longest = max(len(law) for laws, _ in panels.values() for law in laws)
    for k, (quantity, (laws, errors)) in enumerate(panels.items(), start=1):
        shape = (len(names), len(laws))
        values = array(
            f"errors of {quantity}", errors, shape, f"{shape[0]} rows x {shape[1]} laws"
        ).T
        coloured = np.log10(np.clip(values, LEAST, MOST))
        texts = [
            [f"{safe(names[c])}<br>{safe(law)}<br>{safe(quantity)}: {number(values[r, c], 3)}"
             for c in range(len(names))]
            for r, law in enumerate(laws)
        ]  # fmt: skip
        figure.add_heatmap(
            z=holes(coloured), zmin=low, zmax=high, colorscale=list(SEQUENTIAL), xgap=1, ygap=1,
            hovertext=texts, name="errors", showscale=k == 1, row=k, col=1,
            colorbar=BAR | {
                "title": {"text": "error", "font": {"size": 12}},
                "tickvals": np.log10(ticks).tolist(), "ticktext": [f"{t:g}" for t in ticks],
            },
        )  # fmt: skip
        if len(names) <= FEW:
            cells = [(r, c) for r, c in np.ndindex(values.shape) if not np.isnan(values[r, c])]
            figure.add_scatter(
                x=[c for _, c in cells], y=[r for r, _ in cells], mode="text", name="written values",
                text=[number(values[cell], 2) for cell in cells],
                textfont={
                    "size": 10,
                    "color": ["white" if coloured[cell] < -0.6 else INK for cell in cells],
                },
                row=k, col=1,
            )  # fmt: skip
        figure.update_yaxes(
            tickvals=list(range(len(laws))), ticktext=[safe(law) for law in laws],
            range=[len(laws) - 0.5, -0.5], row=k, col=1, **CELLS,
        )  # fmt: skip
    upright = max(map(len, names)) * len(names) > 60
    labels = [broken(safe(name), 16) for name in names] if upright else list(map(safe, names))
    house(
        figure, title=title, note=note, height=150 + total, left=24 + round(6.3 * longest), right=80
    )
    layout: Any = figure["layout"]
    layout.margin.t += 22
    for heading in layout.annotations:
        heading.font.size = 13
    if upright:
        longest = max(len(part) for label in labels for part in label.split("<br>"))
        layout.margin.b += round(6 * longest)
        layout.height += round(6 * longest)
    figure.update_xaxes(
        tickvals=list(range(len(names))), ticktext=labels, tickangle=-90 if upright else 0,
        tickfont={"size": 11}, range=[-0.5, len(names) - 0.5], **CELLS,
    )  # fmt: skip
    figure.update_xaxes(title_text=over, row=count, col=1)
    return figure
