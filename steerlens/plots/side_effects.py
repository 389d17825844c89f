"""Gains of steering one concept on the questions about this and other concepts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from steerlens.plots.arrays import array, fit
from steerlens.plots.curves import multiplier_lines
from steerlens.plots.heatmap import layer_heatmap
from steerlens.plots.look import INK, QUIET, house, span
from steerlens.plots.rows import read_rows
from steerlens.plots.words import axis_title, broken, measured, safe

TARGET = "target: the concept that the row is meant to move"


def gain_heatmap(
    gains: ArrayLike,
    *,
    rows: Iterable[SupportsIndex] | Iterable[str],
    sets: tuple[str, ...],
    targets: tuple[str, ...],
    unit: str,
    title: str,
    note: str = "",
    below_null: ArrayLike | None = None,
    hover: Sequence[Sequence[str]] | None = None,
) -> go.Figure:
    """Row x set heatmap of gains, with each row's target outlined.

    Args:
        gains: Shape (row, set).
        rows: The layer of each row, or its name.
        targets: For each row the set that it is meant to move.
        below_null: True where the gain is no larger than that of null maps; stippled.
        hover: More lines of hover text for each cell; may hold `<br>`.

    Raises:
        ValueError: If a target is not among the sets.
    """
    given: list[Any] = list(rows)
    lines = read_rows(given, downwards=True)
    shape, axes = (lines.count, len(sets)), f"{lines.count} rows x {len(sets)} sets"
    grid = array("gains", gains, shape, axes)[lines.order]
    more = None if hover is None else fit("hover", np.asarray(hover, dtype=object), shape, axes)
    if unknown := [name for name in targets if name not in sets]:
        raise ValueError(f"targets holds {unknown[0]!r}, which is none of the sets {list(sets)}.")
    figure = layer_heatmap(
        gains, rows=given, columns=range(len(sets)), unit=unit, quantity="gain", title=title,
        below_null=below_null,
    )  # fmt: skip
    texts = []
    for r, i in enumerate(lines.order.tolist()):
        values = [measured(float(gain), unit, quantity="gain") for gain in grid[r]]
        words = values if more is None else more[i]
        texts.append(
            [f"{lines.text(r)}: {safe(sets[k])}<br>{word}" for k, word in enumerate(words)]
        )
    figure.update_traces(hovertext=texts, selector={"type": "heatmap"})
    _outline_targets(figure, [sets.index(targets[i]) for i in lines.order])
    height = 170 + (28 if lines.are_layers else 52) * lines.count
    house(figure, title=title, note=note, height=max(330, height), left=lines.left, right=112)
    columns = [broken(safe(name), max(10, 80 // len(sets))) for name in sets]
    figure.update_xaxes(title_text="asked about", tickvals=list(range(len(sets))), ticktext=columns)
    bare: dict[str, Any] = {"showgrid": False, "zeroline": False, "showline": False, "ticks": ""}
    figure.update_xaxes(**bare)
    figure.update_yaxes(title_text=lines.title, **bare)
    return figure


def _outline_targets(figure: go.Figure, columns: Sequence[int]) -> None:
    """A frame around the target of each drawn row; neighbours in one column share a frame."""
    blocks: list[tuple[int, int, int]] = []
    for r, c in enumerate(columns):
        if blocks and blocks[-1][2] == c:
            blocks[-1] = (blocks[-1][0], r, c)
        else:
            blocks.append((r, r, c))
    for width, colour in ((4.5, "white"), (2.0, "black")):
        xs: list[Any] = []
        ys: list[Any] = []
        for low, high, c in blocks:
            xs += [c - 0.5, c + 0.5, c + 0.5, c - 0.5, c - 0.5, None]
            ys += [low - 0.5, low - 0.5, high + 0.5, high + 0.5, low - 0.5, None]
        figure.add_scatter(
            x=xs,
            y=ys,
            mode="lines",
            line={"width": width, "color": colour},
            cliponaxis=False,
            showlegend=colour == "black",
            name=TARGET,
        )


def gain_lines(
    series: Mapping[str, Any], *, multipliers: Iterable[SupportsFloat], unit: str, title: str
) -> go.Figure:
    """Gain over the multiplier, a line and a band for each set.

    Args:
        series: Name of a set -> (mean, low, high) with 95% intervals, each of shape (multiplier,).
    """
    figure, x, note = multiplier_lines(series, multipliers, unit)
    house(figure, title=title, note=note)
    figure.update_xaxes(title_text="multiplier", range=span(x), zeroline=True, zerolinecolor=QUIET)
    figure.update_yaxes(title_text=axis_title("gain", unit), zeroline=True, zerolinecolor=INK)
    return figure
