"""One feature of an SAE in one figure: what it reads, what it writes and what adding it does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsFloat

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from steerlens.plots.arrays import Band, array, band, ordered
from steerlens.plots.look import (
    DIVERGING,
    INK,
    MONO,
    PALETTE,
    QUIET,
    house,
    span,
)
from steerlens.plots.marks import line
from steerlens.plots.words import broken, number, safe

ROOM = 78
"""Characters of a line of text on a card."""


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
