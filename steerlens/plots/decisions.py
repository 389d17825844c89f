"""Which ways meet which constraints: a cell for each, with what decided it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from steerlens.plots.look import CELLS, INK, WIDTH, house
from steerlens.plots.marks import key
from steerlens.plots.narrow import NARROW, make_narrow
from steerlens.plots.rows import LETTER, read_rows
from steerlens.plots.words import broken, safe

LOOKS: Mapping[str, tuple[str, str, str, str]] = {
    "fails": ("#f7d9c9", "✗", "#a23b00", "does not meet it"),
    "unsure": ("#fdf0c9", "?", "#7a5b00", "meets it, but its interval holds the bound"),
    "passes": ("#dcefe8", "✓", "#00694c", "meets it"),
}
"""Of each outcome: the colour of its cell, its sign and the sign's colour, and what it means."""


def decision_matrix(
    columns: Mapping[str, Sequence[tuple[str, str, str]]],
    *,
    rows: Iterable[str],
    title: str,
    note: str = "",
) -> go.Figure:
    """A row for each way and a column for each constraint, the first way on top.

    Args:
        columns: Constraint in words -> (outcome, number, reason) of each way; the outcome is "passes",
            "fails" or "unsure", the number stands in the cell and the reason is on hover.
        rows: The name of each way.

    Raises:
        ValueError: If there is no constraint, one does not have as many verdicts as there are ways, or
            there is no such outcome.
    """
    if not columns:
        raise ValueError("columns is empty, so nothing is decided. Pass at least one constraint.")
    given = list(rows)
    names = read_rows(given, downwards=True)
    if names.are_layers:
        raise ValueError(f"rows={given} must be the names of ways.")
    codes = list(LOOKS)
    z, hover, signs, numbers = [], [], [], []
    for row in range(names.count):
        place = int(names.order[row])
        z.append([])
        hover.append([])
        for column, (heading, each) in enumerate(columns.items()):
            if len(each) != names.count:
                raise ValueError(
                    f"columns[{heading!r}] has {len(each)} verdicts for {names.count} ways. Give one "
                    "for each."
                )
            outcome, found, why = each[place]
            if outcome not in LOOKS:
                raise ValueError(f"{outcome!r} is no outcome. Use one of {', '.join(LOOKS)}.")
            z[-1].append(codes.index(outcome))
            said = LOOKS[outcome][3]
            words = [f"{names.text(row)}: {safe(heading)}", said, safe(why)]
            hover[-1].append("<br>".join(broken(one, 60) for one in words if one))
            signs.append((column, row, LOOKS[outcome]))
            numbers.append((column, row, found))
    figure = go.Figure()
    steps = [
        (end, LOOKS[code][0])
        for k, code in enumerate(codes)
        for end in (k / len(codes), (k + 1) / len(codes))
    ]
    figure.add_heatmap(
        z=z, zmin=-0.5, zmax=len(codes) - 0.5, colorscale=steps, showscale=False, xgap=2, ygap=2,
        hovertext=hover, name="verdicts",
    )  # fmt: skip
    figure.add_scatter(
        x=[x for x, _, _ in signs], y=[y + 0.18 for _, y, _ in signs], mode="text",
        text=[look[1] for _, _, look in signs], name="signs",
        textfont={"size": 13, "color": [look[2] for _, _, look in signs]},
    )  # fmt: skip
    figure.add_scatter(
        x=[x for x, _, _ in numbers], y=[y - 0.24 for _, y, _ in numbers], mode="text",
        text=[safe(found) for _, _, found in numbers], textfont={"size": 10, "color": INK},
        name="numbers",
    )  # fmt: skip
    for colour, sign, _, meaning in reversed(list(LOOKS.values())):
        key(figure, f"{sign} {meaning}", symbol="square", size=11, color=colour)
    room = (WIDTH - names.left - 20) / len(columns)
    wide = [broken(safe(heading), max(7, int(room / 5.6))) for heading in columns]
    lines = max(text.count("<br>") + 1 for text in wide)
    house(
        figure, title=title, note=note, height=36 * names.count + 150 + 13 * lines, left=names.left,
        right=20,
    )  # fmt: skip
    layout: Any = figure["layout"]
    layout.margin.t += 13 * lines + 8
    layout.margin.b -= 36
    layout.height = 36 * names.count + layout.margin.t + layout.margin.b
    figure.update_xaxes(
        side="top", tickvals=list(range(len(columns))), ticktext=wide, tickangle=0,
        tickfont={"size": 10}, range=[-0.5, len(columns) - 0.5], **CELLS,
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=list(range(names.count)), ticktext=names.labels, ticklabelstandoff=6,
        range=[-0.5, names.count - 0.5], **CELLS,
    )  # fmt: skip
    short = [broken(safe(name), 13) for name in names.names]
    upright = [broken(safe(heading), 24) for heading in columns]
    longest = max(len(one) for text in upright for one in text.split("<br>"))
    left = 14 + round(LETTER * max(len(one) for text in short for one in text.split("<br>")))
    fits = (NARROW - left - 10) / len(columns) >= 44
    make_narrow(
        figure, title=title, note=note, left=left, above=round(5.8 * longest) + 8, below=-40,
        layout={"yaxis.ticktext": short, "xaxis.ticktext": upright, "xaxis.tickangle": -90},
        hidden=[] if fits else ["numbers"],
    )  # fmt: skip
    return figure
