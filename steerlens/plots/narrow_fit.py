"""The look on little room of a figure that states none: fitted from the figure as it was drawn.

Panels that stand side by side are put below each other; long labels, titles and keys are broken;
numbers in cells are left out where they do not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

from steerlens.plots.look import WIDTH, legend_rows
from steerlens.plots.narrow import NARROW, make_narrow, stated_narrow, title_and_note
from steerlens.plots.rows import LETTER
from steerlens.plots.words import broken

LEFT = 60
"""The left margin of an axis of numbers with its title."""
LABEL, ACROSS = 14, 26
"""Letters of one line of a label beside a row, and of one that stands upright below a column."""
LOWEST, HIGHEST = 150, 300
"""Pixels of a panel that is put below others."""


@dataclass
class _Panel:
    """One pair of axes, where it was and what it becomes."""

    x: Any
    y: Any
    across: tuple[float, float]
    upwards: tuple[float, float]
    names: tuple[str, str]
    """Of the axes in the layout: "xaxis2", "yaxis2"."""
    heads: list[int] = field(default_factory=list)
    """Indices of the annotations that are its title."""


def fit_narrow(figure: go.Figure) -> None:
    """States how the figure looks on `NARROW` pixels, unless it states that already.

    A figure without the house's layout, or without axes that are seen, is left as it is.
    """
    wide: Any = figure["layout"]
    given: list[Any] = [wide.height, wide.margin.t]
    if stated_narrow(figure) is not None or None in given or not (panels := _panels(figure)):
        return
    if any(panel.x.visible is False for panel in panels):  # a text, set in lines
        return
    title, note = title_and_note(figure)
    changes: dict[str, Any] = {}
    left = _label_rows(panels, changes)
    right = _right(figure)
    room = NARROW - left - right
    below = [_label_columns(panel, room, changes) for panel in panels]
    tall = wide.height - wide.margin.t - wide.margin.b
    restyled: dict[int, dict[str, Any]] = {}
    beside = len({panel.across for panel in panels}) > 1
    if beside:
        panels, below = _in_reading_order(panels, below)
        tall = _stack(figure, panels, below, tall, changes, restyled)
    else:
        needed = [_rows_need(panel, changes) / _share(panel) for panel in panels]
        tall = max(tall, *needed)
    make_narrow(
        figure,
        title=title,
        note=note,
        left=left,
        above=max(
            0, round(wide.margin.t - 26 - 20 * _lines(wide, "<b>") - 18 * _lines(wide, "<span"))
        ),
        below=max(_extra_below(figure) if below[-1] is None else 0, below[-1] or 0)
        + 16 * changes.get(f"{panels[-1].names[0]}.title.text", "").count("<br>"),
        panel=tall,
        layout={**changes, "margin.r": right},
        hidden=["written values"] if _overfull(figure, room) else [],
        restyled=restyled,
    )


def _panels(figure: go.Figure) -> list[_Panel]:
    """The pairs of axes that have traces, with their titles."""
    layout: Any = figure["layout"]
    found: dict[tuple[str, str], _Panel] = {}
    for trace in _traces(figure):
        if "xaxis" not in trace or "yaxis" not in trace:
            return []  # a table or a pie has no axes
        ids = (trace["xaxis"] or "x", trace["yaxis"] or "y")
        names = tuple(f"{name[0]}axis{name[1:]}" for name in ids)
        x, y = (layout[name] for name in names)
        found.setdefault(
            (names[0], names[1]),
            _Panel(x, y, x.domain or (0.0, 1.0), y.domain or (0.0, 1.0), (names[0], names[1])),
        )
    panels = list(found.values())
    for i, note in enumerate(layout.annotations):
        if note.xref == note.yref == "paper":
            for panel in panels:
                over = panel.across[0] <= note.x <= panel.across[1]
                if over and abs(note.y - panel.upwards[1]) < 1e-6:
                    panel.heads.append(i)
                    break
    return panels


def _label_rows(panels: Sequence[_Panel], changes: dict[str, Any]) -> int:
    """Breaks the labels of vertical axes; the left margin that all of them need."""
    left = 0
    for panel in panels:
        texts = [str(text).replace("<br>", " ") for text in panel.y.ticktext or ()]
        if max(map(len, texts), default=0) <= 5:
            left = max(left, LEFT)
            continue
        short = [broken(text, LABEL) for text in texts]
        changes[f"{panel.names[1]}.ticktext"] = short
        longest = max(len(line) for text in short for line in text.split("<br>"))
        left = max(left, 14 + round(LETTER * longest) + (18 if panel.y.title.text else 0))
    return left


def _label_columns(panel: _Panel, room: float, changes: dict[str, Any]) -> int | None:
    """Breaks the title of a horizontal axis, and breaks, turns or thins out its labels.

    Returns:
        Pixels that the labels take below one line; None where the axis has no labels of its own.
    """
    name = panel.names[0]
    if panel.x.title.text:
        whole = panel.x.title.text.replace("<br>", " ")
        changes[f"{name}.title.text"] = broken(whole, max(16, round(room / 6.8)))
    texts = [str(text).replace("<br>", " ") for text in panel.x.ticktext or ()]
    longest = max(map(len, texts), default=0)
    if not longest:
        return None
    if longest <= 5:  # numbers: every second, if they would touch
        step = -(-round(len(texts) * (LETTER * longest + 5)) // max(1, round(room)))
        changes[f"{name}.tickvals"] = list(panel.x.tickvals)[::step]
        changes[f"{name}.ticktext"] = texts[::step]
        return 0
    letters = int(room / len(texts) / LETTER)
    short = [broken(text, letters if letters > 5 else ACROSS) for text in texts]
    changes[f"{name}.ticktext"] = short
    changes[f"{name}.tickangle"] = 0 if letters > 5 else -90
    if letters > 5:
        return 15 * max(text.count("<br>") for text in short)
    return round(LETTER * max(len(line) for text in short for line in text.split("<br>"))) - 14


def _right(figure: go.Figure) -> int:
    """The right margin: what colour bars and words beside the panels need."""
    layout: Any = figure["layout"]
    bars = [layout.coloraxis.colorbar] if layout.coloraxis.colorscale else []
    bars += [bar for trace in _traces(figure) if (bar := _bar(trace)) is not None]
    need = 10
    for bar in bars:
        ticks = max((len(str(text)) for text in bar.ticktext or ()), default=4)
        words = max(len(line) for line in (bar.title.text or "").split("<br>"))
        need = max(need, 34 + 6 * ticks, 14 + round(6.4 * words))
    beside = [n for n in layout.annotations if n.xref == "paper" and n.x == 1 and n.xshift]
    return max(need, layout.margin.r if beside else 0)


def _bar(trace: Any) -> Any:
    """The colour bar of a trace, or of its markers; None where it has none."""
    holder = trace if trace.type == "heatmap" else getattr(trace, "marker", None)
    if holder is None or "colorbar" not in holder or holder.coloraxis:
        return None
    shown = holder.showscale is not False and (holder is trace or holder.colorbar.thickness)
    return holder.colorbar if shown else None


def _overfull(figure: go.Figure, room: float) -> bool:
    """Whether the numbers that are written into cells need more than there is."""
    for trace in _traces(figure):
        if trace.name == "written values":
            longest = max(map(len, trace["text"]), default=0)
            if len(set(trace["x"])) * (5.6 * longest + 3) > room:
                return True
    return False


def _rows_need(panel: _Panel, changes: dict[str, Any]) -> float:
    """The height that the labels beside a panel need."""
    texts = changes.get(f"{panel.names[1]}.ticktext", [])
    return len(texts) * (8 + 15 * max((text.count("<br>") + 1 for text in texts), default=0))


def _share(panel: _Panel) -> float:
    return panel.upwards[1] - panel.upwards[0]


def _in_reading_order(
    panels: list[_Panel], below: list[int | None]
) -> tuple[list[_Panel], list[int | None]]:
    """Row by row; column by column where a panel is as high as several."""
    highest = max(map(_share, panels))
    columns = any(_share(panel) < 0.8 * highest for panel in panels)

    def place(k: int) -> tuple[float, float]:
        down, across = -panels[k].upwards[1], panels[k].across[0]
        return (across, down) if columns else (down, across)

    order = sorted(range(len(panels)), key=place)
    return [panels[k] for k in order], [below[k] for k in order]


def _stack(
    figure: go.Figure,
    panels: Sequence[_Panel],
    below: Sequence[int | None],
    tall: float,
    changes: dict[str, Any],
    restyled: dict[int, dict[str, Any]],
) -> float:
    """Puts panels below each other, with what belongs to each; the height of them all."""
    layout: Any = figure["layout"]
    heights, gaps = [], []
    for k, panel in enumerate(panels):
        x, y = panel.names
        own = min(max(tall * _share(panel), LOWEST), HIGHEST)
        heights.append(max(own, _rows_need(panel, changes)))
        after = panels[k + 1] if k + 1 < len(panels) else None
        shared = panel.x.showticklabels is False and after and after.across == panel.across
        if not shared:
            changes[f"{x}.showticklabels"] = True
            lowest = min((p for p in panels if p.across == panel.across), key=lambda p: p.upwards)
            if not panel.x.title.text and lowest.x.title.text:
                changes[f"{x}.title.text"] = changes[f"{lowest.names[0]}.title.text"]
        first = min((p for p in panels if p.upwards == panel.upwards), key=lambda p: p.across)
        if not panel.y.title.text and first.y.title.text:
            changes[f"{y}.title.text"] = first.y.title.text
        changes[f"{y}.showticklabels"] = True
        title = changes.get(f"{x}.title.text", "")
        gap = 12 if shared else 26 + (below[k] or 0) + (20 + 16 * title.count("<br>")) * bool(title)
        heads = [layout.annotations[i].text.count("<br>") + 1 for i in after.heads] if after else []
        gaps.append(gap + 8 + 16 * max(heads, default=0) if after else 0)
    whole = sum(heights) + sum(gaps)
    top = whole
    for panel, height, gap in zip(panels, heights, gaps, strict=True):
        low, high = max(0.0, (top - height) / whole), top / whole
        changes[f"{panel.names[0]}.domain"] = [0.0, 1.0]
        changes[f"{panel.names[1]}.domain"] = [low, high]
        for i in panel.heads:
            changes |= {f"annotations[{i}].x": 0.5, f"annotations[{i}].y": high}
        _place_bars(figure, panel, (low, high), restyled)
        top -= height + gap
    return whole


def _place_bars(
    figure: go.Figure,
    panel: _Panel,
    domain: tuple[float, float],
    restyled: dict[int, dict[str, Any]],
) -> None:
    """Puts the colour bars of a panel beside it; one that is for several, beside the first."""
    for i, trace in enumerate(_traces(figure)):
        names = tuple(
            f"{trace[k][0]}axis{trace[k][1:]}" if trace[k] else k for k in ("xaxis", "yaxis")
        )
        if names != panel.names:
            continue
        if _bar(trace) is None:
            continue
        if trace.type == "heatmap":
            low, high = domain
            restyled[i] = {
                "colorbar.x": 1.0, "colorbar.y": (low + high) / 2, "colorbar.len": high - low,
            }  # fmt: skip
        else:
            restyled[i] = {
                "marker.colorbar.lenmode": "pixels", "marker.colorbar.len": 200,
                "marker.colorbar.y": domain[1], "marker.colorbar.yanchor": "top",
            }  # fmt: skip


def _extra_below(figure: go.Figure) -> int:
    """Pixels below the panel beside the title of its axis and the legend, as it was drawn."""
    layout: Any = figure["layout"]
    keys = [trace.name for trace in _traces(figure) if trace.showlegend]
    rows = legend_rows(keys, WIDTH - layout.margin.l - layout.margin.r)
    return max(0, round(layout.margin.b - 52 - (8 + 20 * rows if rows else 0)))


def _traces(figure: go.Figure) -> list[Any]:
    return list(figure.data)


def _lines(layout: Any, tag: str) -> int:
    return (layout.title.text or "").count(tag)
