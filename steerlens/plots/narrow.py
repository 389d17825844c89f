"""How a figure looks where there is little room: on a phone, and in one column of a paper.

The figure itself is drawn for 700 pixels. What changes on less is written into its layout as
`meta["narrow"]`: the report page applies it on a small screen, and `paper` in one column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from steerlens.plots.look import QUIET, legend_rows
from steerlens.plots.words import broken

NARROW = 322
"""Pixels of a figure on a phone, and in one column (85 mm)."""


def make_narrow(
    figure: go.Figure,
    *,
    title: str,
    note: str = "",
    left: int = 44,
    above: int = 0,
    below: int = 0,
    layout: Mapping[str, Any] | None = None,
    hidden: Sequence[str] = (),
    restyled: Mapping[str, Any] | None = None,
) -> None:
    """States how the figure changes on `NARROW` pixels. It must come last.

    Args:
        left: The left margin there.
        above: Pixels between the title and the panel, e.g. for a colour bar.
        below: Pixels between the panel and the title of its axis, e.g. for long labels.
        layout: Further changes of the layout, e.g. ``{"xaxis.domain": [0, 1]}``.
        hidden: Names of traces that are left out.
        restyled: Changes of the first trace, e.g. ``{"colorbar.len": 1}``.
    """
    traces: list[Any] = list(figure.data)
    away = [i for i, trace in enumerate(traces) if trace.name in hidden]
    names = [t.name for i, t in enumerate(traces) if t.showlegend and i not in away]
    rows = legend_rows(names, NARROW - 20)
    titles = broken(title, 38).split("<br>")
    notes = broken(note, 54).split("<br>") if note else []
    lines = [f"<b>{line}</b>" for line in titles]
    lines += [f"<span style='font-size:11px;color:{QUIET}'>{line}</span>" for line in notes]
    wide: Any = figure["layout"]
    top = 24 + 17 * len(titles) + 15 * len(notes) + above
    bottom = 50 + below + (8 + 20 * rows if rows else 0)
    panel = wide.height - wide.margin.t - wide.margin.b
    stated = {
        "title.text": "<br>".join(lines),
        "title.font.size": 13,
        "title.pad.l": 8,
        "margin.l": left,
        "margin.r": 10,
        "margin.t": top,
        "margin.b": bottom,
        "height": panel + top + bottom,
        **(layout or {}),
    }
    wide.meta = {
        "narrow": {
            "layout": stated,
            "hidden": away,
            "first": dict(restyled or {}),
            "titled": top - above,
        }
    }
