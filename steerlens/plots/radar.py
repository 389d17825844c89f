"""Ways by several criteria at once: a spoke for each, on a stated scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from steerlens.plots.arrays import Array, band
from steerlens.plots.look import INK, MISSING, PALETTE, QUIET, RULE, house
from steerlens.plots.narrow import make_narrow
from steerlens.plots.rows import read_rows
from steerlens.plots.words import broken, number, safe

ACROSS = 3
"""Small circles side by side."""
LARGE, SMALL, HEAD = 330, 128, 40
"""Pixels of the large circle with its names, of each small one, and of the name above it."""
FEWEST_SPOKES = 3


class Spoke(NamedTuple):
    """What one spoke shows of every way."""

    value: Any
    """Value, low and high, each of shape (way,); NaN where not measured."""
    unit: str
    log: bool
    better: str
    """"more" or "less"."""
    words: tuple[str, str]
    """The ends of the scale as they are written: the centre, and the rim."""
    ends: tuple[float, float]
    """The same as numbers."""


def spoke_scale(values: Iterable[float], *, log: bool, better: str) -> tuple[float, float]:
    """Centre and rim of a spoke that holds some values: 0 and the largest, the better end outside.

    A logarithmic scale, and one that goes below 0, ends at the values themselves.

    >>> spoke_scale([2.0, 0.5], log=False, better="more")
    (0.0, 2.0)
    >>> spoke_scale([2.0, 0.5], log=False, better="less")
    (2.0, 0.0)
    >>> spoke_scale([128.0, 0.0, 8192.0], log=True, better="less")
    (8192.0, 128.0)
    """
    finite = [x for x in values if math.isfinite(x) and (x > 0 or not log)]
    if not finite:
        return 0.0, 0.0
    low, high = min(finite), max(finite)
    if not log:
        low, high = min(low, 0.0), max(high, 0.0)
    return (low, high) if better == "more" else (high, low)


def criteria_radar(
    spokes: Mapping[str, Spoke], *, rows: Iterable[str], title: str, note: str = ""
) -> go.Figure:
    """A circle for each way: how far out it is on each spoke, on the scale of the large circle.

    No area is filled, since it would depend on the order of the spokes. A spoke that was not measured
    of a way is a gap in its line and a dash at the rim. 0 on a logarithmic scale is at the rim where
    less is better, and at the centre otherwise.

    Args:
        spokes: Name -> what it shows, for at least three.
        rows: The name of each way; the first is the large circle, and stands behind all others.

    Raises:
        ValueError: If there are fewer than three spokes, or one has a scale without extent.
    """
    if len(spokes) < FEWEST_SPOKES:
        raise ValueError(
            f"There are {len(spokes)} spokes, and a circle needs at least {FEWEST_SPOKES}. Use "
            "criteria_dots."
        )
    names = read_rows(rows).names
    order = np.arange(len(names))
    places = [_place(name, spoke, order) for name, spoke in spokes.items()]
    angles = [(90 - 360 * k / len(spokes)) % 360 for k in range(len(spokes))]  # clockwise
    lines = math.ceil((len(names) - 1) / ACROSS)
    top = LARGE + (SMALL + HEAD) * lines
    figure = go.Figure()
    layout: dict[str, Any] = {}
    headings = []
    for i, way in enumerate(names):
        large = i == 0
        subplot = "polar" if large else f"polar{i + 1}"
        if not large:
            _draw(figure, subplot, angles, [p[0][0] for p in places], names[0], behind=True)
        hover = [text[i] for _, text in places]
        at = [p[0][i] for p in places]
        _draw(figure, subplot, angles, at, way, hover=hover)
        layout[subplot], heading = _circle(i, lines, top, angles, spokes if large else None)
        headings.append(heading | {"text": f"<b>{broken(safe(way), 20 if large else 15)}</b>"})
    lead = "Further out is better. Behind the others in grey: the first. A dash: not measured."
    whole = f"{lead} {note}".strip()
    house(figure, title=title, note=whole, height=top + 90, left=14, right=14)
    figure.update_layout(annotations=headings, **layout)
    drawn: Any = figure["layout"]
    drawn.margin.b = 16
    drawn.height = top + drawn.margin.t + drawn.margin.b
    make_narrow(
        figure, title=title, note=whole, left=6,
        layout={"margin.b": 12, "polar.angularaxis.ticktext": _labels(spokes, 10, " →<br>")},
    )  # fmt: skip
    return figure


def _place(name: str, spoke: Spoke, order: Any) -> tuple[Array, list[str]]:
    """Where every way is on a spoke, from 0 to 1, and what it came to in words."""
    centre, rim = spoke.ends
    if centre == rim:
        raise ValueError(
            f"The scale of {name!r} goes from {number(centre)} to {number(rim)}, so nothing can be "
            "told apart on it. Leave it out."
        )
    seen = band(f"spokes[{name!r}]", spoke.value, order, f"{len(order)} ways")
    values = np.asarray(seen.mean, dtype=float)
    if spoke.log:
        ends = np.log10([centre, rim])
        with np.errstate(divide="ignore"):
            where = (np.log10(values) - ends[0]) / (ends[1] - ends[0])
    else:
        where = (values - centre) / (rim - centre)
    where = np.clip(where, 0.0, 1.0)  # 0 has no logarithm; NaN stays
    texts = [f"{safe(name)}<br>{seen.text(i, spoke.unit)}" for i in range(len(order))]
    return where, texts


def _draw(
    figure: go.Figure,
    subplot: str,
    angles: list[float],
    at: list[float],
    name: str,
    *,
    hover: list[str] | None = None,
    behind: bool = False,
) -> None:
    """One way's line, closed where its first spoke is there, and dashes for the spokes that are not."""
    closed = [None if math.isnan(r) else r for r in [*at, at[0]]]
    turn = [*angles, angles[0]]
    figure.add_scatterpolar(
        r=closed,
        theta=turn,
        mode="lines" if behind else "lines+markers",
        line={"color": MISSING if behind else PALETTE[0], "width": 1.5 if behind else 2},
        marker={"size": 5},
        connectgaps=False,
        hovertext=None if hover is None else [f"{safe(name)}<br>{t}" for t in [*hover, hover[0]]],
        name=f"{name}, behind" if behind else name,
        subplot=subplot,
    )
    if behind:
        return
    gone = [angle for angle, r in zip(angles, at, strict=True) if math.isnan(r)]
    if gone:
        figure.add_scatterpolar(
            r=[0.9] * len(gone), theta=gone, mode="text", text=["–"] * len(gone),
            textfont={"size": 13, "color": QUIET}, name=f"{name}, not measured", subplot=subplot,
        )  # fmt: skip


