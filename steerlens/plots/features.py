"""Features of an SAE: over multipliers, on other features, and one feature on a card."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsFloat

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from steerlens.plots.arrays import Array, Band, array, band, fit, holes, mask, ordered
from steerlens.plots.heatmap import COSTLY, NULL, _hatch, _outline, _stipple, _written
from steerlens.plots.look import (
    CELLS,
    DIVERGING,
    INK,
    MONO,
    PALETTE,
    QUIET,
    colour_bar,
    colour_range,
    house,
    span,
)
from steerlens.plots.marks import line
from steerlens.plots.words import axis_title, broken, measured, number, safe

ROOM = 78
"""Characters of a line of text on a card."""


def feature_heatmap(
    values: ArrayLike,
    *,
    features: Sequence[int],
    columns: Iterable[SupportsFloat],
    unit: str,
    title: str,
    column_title: str = "multiplier",
    quantity: str | None = None,
    best: tuple[int, float] | None = None,
    below_null: ArrayLike | None = None,
    over_budget: ArrayLike | None = None,
    hover: Sequence[Sequence[str]] | None = None,
) -> go.Figure:
    """Feature x column heatmap, the first feature on top; else as `layer_heatmap`.

    Args:
        values: Shape (feature, column).
        features: The number of each row's feature, in the order of the ranking.
        best: The cell to mark, as (feature, multiplier).

    Raises:
        ValueError: If a feature is repeated, or `best` is not a cell.
    """
    if len(set(features)) != len(features):
        raise ValueError(f"features={list(features)} holds a feature twice.")
    names, order = ordered("columns", columns)
    shape = (len(features), len(names))
    axes = f"{shape[0]} features x {shape[1]} columns"
    grid = array("values", values, shape, axes)[:, order]
    null = mask("below_null", below_null, shape, axes)[:, order]
    costly = mask("over_budget", over_budget, shape, axes)[:, order]
    notes = np.full(shape, "", object) if hover is None else np.asarray(hover, dtype=object)
    notes = fit("hover", notes, shape, axes)[:, order]
    labels = [number(name) for name in names]
    star = None
    if best is not None:
        at = [j for j, name in enumerate(names) if math.isclose(float(name), best[1], abs_tol=1e-9)]
        if best[0] not in features or not at:
            raise ValueError(
                f"best={best} is not a cell: features are {list(features)} and columns {names}. "
                "Pass (feature, multiplier) by their values, not by index."
            )
        star = list(features).index(best[0]), at[0]
    texts = np.empty(shape, dtype=object)
    for i, j in np.ndindex(shape):
        lines = [
            f"feature {features[i]}, {column_title} {labels[j]}",
            measured(float(grid[i, j]), unit, quantity=quantity),
            NULL if null[i, j] else "",
            COSTLY if costly[i, j] else "",
            notes[i, j],
        ]
        texts[i, j] = "<br>".join(filter(None, lines))
    rows = [f"{feature}" for feature in features]
    figure = _grid(grid, texts, unit=axis_title(quantity, unit))
    tall = 300 / shape[0] * shape[1] / 480
    missing = np.isnan(grid)
    if null.any():
        _stipple(figure, null & ~missing, True, tall)
    if costly.any():
        _hatch(figure, costly & ~missing, True, tall)
    if star is not None:
        name = f"best: feature {features[star[0]]}, multiplier {labels[star[1]]}"
        _outline(figure, star, name, with_star=False)
    house(figure, title=title, height=max(380, 170 + 30 * shape[0]), left=84, right=112)
    _cells(figure, rows, labels, "feature", column_title)
    return figure


def spill_heatmap(
    values: ArrayLike,
    *,
    edits: Sequence[str],
    features: Sequence[int],
    targets: Sequence[int],
    unit: str,
    title: str,
    note: str = "",
) -> go.Figure:
    """What each edit does to each feature; the feature that is meant is framed.

    Args:
        values: Shape (edit, feature).
        targets: Index of the column that each edit is meant to move.
    """
    shape = (len(edits), len(features))
    grid = array("values", values, shape, f"{shape[0]} edits x {shape[1]} features")
    texts = np.empty(shape, dtype=object)
    for i, edit in enumerate(edits):
        for j, feature in enumerate(features):
            meant = "<br>the feature that is meant" if targets[i] == j else ""
            change = measured(float(grid[i, j]), unit, quantity="change")
            texts[i, j] = f"{safe(edit)}<br>feature {feature}<br>{change}{meant}"
    figure = _grid(grid, texts, unit=f"change ({unit})")
    for i, j in enumerate(targets):
        _frame(figure, i, j, listed=i == 0)
    house(figure, title=title, note=note, height=max(320, 180 + 34 * shape[0]), left=190, right=112)
    _cells(figure, [broken(safe(e), 30) for e in edits], [str(f) for f in features], "", "feature")
    return figure


def _frame(figure: go.Figure, r: int, c: int, *, listed: bool) -> None:
    figure.add_scatter(
        x=[c - 0.5, c + 0.5, c + 0.5, c - 0.5, c - 0.5],
        y=[r - 0.5, r - 0.5, r + 0.5, r + 0.5, r - 0.5],
        mode="lines",
        line={"width": 2.2, "color": INK},
        cliponaxis=False,
        showlegend=listed,
        legendgroup="target",
        name="the feature that is meant",
    )


def _grid(grid: Array, texts: Any, *, unit: str) -> go.Figure:
    """A heatmap of signed cells with their numbers in them."""
    top, clipped = colour_range(grid)
    figure = go.Figure()
    figure.add_heatmap(
        z=holes(grid),
        zmin=-top,
        zmax=top,
        colorscale=DIVERGING,
        colorbar=colour_bar(unit, top, clipped),
        hovertext=texts,
        xgap=1,
        ygap=1,
        name="values",
    )
    cells = _written(grid, top)
    where = [cell for cell in cells if cells[cell]]
    dark = [abs(grid[cell]) > 0.66 * top for cell in where]
    figure.add_scatter(
        x=[c for _, c in where],
        y=[r for r, _ in where],
        mode="text",
        text=[cells[cell] for cell in where],
        textfont={"size": 11, "color": ["white" if d else INK for d in dark]},
        name="written values",
    )
    return figure


def _cells(figure: go.Figure, rows: list[str], columns: list[str], y: str, x: str) -> None:
    """Named rows from the top, named columns."""
    shape = len(rows), len(columns)
    figure.update_xaxes(
        title_text=x, tickvals=list(range(shape[1])), ticktext=columns, tickangle=0,
        range=[-0.5, shape[1] - 0.5], **CELLS,
    )  # fmt: skip
    figure.update_yaxes(
        title_text=y, tickvals=list(range(shape[0])), ticktext=rows,
        range=[shape[0] - 0.5, -0.5], **CELLS,
    )  # fmt: skip


def feature_card(
    *,
    title: str,
    note: str,
    texts: Sequence[tuple[Sequence[str], ArrayLike]],
    raised: Mapping[str, float],
    lowered: Mapping[str, float],
    multipliers: Iterable[SupportsFloat] = (),
    gain: Any = None,
    kl: Any = None,
    budget: float | None = None,
) -> go.Figure:
    """One feature: the texts that it reads, the tokens that it writes, and what adding it does.

    Args:
        texts: Pieces of each text and the activation at each; the first text on top.
        raised: Token -> logits by which its decoder row raises it, largest first.
        lowered: Token -> logits by which it lowers it, most first.
        multipliers: Strengths of the dose-response; none leaves it out.
        gain: (mean, low, high) over multipliers.
        kl: The same of the cost, or the mean alone.
    """
    strengths, order = ordered("multipliers", multipliers) if gain is not None else ([], None)
    lines = max(1, len(texts))
    top = 20 + 26 * lines
    below = 330
    figure = make_subplots(
        rows=3,
        cols=2,
        specs=[[{"colspan": 2}, None], [{"rowspan": 2}, {}], [None, {}]],
        row_heights=[top, below * 0.62, below * 0.38],
        column_widths=[0.44, 0.56],
        horizontal_spacing=0.13,
        vertical_spacing=42 / (top + below),
        subplot_titles=(
            "What it reads: texts with the largest activations",
            "What it writes, by the logit lens",
            "What adding it does" if order is not None else "",
            "",
        ),
    )
    heads: Any = figure["layout"]["annotations"]
    for head, left in zip(heads, (0.0, 0.0, 0.515), strict=False):
        head.update(x=left, xanchor="left", font={"size": 12, "color": QUIET})
    _texts(figure, texts)
    _tokens(figure, raised, lowered)
    if order is not None:
        x = np.asarray(strengths, dtype=float)
        where = [f"multiplier {number(m)}" for m in strengths]
        axes = f"{len(strengths)} multipliers"
        looks: dict[str, Any] = {"hover": where, "listed": False, "col": 2}
        response: Band = band("gain", gain, order, axes)
        line(figure, "gain", x, response, unit="nats", colour=PALETTE[0], row=2, **looks)
        costs: Band = band("kl", kl, order, axes)
        line(figure, "KL", x, costs, unit="nats per token", colour=PALETTE[1], row=3, **looks)
        if budget is not None:
            figure.add_scatter(
                x=span(x), y=[budget] * 2, mode="lines", row=3, col=2, name="budget",
                line={"color": INK, "width": 1.2, "dash": "dash"},
                hovertext=f"budget {number(budget)} nats per token",
            )  # fmt: skip
    house(figure, title=title, note=note, height=160 + top + below, left=92, right=30)
    margin: Any = figure["layout"]["margin"]
    margin.t += 20  # for the words over the panels
    most = max((sum(len(_seen(t)) + 1 for t in pieces) for pieces, _ in texts), default=1)
    figure.update_xaxes(visible=False, range=[-0.5, max(most, ROOM) + 8], row=1, col=1)
    figure.update_yaxes(visible=False, range=[lines - 0.4, -0.6], row=1, col=1)
    count = len(raised) + len(lowered)
    figure.update_yaxes(
        tickvals=list(range(count)), ticktext=[safe(_seen(t)) for t in (*raised, *lowered)],
        range=[count - 0.4, -0.6], showgrid=False, ticks="", showline=False,
        tickfont={"family": MONO, "size": 11}, row=2, col=1,
    )  # fmt: skip
    figure.update_xaxes(title_text="logit written", zeroline=True, nticks=5, row=2, col=1)
    if order is None:
        for row in (2, 3):
            figure.update_xaxes(visible=False, row=row, col=2)
            figure.update_yaxes(visible=False, row=row, col=2)
        return figure
    reach = span(np.asarray(strengths, dtype=float))
    figure.update_xaxes(range=reach, showticklabels=False, row=2, col=2)
    figure.update_xaxes(
        range=reach, title_text="multiplier (median residual norms)", row=3, col=2
    )  # fmt: skip
    figure.update_yaxes(title_text="gain (nats)", nticks=6, zeroline=True, row=2, col=2)
    figure.update_yaxes(title_text=broken("KL (nats per token)", 12), nticks=4, row=3, col=2)
    return figure


def _seen(token: str) -> str:
    return token.strip().replace("\n", "⏎").replace("\t", "⇥") or "∅"


def _texts(figure: go.Figure, texts: Sequence[tuple[Sequence[str], ArrayLike]]) -> None:
    """A line for each text, every token on the colour of its activation."""
    heats = [array("activations", v, (len(p),), f"{len(p)} tokens") for p, v in texts]
    top = max((float(np.nanmax(np.abs(heat))) for heat in heats), default=0.0) or 1.0
    for i, ((pieces, _), heat) in enumerate(zip(texts, heats, strict=True)):
        shown = [_seen(piece) for piece in pieces]
        starts = np.cumsum([0, *(len(text) + 1 for text in shown)])
        figure.add_bar(
            orientation="h",
            x=[len(text) + 0.9 for text in shown],
            base=starts[:-1].tolist(),
            y=[i] * len(shown),
            width=0.8,
            marker={
                "color": heat.tolist(), "colorscale": DIVERGING, "cmin": -top, "cmax": top,
                "line": {"width": 0},
            },
            text=[safe(text) for text in shown],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            constraintext="none",
            insidetextfont={
                "family": MONO, "size": 11,
                "color": ["white" if v > 0.66 * top else INK for v in heat.tolist()],
            },
            hovertext=[
                f"{safe(repr(piece))}<br>activation {number(float(v))}"
                for piece, v in zip(pieces, heat, strict=True)
            ],
            name=f"text {i + 1}",
            row=1, col=1,
        )  # fmt: skip
        figure.add_annotation(
            x=float(starts[-1]) + 0.6, y=i, text=number(float(np.nanmax(heat)), 3),
            showarrow=False, xanchor="left", font={"size": 11, "color": QUIET}, row=1, col=1,
        )  # fmt: skip
    figure.update_layout(barmode="overlay")


def _tokens(figure: go.Figure, raised: Mapping[str, float], lowered: Mapping[str, float]) -> None:
    values = [*raised.values(), *lowered.values()]
    figure.add_bar(
        orientation="h",
        x=values,
        y=list(range(len(values))),
        width=0.7,
        marker_color=[PALETTE[1] if v > 0 else PALETTE[0] for v in values],
        hovertext=[
            f"{safe(repr(token))}<br>{number(v)} logits"
            for token, v in zip((*raised, *lowered), values, strict=True)
        ],
        name="tokens written",
        row=2, col=1,
    )  # fmt: skip
