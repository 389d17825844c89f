"""Several quantities over the tokens of long texts, in panels above each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from steerlens.plots.arrays import Band, bands
from steerlens.plots.look import INK, QUIET, house
from steerlens.plots.marks import line
from steerlens.plots.narrow import make_narrow
from steerlens.plots.way_figures import way_looks
from steerlens.plots.words import broken, safe

Panels = Mapping[str, Mapping[str, Any]]


def long_texts(
    panels: Panels,
    steps: Panels,
    *,
    tokens: Sequence[int],
    title: str,
    switched: int | None = None,
) -> go.Figure:
    """Panels over tokens: lines of means, and below them steps of shares that are left.

    Args:
        panels: Name of the panel -> series -> (mean, low, high), each of shape (window,). NaN is not
            drawn.
        steps: The same for shares from 0 to 1 that only fall, drawn as steps from 1 on.
        tokens: The token that each window ends with.
        switched: A token that is marked in all panels: where steering is switched off.

    Raises:
        ValueError: If there is no panel or no series, or a shape does not fit.

    >>> curve = ([0.5, 0.25], [0.0, 0.0], [1.0, 0.5])
    >>> figure = long_texts({"share": {"a": curve}}, {"left": {"a": curve}}, tokens=[8, 16], title="")
    >>> list(figure.data[1].x), list(figure.data[1].y)
    ([0.0, 8.0, 16.0], [1.0, 0.5, 0.25])
    """
    every = {**panels, **steps}
    if not every or not all(every.values()):
        raise ValueError("panels is empty, so there is nothing to draw. Pass at least one series.")
    if len(every) < len(panels) + len(steps):
        raise ValueError("A panel and steps have the same name. Give each a name of its own.")
    ends = np.asarray(list(tokens), dtype=float)
    width = float(ends[0]) if len(ends) == 1 else float(ends[-1] - ends[-2])
    names = list(dict.fromkeys(name for series in every.values() for name in series))
    looks, listed = way_looks(names), set()
    figure = make_subplots(
        rows=len(every), cols=1, shared_xaxes=True, vertical_spacing=0.26 / len(every),
        subplot_titles=[broken(safe(name), 60) for name in every],
    )  # fmt: skip
    for row, (panel, series) in enumerate(every.items(), start=1):
        falling = panel in steps
        order, axes = np.arange(len(ends)), f"{len(ends)} windows"
        for name, whole in bands(panel, series, order, axes).items():
            x = ends - width / 2
            if falling:
                x, whole = np.concatenate([[0.0], ends]), _from_one(whole)
            bare = Band(whole.mean, *(np.full_like(whole.mean, np.nan),) * 2)
            line(
                figure, name, x, bare, hover=[""] * len(x), unit="", listed=name not in listed,
                row=row, col=1, **looks[name],
            )  # fmt: skip
            listed.add(name)
            trace: Any = figure.data[-1]
            where = (
                [f"after {t:.0f} tokens" for t in x]
                if falling
                else [f"tokens {t - width + 1:.0f}–{t:.0f}" for t in ends]
            )
            trace.hovertext = [
                f"{safe(name)}<br>{place}<br>{whole.text(i, '')}".rstrip()
                for i, place in enumerate(where)
            ]
            trace.marker.size = 4
            if falling:
                trace.line.shape = "hv"
        if not falling:
            figure.add_hline(y=0, line={"color": QUIET, "width": 1}, row=row, col=1)  # pyright: ignore[reportArgumentType]
        if falling:
            figure.update_yaxes(range=[-0.04, 1.06], row=row, col=1)
    if switched is not None:
        figure.add_vline(  # pyright: ignore[reportArgumentType]
            x=switched,
            line={"color": QUIET, "width": 1, "dash": "dot"},
            row="all",
            col=1,  # pyright: ignore[reportArgumentType]
        )
    note = "95% intervals on hover"
    if switched is not None:
        note += f"; dotted: steering is switched off after {switched} tokens"
    height = 120 + 190 * len(every) + 12 * len(names)
    house(figure, title=title, note=note, height=height, left=60)
    figure.update_xaxes(range=[0, float(ends[-1]) * 1.01])
    figure.update_xaxes(title_text="tokens written", row=len(every), col=1)
    figure.update_yaxes(nticks=5)
    layout: Any = figure["layout"]
    layout.margin.t += 24
    headings = [one for one in layout.annotations if one.text]
    for heading in headings:
        heading.font = {"size": 13, "color": INK}
    narrow = {
        f"annotations[{k}].text": broken(one.text.replace("<br>", " "), 44)
        for k, one in enumerate(headings)
    }
    sizes = {f"annotations[{k}].font.size": 11 for k in range(len(headings))}
    make_narrow(
        figure, title=title, note=note, left=46, above=26, layout={**narrow, **sizes},
        panel=170 * len(every),
    )  # fmt: skip
    return figure


def _from_one(whole: Band) -> Band:
    """The curve with its start: all are left before the first window."""
    return Band(*(np.concatenate([[1.0], part]) for part in whole))