def _labels(spokes: Mapping[str, Spoke], letters: int, first: str = " → ") -> list[str]:
    """What stands at the spokes of the large circle: number, name in short lines, ends of the scale.

    Args:
        first: What stands between the ends of the uppermost one, which has others on both sides.
    """
    return [
        f"{k}  {broken(safe(name), letters)}<br><span style='color:{QUIET}'>"
        f"{spoke.words[0]}{first if k == 1 else ' → '}{spoke.words[1]}</span>"
        for k, (name, spoke) in enumerate(spokes.items(), start=1)
    ]


def _circle(
    i: int, lines: int, top: int, angles: list[float], spokes: Mapping[str, Spoke] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The axes of the i-th circle, and where its name stands."""
    if spokes is not None:
        high, low, left, right = 1 - HEAD / top, 1 - (LARGE - 62) / top, 0.3, 0.7
        labels = _labels(spokes, 16)
    else:
        row, column = divmod(i - 1, ACROSS)
        ceiling = 1 - (LARGE + row * (SMALL + HEAD) + HEAD) / top
        high, low = ceiling, max(0.0, ceiling - (SMALL - 22) / top)
        left, right = column / ACROSS + 0.02, (column + 1) / ACROSS - 0.02
        labels = [str(k) for k in range(1, len(angles) + 1)]
    axes = {
        "domain": {"x": [left, right], "y": [low, high]},
        "bgcolor": "white",
        "radialaxis": {
            "range": [0, 1], "tickvals": [0.5, 1.0], "showticklabels": False, "ticks": "",
            "showline": False, "gridcolor": RULE,
        },
        "angularaxis": {
            "tickvals": angles, "ticktext": labels, "gridcolor": RULE, "linecolor": QUIET,
            "ticks": "", "tickfont": {"size": 10 if spokes is not None else 9, "color": INK},
        },
    }  # fmt: skip
    heading = {
        "x": (left + right) / 2, "y": high + (26 if spokes is not None else 14) / top,
        "xref": "paper", "yref": "paper", "xanchor": "center", "yanchor": "bottom",
        "showarrow": False, "font": {"size": 12 if spokes is not None else 11, "color": INK},
    }  # fmt: skip
    return axes, heading
