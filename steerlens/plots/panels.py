"""Several changes by row and column side by side, each on its own scale."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from steerlens.plots.arrays import Array, array, fit, holes, ordered
from steerlens.plots.look import (
    BAR,
    CELLS,
    DIVERGING,
    INK,
    MISSING,
    WIDTH,
    colour_range,
    house,
)
from steerlens.plots.marks import key
from steerlens.plots.rows import label_rows, read_rows
from steerlens.plots.words import axis_title, measured, number

UNCERTAIN = "95% interval of the cell by itself holds 0"
LEFT, RIGHT = 58, 62
GAP = 0.2
"""Share of the width between two panels, with the colour bar of the left one."""


def change_panels(
    changes: Mapping[str, Any],
    *,
    rows: Iterable[SupportsIndex] | Iterable[str],
    columns: Iterable[SupportsFloat],
    units: Mapping[str, str],
    title: str,
    column_title: str = "multiplier",
    worse_down: Collection[str] = (),
    least: Mapping[str, float] | None = None,
    hover: Mapping[str, Sequence[Sequence[str]]] | None = None,
    note: str = "",
) -> go.Figure:
    """A row x column heatmap for each quantity, red where it is worse.

    Layers are drawn upwards from the lowest, named rows downwards. A dot marks the cells whose
    interval holds 0, but not those where the change is 0 by definition, with an interval of no
    width.

    Args:
        changes: Name -> (mean, low, high), each of shape (row, column); NaN is drawn grey.
        rows: The layer of each row, or its name.
        units: Name -> unit.
        worse_down: Names of quantities of which less is worse: their colours are reversed.
        least: Name -> the smallest reach of its colours, so that noise does not look like a finding.
        hover: Name -> one more line of hover text for each cell; may hold `<br>`.
        note: Written under the title.

    Raises:
        ValueError: If a row or column is repeated, or a shape does not fit.

    >>> band = ([[0.0, 2.0]], [[0.0, 1.0]], [[0.0, 3.0]])
    >>> figure = change_panels({"surprisal": band}, rows=[0], columns=[0, 1],
    ...                        units={"surprisal": "nats"}, title="Costs")
    >>> figure.data[0].zmax
    2.0
    """
    lines = read_rows(rows, downwards=True)
    names, column_order = ordered("columns", columns)
    shape, pick = (lines.count, len(names)), np.ix_(lines.order, column_order)
    axes = f"{shape[0]} rows x {shape[1]} columns"
    if not changes:
        raise ValueError("changes is empty, so there is nothing to draw. Pass at least one.")
    wide = min(2, len(changes))
    tall = math.ceil(len(changes) / wide)
    figure = make_subplots(
        rows=tall,
        cols=wide,
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=GAP if wide > 1 else 0,
        vertical_spacing=0.13 if tall > 1 else 0,
        subplot_titles=[axis_title(name, units[name]) for name in changes],
    )
    left = LEFT if lines.are_layers else lines.left
    room = (WIDTH - left - RIGHT) * (1 - GAP if wide > 1 else 1) / wide
    digits = next(d for d in (3, 5, 17) if len({number(n, d) for n in names}) == len(names))
    labels = [number(n, digits) for n in names]
    keys = set()
    for k, (name, band) in enumerate(changes.items()):
        row, col = divmod(k, wide)
        parts = [
            array(f"{name} {part}", value, shape, axes)[pick]
            for part, value in zip(("mean", "low", "high"), band, strict=True)
        ]
        extra = np.full(shape, "", object) if hover is None else np.asarray(hover[name], object)
        extra = fit(f"hover[{name!r}]", extra, shape, axes)[pick]
        texts = np.empty(shape, dtype=object)
        for cell in np.ndindex(shape):
            value = measured(*_numbers(parts, cell, units[name]), quantity=f"{name} changes by")
            where = f"{lines.text(cell[0])}, {column_title} {labels[cell[1]]}"
            words = [where, value, str(extra[cell])]
            texts[cell] = "<br>".join(filter(None, words))
        down, floor = name in worse_down, 0.0 if least is None else least[name]
        place = {"row": row + 1, "col": col + 1}
        keys |= _panel(figure, parts, texts, room, tall, floor, down=down, place=place)
    if "missing" in keys:
        key(figure, "not measured", symbol="square", size=11, color=MISSING)
    if "uncertain" in keys:
        key(figure, UNCERTAIN, symbol="circle", size=5, color=INK)
    house(
        figure,
        title=title,
        note=note,
        height=(180 if tall == 1 else 150) + tall * max(230, 60 + 11 * shape[0]),
        left=left,
        right=RIGHT,
    )
    layout: Any = figure["layout"]
    layout.margin.t += 22  # for the names over the panels
    for heading in layout.annotations:
        heading.font.size = 13
    step = math.ceil(len(labels) * (5.0 * max(map(len, labels)) + 7) / room)
    zero = names.index(0) if 0 in names else 0
    shown = range(zero % step, len(labels), step)
    figure.update_xaxes(
        tickvals=list(shown), ticktext=[labels[i] for i in shown], tickangle=0, tickfont_size=10,
        range=[-0.5, shape[1] - 0.5], **CELLS,
    )  # fmt: skip
    figure.update_yaxes(range=[-0.5, shape[0] - 0.5], **CELLS)
    label_rows(figure, lines, 16 // tall)
    figure.update_yaxes(title_text="")  # the left panels alone have one, below
    for k in range(len(changes) - wide, len(changes)):  # the lowest panel of each column
        row, col = divmod(k, wide)
        figure.update_xaxes(title_text=column_title, showticklabels=True, row=row + 1, col=col + 1)
    figure.update_yaxes(title_text=lines.title, col=1)
    if len(changes) < wide * tall:  # the place of a panel that there is not
        figure.update_xaxes(visible=False, row=tall, col=wide)
        figure.update_yaxes(visible=False, row=tall, col=wide)
    return figure


def _numbers(parts: Sequence[Array], cell: tuple[int, ...], unit: str) -> tuple:
    mean, low, high = (float(part[cell]) for part in parts)
    return mean, unit, low, high


def _panel(
    figure: go.Figure,
    parts: Sequence[Array],
    texts: NDArray[Any],
    room: float,
    tall: int,
    least: float,
    *,
    down: bool,
    place: dict[str, int],
) -> set[str]:
    """Draws one heatmap with its colour bar and marks, and returns the marks that it needed."""
    mean, low, high = parts
    top, clipped = colour_range(mean)
    if top < least:
        top, clipped = least, False
    axis: Any = next(figure.select_yaxes(**place))
    across: Any = next(figure.select_xaxes(**place))
    bottom, ceiling = axis.domain or (0.0, 1.0)
    end = number(top, 2)
    ends = [f"≤ −{end}", "0", f"≥ {end}"] if clipped else [f"−{end}", "0", end]
    bar = {"x": (across.domain or (0.0, 1.0))[1], "xpad": 4, "y": (bottom + ceiling) / 2}
    bar |= {"len": ceiling - bottom, "ypad": 0, "tickvals": [-top, 0, top], "ticktext": ends}
    missing = np.isnan(mean)
    figure.add_heatmap(
        z=holes(mean), zmin=-top, zmax=top, colorscale=DIVERGING, reversescale=down, xgap=1, ygap=1,
        colorbar=BAR | bar | {"thickness": 9, "tickfont": {"size": 10}}, hovertext=texts,
        name="changes", **place,
    )  # fmt: skip
    if missing.any():
        figure.add_heatmap(
            z=holes(np.where(missing, 1.0, np.nan)), colorscale=((0, MISSING), (1, MISSING)),
            showscale=False, hovertext=texts, xgap=1, ygap=1, name="not measured", **place,
        )  # fmt: skip
    # An interval has no width where the change is 0 by definition, or the same in every text.
    uncertain = (low <= 0) & (high >= 0) & (high > low)
    written = _write(figure, mean, top, room, tall, place)
    spots = np.argwhere(uncertain).tolist()
    figure.add_scatter(
        x=[c - (0.4 if written else 0.0) for _, c in spots],
        y=[r + (0.34 if written else 0.0) for r, _ in spots],
        mode="markers",
        marker={"size": 3, "color": INK, "opacity": 0.7},
        legendgroup=UNCERTAIN,
        name=UNCERTAIN,
        **place,
    )
    return {name for name, used in (("missing", missing.any()), ("uncertain", spots)) if used}


def _write(
    figure: go.Figure, mean: Array, top: float, room: float, tall: int, place: dict[str, int]
) -> bool:
    """Writes the numbers into the cells if there is room, and returns whether there was."""
    size = math.floor(math.log10(top))
    places = max(0, min(4, (2 if size >= 0 else 1) - size))
    cells = {
        cell: f"{round(float(value), places) + 0.0:.{places}f}".replace("-", "−")
        for cell, value in np.ndenumerate(mean)
        if not np.isnan(value)
    }
    longest = max(map(len, cells.values()), default=0)
    if mean.shape[0] > 20 // tall or mean.shape[1] * (5.6 * longest + 4) > room:
        return False
    figure.add_scatter(
        x=[c for _, c in cells],
        y=[r for r, _ in cells],
        mode="text",
        text=list(cells.values()),
        textfont={
            "size": 10,
            "color": ["white" if abs(mean[cell]) > 0.66 * top else INK for cell in cells],
        },
        name="written values",
        **place,
    )
    return True
