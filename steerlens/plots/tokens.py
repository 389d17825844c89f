"""A text with a value at each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.colors import sample_colorscale

from steerlens.plots.arrays import array
from steerlens.plots.look import DIVERGING, INK, MISSING, MONO, colour_bar, colour_range, house
from steerlens.plots.marks import key
from steerlens.plots.narrow import make_narrow
from steerlens.plots.words import measured, number, safe

LINE, NARROW_LINE = 66, 34
"""Characters of a line, and of one on a phone or in one column."""
PITCH, FEWEST = 30, 3
"""Pixels of a line, and the lines that there is room for at least."""
LYING = {
    "marker.colorbar.orientation": "h",
    "marker.colorbar.x": 0.5,
    "marker.colorbar.xanchor": "center",
    "marker.colorbar.y": 1,
    "marker.colorbar.yanchor": "bottom",
    "marker.colorbar.len": 0.9,
    "marker.colorbar.title.text": "",
}
"""The colour bar above the text, where there is no room beside it."""


def token_colours(values: ArrayLike) -> list[tuple[str, str]]:
    """The paper and the ink of each token of a text, for HTML; grey where there is no value.

    Args:
        values: Shape (token,), signed; NaN for a token that is not coloured.
    """
    heat = array("values", values, (None,), "tokens")
    top, _ = colour_range(heat)
    places = np.clip(np.nan_to_num(heat / top), -1, 1) / 2 + 0.5
    papers = map(str, sample_colorscale(DIVERGING, places.tolist()))
    return [
        (MISSING, INK) if np.isnan(value) else (paper, "white" if abs(value) > 0.66 * top else INK)
        for value, paper in zip(heat, papers, strict=True)
    ]


def token_heat(
    tokens: Sequence[str],
    values: ArrayLike,
    *,
    title: str,
    unit: str,
    missing: str = "not measured",
) -> go.Figure:
    """A text, token by token, each on the colour of its value; long texts run over lines, which are
    shorter on a phone and in one column of a paper.

    Spaces are drawn as "·" and line ends as "⏎", so that every token can be seen.

    Args:
        tokens: The pieces of the text, in order.
        values: Shape (token,), signed; NaN is drawn grey.
        missing: What the legend calls these tokens; "values" is the name of the others.

    Raises:
        ValueError: If there are no tokens, or the counts differ.
    """
    if not tokens:
        raise ValueError("tokens is empty, so there is nothing to draw. Pass at least one token.")
    heat = array("values", values, (len(tokens),), f"{len(tokens)} tokens")
    top, clipped = colour_range(heat)
    shown = [visible(token) for token in tokens]
    starts, lines, across = _wrapped(shown, LINE)
    short_starts, short_lines, short_across = _wrapped(shown, NARROW_LINE)
    restyled: dict[int, dict[str, Any]] = {}
    scale = {"colorscale": DIVERGING, "cmin": -top, "cmax": top}
    figure = go.Figure()
    for name, chosen in (("values", ~np.isnan(heat)), (missing, np.isnan(heat))):
        index: list[int] = np.flatnonzero(chosen).tolist()
        if not index:
            continue
        marker: dict[str, Any] = {"color": MISSING, "line": {"width": 0.5, "color": "#cfcfcf"}}
        if name == "values":
            bar = colour_bar(unit, top, clipped)
            marker |= {"color": heat[index].tolist(), "colorbar": bar, **scale}
        restyled[len(restyled)] = {  # bars are the first traces
            "base": [short_starts[i] for i in index],
            "y": [short_lines[i] for i in index],
            **(LYING if name == "values" else {}),
        }
        figure.add_bar(
            orientation="h",
            x=[len(shown[i]) + 0.9 for i in index],
            base=[starts[i] for i in index],
            y=[lines[i] for i in index],
            width=0.78,
            marker=marker,
            text=[safe(shown[i]) for i in index],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            constraintext="none",
            insidetextfont={"family": MONO, "size": 12},
            hovertext=[
                f"token {i}: {safe(repr(tokens[i]))}<br>"
                + (measured(float(heat[i]), unit) if name == "values" else missing)
                for i in index
            ],
            name=safe(name),
        )
        if name == missing:
            key(figure, name, symbol="square", size=11, color=MISSING)
    count, short_count = max(lines[-1] + 1, FEWEST), max(short_lines[-1] + 1, FEWEST - 1)
    house(figure, title=title, height=150 + PITCH * count, left=14, right=112)
    figure.update_layout(barmode="overlay")
    # A text of one or two lines keeps the height of its boxes instead of filling the panel.
    figure.update_xaxes(visible=False, range=across)
    figure.update_yaxes(visible=False, range=[count - 0.5, -0.5])
    make_narrow(
        figure,
        title=title,
        note=f"Colours: {unit}{f', clipped at ±{number(top, 3)}' if clipped else ''}",
        left=10,
        above=50,
        panel=44 + PITCH * short_count,
        layout={"xaxis.range": short_across, "yaxis.range": [short_count - 0.5, -0.5]},
        restyled=restyled,
    )
    return figure


def _wrapped(shown: Sequence[str], most: int) -> tuple[list[int], list[int], list[float]]:
    """Where each token starts and in which line, of so many characters, and the range of them all."""
    starts, lines, at, line = [], [], 0, 0
    for text in shown:
        if at and at + len(text) + 1 > most:
            at, line = 0, line + 1
        starts.append(at)
        lines.append(line)
        at += len(text) + 1
    return starts, lines, [-0.3, most + 1 if line else max(at + 1, min(30, most + 1))]


def visible(token: str) -> str:
    """A token with its blanks drawn, so that it can be seen.

    >>> visible(" the"), visible("\\n")
    ('·the', '⏎')
    """
    return token.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥") or "∅"
