"""How what steering leaves in a text fades, by tokens since it was switched off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from steerlens.plots.arrays import array, bands
from steerlens.plots.look import INK, house
from steerlens.plots.marks import line
from steerlens.plots.narrow import make_narrow
from steerlens.plots.way_figures import way_looks
from steerlens.plots.words import broken, number, safe

LEAST = 1e-4
"""Nats at which the axis ends below, where curves go further down."""


def fading_curves(panels: Mapping[str, Mapping[str, Any]], *, title: str) -> go.Figure:
    """A panel of curves over tokens for each state of the cache, on one logarithmic axis.

    Args:
        panels: Name of the panel -> way -> (mean, low, high) in nats, each of shape (token,).

    Raises:
        ValueError: If there is no panel or no way, or panels have other ways or tokens.

    >>> curve = ([1.0, 0.1], [0.5, 0.05], [1.5, 0.15])
    >>> len(fading_curves({"kept": {"a": curve}, "recomputed": {"a": curve}}, title="").data)
    2
    """
    if not panels or not all(panels.values()):
        raise ValueError("panels is empty, so there is nothing to draw. Pass at least one way.")
    first = next(iter(panels.values()))
    tokens = np.asarray(next(iter(first.values()))[0]).shape[0]
    x = np.arange(1, tokens + 1, dtype=float)
    figure = make_subplots(
        rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=0.09,
        subplot_titles=[broken(safe(name), 44) for name in panels],
    )  # fmt: skip
    looks, ends, cut = way_looks(first), [], False
    for row, (panel, series) in enumerate(panels.items(), start=1):
        if list(series) != list(first):
            raise ValueError(f"panels[{panel!r}] has other ways. Give each panel the same ones.")
        drawn = bands(f"panels[{panel!r}]", series, np.arange(tokens), f"{tokens} tokens")
        for name, whole in drawn.items():
            array(name, whole.mean, (tokens,), "tokens")
            cut = cut or bool((whole.mean < LEAST).any())
            seen = np.where(whole.mean >= LEAST, whole.mean, np.nan)
            ends += seen[~np.isnan(seen)].tolist()
            bare = type(whole)(seen, *(np.full_like(seen, np.nan),) * 2)
            line(
                figure, name, x, bare, hover=[""] * tokens, unit="nats", listed=row == 1,
                row=row, col=1, **looks[name],
            )  # fmt: skip
            trace: Any = figure.data[-1]
            trace.hovertext = [
                f"{safe(name)}<br>{i + 1} tokens since the switch-off<br>{whole.text(i, 'nats', 'KL')}"
                for i in range(tokens)
            ]
    note = "95% intervals on hover"
    if cut:
        note += f"; what is below {number(LEAST)} nats is not drawn"
    house(figure, title=title, note=note, height=130 + 205 * len(panels) + 9 * len(first), left=76)
    low, high = (min(ends), max(ends)) if ends else (LEAST, 1.0)
    figure.update_yaxes(
        type="log", range=[np.log10(low) - 0.1, np.log10(high) + 0.1], dtick=1, tickformat="~g",
        title_text="KL (nats)",
    )  # fmt: skip
    figure.update_xaxes(range=[0.5, tokens + 0.5])
    figure.update_xaxes(title_text="tokens read since the switch-off", row=len(panels), col=1)
    layout: Any = figure["layout"]
    layout.margin.t += 22
    for heading in layout.annotations:
        heading.font = {"size": 13, "color": INK}
    make_narrow(
        figure, title=title, note=note, left=58, above=22,
        layout={f"annotations[{k}].font.size": 11 for k in range(len(panels))},
    )  # fmt: skip
    return figure
