"""One number of each of many runs: a heatmap over two of their fields, and points with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from steerlens.plots.arrays import array, band, fit, holes, mask
from steerlens.plots.heatmap import add_cells, write_cells
from steerlens.plots.look import (
    CELLS,
    INK,
    PALETTE,
    QUIET,
    colour_bar,
    colour_range,
    house,
    span,
)
from steerlens.plots.marks import key, whiskers
from steerlens.plots.narrow import NARROW, make_narrow
from steerlens.plots.rows import LETTER, label_columns, read_rows
from steerlens.plots.words import axis_title, broken, measured, number, safe

ROOM = 480
"""Pixels that the columns share at the narrowest width."""
NO_MORE = "no more than chance"


def run_heatmap(
    values: ArrayLike,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    row_title: str,
    column_title: str,
    unit: str,
    quantity: str,
    title: str,
    below_null: ArrayLike | None = None,
    hover: Sequence[Sequence[str]] | None = None,
    note: str = "",
) -> go.Figure:
    """A number over two fields of many runs, with diverging colours centred on zero.

    Args:
        values: Shape (row, column); NaN is drawn grey, as "not measured".
        rows: The values of one field, drawn downwards.
        columns: The values of the other, drawn to the right.
        below_null: True where a number is no more than chance; a ring stands in the cell.
        hover: One more line of hover text for each cell; may hold `<br>`.

    Raises:
        ValueError: If a row or column is there twice, or the shapes differ.
    """
    down, across = read_rows(rows, downwards=True), read_rows(columns)
    shape = (down.count, across.count)
    axes = f"{shape[0]} rows x {shape[1]} columns"
    pick = np.ix_(down.order, across.order)
    grid = array("values", values, shape, axes)[pick]
    null = mask("below_null", below_null, shape, axes)[pick] & ~np.isnan(grid)
    notes = np.full(shape, "", object) if hover is None else np.asarray(hover, dtype=object)
    notes = fit("hover", notes, shape, axes)[pick]
    texts = np.empty(shape, dtype=object)
    for r, c in np.ndindex(shape):
        parts = [
            f"{row_title} {down.text(r)}, {column_title} {across.text(c)}",
            measured(float(grid[r, c]), unit, quantity=quantity),
            NO_MORE if null[r, c] else "",
            notes[r, c],
        ]
        texts[r, c] = "<br>".join(filter(None, parts))
    top, clipped = colour_range(grid)
    figure = go.Figure()
    add_cells(figure, grid, texts, colour_bar(axis_title(quantity, unit), top, clipped), top)
    words = {cell: number(float(v), 3) for cell, v in np.ndenumerate(grid) if not np.isnan(v)}
    longest = max(map(len, words.values()), default=1)
    written = shape[1] * (6.4 * longest + 8) <= ROOM
    if written:
        write_cells(figure, words, grid, top)
    if null.any():
        spots = np.argwhere(null).tolist()
        figure.add_scatter(
            x=[c - 0.38 for _, c in spots],
            y=[r + 0.3 for r, _ in spots],
            mode="markers",
            marker={"symbol": "circle-open", "size": 7, "color": INK, "line": {"width": 1.4}},
            name=NO_MORE,
        )
        key(figure, NO_MORE, symbol="circle-open", size=7, color=QUIET)
    pitch = max(34, down.pitch)
    house(
        figure, title=title, note=note, height=160 + max(120, pitch * shape[0]),
        left=down.left + 18, right=112,
    )  # fmt: skip
    figure.update_xaxes(title_text=column_title, range=[-0.5, shape[1] - 0.5], **CELLS)
    figure.update_yaxes(
        title_text=row_title, range=[-0.5, shape[0] - 0.5], tickvals=list(range(shape[0])),
        ticktext=down.labels, ticklabelstandoff=6, **CELLS,
    )  # fmt: skip
    label_columns(figure, across, 16, ROOM, by_place=True)
    short = [broken(safe(name), 13) for name in down.names]
    left = 16 + round(LETTER * max(len(one) for text in short for one in text.split("<br>")))
    fits = shape[1] * (5.8 * longest + 4) <= NARROW - left - 10
    each = max(3, int((NARROW - left - 10) / shape[1] / LETTER))
    words_across = [broken(safe(name), each) for name in across.names]
    lines = max(text.count("<br>") for text in words_across)
    longest_across = max(len(one) for text in words_across for one in text.split("<br>"))
    make_narrow(
        figure,
        title=title,
        note=note,
        left=left,
        below=15 * lines if each > 5 else round(LETTER * longest_across),
        layout={
            "yaxis.ticktext": short,
            "yaxis.title.text": "",
            "xaxis.ticktext": words_across,
            "xaxis.title.text": f"{column_title} (across), {row_title} (down)",
            "xaxis.tickangle": 0 if each > 5 else -90,
            "margin.r": 10 if written and fits else 96,
        },
        hidden=[] if fits else ["written values"],
        restyled={0: {"showscale": not (written and fits)}},
    )
    return figure


def run_dots(
    values: tuple[ArrayLike, ArrayLike, ArrayLike],
    *,
    names: Sequence[str],
    groups: Sequence[str],
    unit: str,
    quantity: str,
    title: str,
    below_null: ArrayLike | None = None,
    note: str = "",
) -> go.Figure:
    """A point with its interval for each run, one below the other.

    Args:
        values: (value, low, high), each of shape (run,); NaN for what was not measured.
        names: What each run is called.
        groups: What each run is coloured by; one colour where all are equal.
        below_null: True where a number is no more than chance: an open point.

    Raises:
        ValueError: If a name is there twice, or the lengths differ.
    """
    rows = read_rows(names, downwards=True)
    parts = tuple(np.asarray(part, dtype=float) for part in values)
    whole = band("values", parts, rows.order, f"{rows.count} runs")
    null = mask("below_null", below_null, (rows.count,), f"{rows.count} runs")[rows.order]
    of = [groups[i] for i in rows.order]
    figure = go.Figure()
    known = list(dict.fromkeys(groups))
    for k, group in enumerate(known):
        colour = PALETTE[k % len(PALETTE)]
        picked = [i for i in range(rows.count) if of[i] == group]
        drawn = type(whole)(*(part[picked] for part in whole))
        figure.add_scatter(
            x=holes(drawn.mean),
            y=picked,
            mode="markers",
            marker={
                "size": 9,
                "color": ["white" if null[i] else colour for i in picked],
                "line": {"width": 1.8, "color": colour},
            },
            error_x=whiskers(drawn, colour, width=4),
            hovertext=[
                "<br>".join(
                    filter(
                        None,
                        (
                            rows.text(i),
                            drawn.text(j, unit, quantity),
                            NO_MORE if null[i] else "",
                        ),
                    )
                )
                for j, i in enumerate(picked)
            ],
            showlegend=len(known) > 1,
            name=safe(group),
        )
    if null.any():
        key(figure, NO_MORE, symbol="circle-open", size=9, color=QUIET)
    ends = [0.0, *(x for part in whole for x in part.tolist() if x == x)]
    short = [broken(safe(name), 16) for name in rows.names]
    lines = max(text.count("<br>") + 1 for text in short)
    house(
        figure, title=title, note=note, height=130 + max(24, rows.pitch, 8 + 15 * lines) * rows.count,
        left=rows.left,
    )  # fmt: skip
    figure.update_xaxes(title_text=axis_title(quantity, unit), range=span(ends), zeroline=True)
    figure.update_yaxes(
        tickvals=list(range(rows.count)), ticktext=rows.labels, showgrid=False,
        range=[-0.6, rows.count - 0.4],
    )  # fmt: skip
    left = 14 + round(LETTER * max(len(one) for text in short for one in text.split("<br>")))
    make_narrow(figure, title=title, note=note, left=left, layout={"yaxis.ticktext": short})
    return figure
