"""How a figure looks where there is little room: on a phone, and in one column of a paper.

The figure itself is drawn for 700 pixels. What changes on less is written into its layout as
`meta["narrow"]`: the report page applies it on a small screen, and `paper` in one column. A figure
that states nothing is fitted (`narrow_fit`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from steerlens.plots.look import QUIET, legend_rows
from steerlens.plots.words import broken

NARROW = 322
"""Pixels of a figure on a phone, and in one column (85 mm)."""
LONGEST_KEY = 38
"""Letters of one line of the legend there."""


def make_narrow(
    figure: go.Figure,
    *,
    title: str,
    note: str = "",
    left: int = 44,
    above: int = 0,
    below: int = 0,
    panel: float | None = None,
    layout: Mapping[str, Any] | None = None,
    hidden: Sequence[str] = (),
    restyled: Mapping[int, Mapping[str, Any]] | None = None,
) -> None:
    """States how the figure changes on `NARROW` pixels. It must come last.

    Args:
        left: The left margin there.
        above: Pixels between the title and the panel, e.g. for a colour bar.
        below: Pixels between the panel and the title of its axis, e.g. for long labels.
        panel: The height of all panels there; by default what it is.
        layout: Further changes of the layout, e.g. ``{"xaxis.domain": [0, 1]}``.
        hidden: Names of traces that are left out.
        restyled: Changes of traces by their index, e.g. ``{0: {"colorbar.len": 1}}``.
    """
    traces: list[Any] = list(figure.data)
    changes = {i: dict(change) for i, change in (restyled or {}).items()}
    away = [i for i, trace in enumerate(traces) if trace.name in hidden]
    keys = {i: broken(t.name, LONGEST_KEY) for i, t in enumerate(traces) if t.showlegend}
    keys = {i: name for i, name in keys.items() if i not in away}
    for i, name in keys.items():
        if "<br>" in name:
            changes.setdefault(i, {})["name"] = name
    lines = [line for name in keys.values() for line in name.split("<br>")]
    rows = len(lines) if len(lines) > len(keys) else legend_rows(lines, NARROW - 20)
    titles = broken(title, 38).split("<br>")
    notes = broken(note, 54).split("<br>") if note else []
    texts = [f"<b>{line}</b>" for line in titles]
    texts += [f"<span style='font-size:11px;color:{QUIET}'>{line}</span>" for line in notes]
    wide: Any = figure["layout"]
    top = 24 + 17 * len(titles) + 15 * len(notes) + above
    bottom = 50 + below + (8 + 20 * rows if rows else 0)
    height = wide.height - wide.margin.t - wide.margin.b if panel is None else panel
    stated = {
        "title.text": "<br>".join(texts),
        "title.font.size": 13,
        "title.pad.l": 8,
        "margin.l": left,
        "margin.r": 10,
        "margin.t": top,
        "margin.b": bottom,
        "height": round(height) + top + bottom,
        "legend.y": round(5 / (height + top + bottom), 4),
        **(layout or {}),
    }
    wide.meta = {
        "narrow": {
            "layout": stated,
            "hidden": away,
            "traces": [[i, change] for i, change in changes.items() if change],
            "titled": top - above,
        }
    }


def stated_narrow(figure: go.Figure) -> dict[str, Any] | None:
    """What `make_narrow` has stated; None where it was not called."""
    layout: Any = figure["layout"]
    return (layout.meta or {}).get("narrow")


def title_and_note(figure: go.Figure) -> tuple[str, str]:
    """The title of a figure and the lines below it, each as one text."""
    layout: Any = figure["layout"]
    text = layout.title.text or ""
    title, note = (re.findall(f"<{tag}[^>]*>(.*?)</{tag}>", text) for tag in ("b", "span"))
    return " ".join(title), " ".join(note)
