"""Row x multiplier as a heatmap, with the cells that do not count marked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from steerlens.plots.arrays import Array, array, fit, holes, mask, ordered
from steerlens.plots.look import (
    CELLS,
    DIVERGING,
    INK,
    MISSING,
    QUIET,
    colour_bar,
    colour_range,
    house,
)
from steerlens.plots.marks import key
from steerlens.plots.narrow import NARROW, make_narrow
from steerlens.plots.rows import Rows, label_rows, read_rows
from steerlens.plots.words import axis_title, measured, number

NULL = "no more than the null maps gain"
COSTLY = "over the cost budget"
NONE = "No cell gains more than the null maps."
"""What is said in the place of dots in every cell."""
MOST_WRITTEN, PITCH = 48, 17
"""Layers whose numbers are written into the cells, and the height in pixels that these take."""


def layer_heatmap(
    values: ArrayLike,
    *,
    rows: Iterable[SupportsIndex] | Iterable[str],
    columns: Iterable[SupportsFloat],
    unit: str,
    title: str,
    column_title: str = "multiplier",
    quantity: str | None = None,
    best: tuple[SupportsIndex | str, SupportsFloat] | None = None,
    below_null: ArrayLike | None = None,
    over_budget: ArrayLike | None = None,
    hover: Sequence[Sequence[str]] | None = None,
    cell_names: Sequence[Sequence[str]] | None = None,
    note: str = "",
    room: int = 480,
) -> go.Figure:
    """Row x column heatmap with diverging colours centred on zero.

    Layers are drawn upwards in increasing order, whatever order they come in; named rows are drawn
    downwards in the given order. Columns are drawn in increasing order. A single cell more than
    three times beyond all others does not stretch the colours; the colour bar then says where they
    were clipped.

    Args:
        values: Shape (row, column); NaN is drawn grey, as "not measured".
        rows: The layer of each row, or its name.
        columns: The multiplier of each column.
        unit: Unit of `values`, e.g. "nats".
        quantity: What `values` is, for the colour bar and the hover, e.g. "propensity gain".
        best: The cell to mark, as (layer or name, multiplier), not as indices.
        below_null: True where a cell is no larger than chance allows; stippled, unless it also
            costs too much. Where that is every cell but those of column 0, a note says so instead.
        over_budget: True where a cell costs too much; hatched.
        hover: One more line of hover text for each cell; may hold `<br>`.
        cell_names: What stands in each cell before its value, where there is room.
        note: A line below the title.
        room: Pixels that the columns share at the narrowest width.

    Raises:
        ValueError: If a row or column is repeated, or `best` is not a cell.

    >>> figure = layer_heatmap(
    ...     [[0.0, 0.1], [0.0, 2.0]], rows=[0, 1], columns=[0.0, 1.0], unit="nats",
    ...     title="Propensity gain", best=(1, 1.0),
    ... )
    >>> figure.data[0].zmin, figure.data[0].zmax
    (-2.0, 2.0)
    """
    lines = read_rows(rows, downwards=True)
    names, column_order = ordered("columns", columns)
    shape = (lines.count, len(names))
    pick = np.ix_(lines.order, column_order)
    axes = f"{shape[0]} rows x {shape[1]} columns"
    grid = array("values", values, shape, axes)[pick]
    null = mask("below_null", below_null, shape, axes)[pick]
    costly = mask("over_budget", over_budget, shape, axes)[pick]
    notes = np.full(shape, "", object) if hover is None else np.asarray(hover, dtype=object)
    notes = fit("hover", notes, shape, axes)[pick]
    star = None if best is None else _locate(best, lines, names)
    digits = next(d for d in (3, 5, 17) if len({number(n, d) for n in names}) == len(names))
    labels = [number(n, digits) for n in names]

    missing = np.isnan(grid)
    texts = np.empty(shape, dtype=object)
    for cell in np.ndindex(shape):
        parts = [
            f"{lines.text(cell[0])}, {column_title} {labels[cell[1]]}",
            measured(float(grid[cell]), unit, quantity=quantity),
            NULL if null[cell] else "",
            COSTLY if costly[cell] else "",
            "best cell" if star == cell else "",
            notes[cell],
        ]
        texts[cell] = "<br>".join(filter(None, parts))

    top, clipped = colour_range(grid)
    cells = _written(grid, top)
    if cell_names is not None:
        called = fit("cell_names", np.asarray(cell_names, dtype=object), shape, axes)[pick]
        cells = {cell: f"{called[cell]}: {value}" for cell, value in cells.items()}
    longest = max(len(text) for text in cells.values())
    written = shape[0] <= MOST_WRITTEN and shape[1] * (6.4 * longest + 6) <= room
    pitch = PITCH if lines.are_layers and written else lines.pitch
    panel = max(300, pitch * shape[0])
    tall = panel / shape[0] * shape[1] / room  # height of a cell over its width

    figure = go.Figure()
    add_cells(figure, grid, texts, colour_bar(axis_title(quantity, unit), top, clipped), top)
    # What costs too much is marked for that alone, and where nothing is above the null a sentence
    # says so: dots in every cell would hide what the map shows.
    none = bool(null.any()) and bool((null | missing | (np.asarray(names) == 0)).all())
    if null.any() and not none and (dots := null & ~missing & ~costly).any():
        _stipple(figure, dots, written, tall)
    if costly.any():
        _hatch(figure, costly & ~missing, written, tall)
    if written:
        write_cells(figure, cells, grid, top)
    if star is not None:
        name = f"best: {lines.text(star[0])}, {column_title} {labels[star[1]]}"
        _outline(figure, star, name, with_star=not written)

    height = 150 + panel
    note = f"{note} {NONE}".strip() if none else note
    house(figure, title=title, note=note, height=height, left=lines.left, right=112)
    zero = names.index(0) if 0 in names else 0
    figure.update_xaxes(
        title_text=column_title,
        **_column_ticks(labels, zero, room),
        tickangle=0,
        range=[-0.5, shape[1] - 0.5],
        **CELLS,
    )
    figure.update_yaxes(range=[-0.5, shape[0] - 0.5], **CELLS)
    label_rows(figure, lines, MOST_WRITTEN if written else 16)
    if lines.are_layers:
        fits = shape[1] * (5.8 * longest + 3) <= NARROW - 54
        ticks = {f"xaxis.{k}": v for k, v in _column_ticks(labels, zero, NARROW - 54).items()}
        # With numbers in the cells the colours need no bar, which would take a third of the width.
        away = [] if fits else ["written values"]
        bar = {"showscale": not (written and fits)}
        make_narrow(
            figure, title=title, note=note, layout={**ticks, "margin.r": 10 if fits else 96},
            hidden=away, restyled={0: bar},
        )  # fmt: skip
    return figure


def _column_ticks(labels: Sequence[str], zero: int, room: float) -> dict[str, Any]:
    """As many of the labels as there is room for, that of 0 among them."""
    step = math.ceil(len(labels) * (6.2 * max(map(len, labels)) + 9) / room)
    shown = range(zero % step, len(labels), step)
    return {"tickvals": list(shown), "ticktext": [labels[i] for i in shown]}


def _locate(
    best: tuple[SupportsIndex | str, SupportsFloat], rows: Rows, names: Sequence[float]
) -> tuple[int, int]:
    """Row and column of a cell given by its layer or name and its multiplier."""
    row, multiplier = best
    found = np.flatnonzero(np.isclose(np.asarray(names, dtype=float), float(multiplier)))
    if row not in rows.names or not len(found):
        raise ValueError(
            f"best={best} is not a cell: rows are {rows.names} and columns {list(names)}. "
            "Pass (row, multiplier) by their values, not by index."
        )
    return rows.names.index(row), int(found[0])


def _written(grid: Array, top: float) -> dict[tuple[int, ...], str]:
    """The text of each cell, with as many decimals as the colour range needs, the same for all."""
    places = max(0, min(4, 2 - math.floor(math.log10(top))))
    return {
        cell: f"{round(value, places) + 0.0:.{places}f}".replace("-", "−").replace("nan", "")
        for cell, value in np.ndenumerate(grid)
    }


def add_cells(
    figure: go.Figure, grid: Array, texts: NDArray[Any], bar: dict[str, Any], top: float
) -> None:
    """Cells coloured by their signed values, and grey where nothing was measured.

    Args:
        grid: Values, one for each cell; NaN where there is none.
        texts: What is shown above each cell under the pointer.
        bar: The colour bar.
        top: The size at which the colours end.
    """
    figure.add_heatmap(
        z=holes(grid), zmin=-top, zmax=top, colorscale=DIVERGING, colorbar=bar, name="values"
    )
    missing = np.isnan(grid)
    if missing.any():
        figure.add_heatmap(
            z=holes(np.where(missing, 1.0, np.nan)),
            colorscale=((0, MISSING), (1, MISSING)),
            showscale=False,
            name="not measured",
        )
        key(figure, "not measured", symbol="square", size=11, color=MISSING)
    figure.update_traces(selector={"type": "heatmap"}, xgap=1, ygap=1, hovertext=texts)


def write_cells(
    figure: go.Figure,
    cells: Mapping[tuple[int, ...], str],
    grid: Array,
    top: float,
    **panel: int,
) -> None:
    """Writes a text into each cell that was measured, white on the dark ends of the colours.

    Args:
        panel: `row` and `col` of the panel, where there are several.
    """
    where = [cell for cell in cells if not np.isnan(grid[cell])]
    dark = [abs(grid[cell]) > 0.66 * top for cell in where]
    figure.add_scatter(
        x=[c for _, c in where],
        y=[r for r, _ in where],
        mode="text",
        text=[cells[cell] for cell in where],
        textfont={"size": 11, "color": ["white" if d else INK for d in dark]},
        name="written values",
        **panel,
    )


def _stipple(figure: go.Figure, marked: NDArray[np.bool_], written: bool, tall: float) -> None:
    """Dots in the corners of the marked cells, clear of a written number; else along the middle."""
    count = max(1, min(4, round(0.5 / tall)))
    spots = [((i + 0.5) / count - 0.5, 0.0) for i in range(count)]
    if written:
        spots = [(dx, dy) for dx in (-0.4, 0.4) for dy in (-0.32, 0.32)]
    cells = np.argwhere(marked).tolist()
    figure.add_scatter(
        x=[c + dx for _, c in cells for dx, _ in spots],
        y=[r + dy for r, _ in cells for _, dy in spots],
        mode="markers",
        marker={"size": 3, "color": INK, "opacity": 0.55},
        legendgroup=NULL,
        name=NULL,
    )
    key(figure, NULL, symbol="circle", size=4, color=QUIET)


def _hatch(figure: go.Figure, marked: NDArray[np.bool_], written: bool, tall: float) -> None:
    """Strokes near 45 degrees over the marked cells; only across corners beside a number."""
    if written:
        strokes = []
        for reach in (0.4, 0.18):
            wide = reach * min(1.0, tall)  # long cells do not get flat strokes
            strokes.append((-0.5, 0.5 - reach, -0.5 + wide, 0.5))
            strokes.append((0.5 - wide, -0.5, 0.5, -0.5 + reach))
    else:
        count = max(1, min(6, round(0.6 / tall)))
        strokes = [(i / count - 0.5, -0.5, (i + 1) / count - 0.5, 0.5) for i in range(count)]
    xs: list[Any] = []
    ys: list[Any] = []
    for r, c in np.argwhere(marked).tolist():
        for x0, y0, x1, y1 in strokes:
            xs += [c + x0, c + x1, None]
            ys += [r + y0, r + y1, None]
    # A white halo keeps the dark strokes visible on the darkest cells, where cost is highest.
    for width, colour in ((3.0, "rgba(255,255,255,0.75)"), (1.2, INK)):
        look = {"width": width, "color": colour}
        figure.add_scatter(x=xs, y=ys, mode="lines", line=look, legendgroup=COSTLY, name=COSTLY)
    key(figure, COSTLY, symbol="line-ne-open", size=9, color=INK)


def _outline(figure: go.Figure, cell: tuple[int, int], name: str, *, with_star: bool) -> None:
    """A frame around the best cell, with a star in it where no number is written."""
    r, c = cell
    for width, colour in ((5.0, "white"), (2.5, "black")):
        figure.add_scatter(
            x=[c - 0.5, c + 0.5, c + 0.5, c - 0.5, c - 0.5],
            y=[r - 0.5, r - 0.5, r + 0.5, r + 0.5, r - 0.5],
            mode="lines",
            line={"width": width, "color": colour},
            cliponaxis=False,
            legendgroup=name,
            name="best cell",
        )
    if with_star:
        figure.add_scatter(
            x=[c],
            y=[r],
            mode="markers",
            marker={"symbol": "star", "size": 10, "color": "black"},
            marker_line={"width": 1, "color": "white"},
            legendgroup=name,
            name="best cell",
        )
    key(figure, name, symbol="star" if with_star else "square-open", size=10, color="black")
