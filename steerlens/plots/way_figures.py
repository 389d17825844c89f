"""Ways of adapting a model side by side: curves over their cost, and dots for each criterion."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from steerlens.plots.arrays import Band, array, band, bands, ordered
from steerlens.plots.look import INK, PALETTE, SYMBOLS, house, span
from steerlens.plots.marks import line, rule, whiskers
from steerlens.plots.narrow import make_narrow
from steerlens.plots.rows import read_rows
from steerlens.plots.words import axis_title, broken, number, safe

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
PANELS = 3
"""Panels side by side."""
FAR = 10
"""How many times the smallest multiplier the largest is from which on they are drawn at even steps."""
BEYOND = 4
"""How many times as far as all the others reach a value lies that is drawn at the axis's end."""


def way_looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, symbol and dash of each way: the palette, then again with another dash."""
    return {
        name: {
            "colour": PALETTE[i % len(PALETTE)],
            "symbol": SYMBOLS[i % len(SYMBOLS)],
            "dash": DASHES[(i // len(PALETTE)) % len(DASHES)],
        }
        for i, name in enumerate(names)
    }


def log_ticks(edges: list[float], most: int = 4) -> dict[str, Any]:
    """Ticks of a logarithmic axis at powers of ten, or at its ends' round numbers if it is short.

    >>> log_ticks([0.0, 2.0])["ticktext"]
    ['1', '10', '100']
    """
    first, last = math.ceil(edges[0] - 1e-9), math.floor(edges[1] + 1e-9)
    step = max(1, math.ceil((last - first + 1) / most))
    values = [10.0**k for k in range(first, last + 1, step)]
    if len(values) < 2:
        low, high = (
            float(f"{10 ** (e + inner):.1g}") for e, inner in zip(edges, (0.1, -0.1), strict=True)
        )
        values = [low, high] if low < high else [low]
    return {
        "tickvals": values,
        "ticktext": [_short(value) for value in values],
        "minor": {"ticks": ""},
    }


def _short(value: float) -> str:
    """A number of an axis in few letters: 2 M for 2,000,000."""
    for size, letter in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def way_curves(
    series: Mapping[str, tuple[Any, Any, Any]], *, budget: float, title: str
) -> go.Figure:
    """Gain over cost with the change of utility below, a line for each way.

    Costs are on a logarithmic axis; points that cost nothing are not drawn.

    Args:
        series: Way -> (cost, gain, utility): the cost of shape (strength,) in nats of KL per token;
            the others (mean, low, high), each of that shape, in nats.
        budget: The cost at which ways are compared: a dashed line.

    Raises:
        ValueError: If there is no way, or none has a point that costs something.
    """
    if not series:
        raise ValueError("series is empty, so there is nothing to draw. Pass at least one way.")
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[0.62, 0.38], vertical_spacing=0.05
    )
    every: list[float] = []
    ends: dict[int, list[float]] = {1: [0.0], 2: [0.0]}
    looks = way_looks(series)
    for name, (cost, *quantities) in series.items():
        x = array(f"cost of {name!r}", cost, (None,), "strengths")
        seen = np.flatnonzero(x > 0)  # NaN is not
        order = seen[np.argsort(x[seen], kind="stable")]
        every += x[order].tolist()
        if not len(order):
            continue
        for row, (what, value) in enumerate(
            zip(("gain", "utility"), quantities, strict=True), start=1
        ):
            whole = band(f"{what} of {name!r}", value, np.arange(len(x)), "strengths")
            drawn = type(whole)(*(part[order] for part in whole))
            ends[row] += drawn.mean[~np.isnan(drawn.mean)].tolist()
            hover = [f"KL {number(float(x[k]))} nats per token" for k in order]
            # Bands of ten ways would hide each other: their ends are on hover.
            bare = type(whole)(drawn.mean, *(np.full_like(drawn.mean, np.nan),) * 2)
            line(
                figure, name, x[order], bare, hover=hover, unit="nats", quantity=what,
                listed=row == 1, row=row, col=1, **looks[name],
            )  # fmt: skip
            trace: Any = figure.data[-1]
            trace.hovertext = [
                f"{safe(name)}<br>{where}<br>{drawn.text(i, 'nats', what)}"
                for i, where in enumerate(hover)
            ]
    if not every:
        raise ValueError("No way has a point that costs something, so there is no axis to draw on.")
    for row in (1, 2):
        low, high = span(ends[row])
        figure.add_scatter(
            x=[budget, budget], y=[low, high], mode="lines", hovertext=f"budget ({number(budget)})",
            line={"color": INK, "width": 1.3, "dash": "dash"}, showlegend=row == 1,
            name=f"budget ({number(budget)} nats)", row=row, col=1,
        )  # fmt: skip
        figure.update_yaxes(range=[low, high], row=row, col=1)
    house(
        figure, title=title, note="95% intervals on hover", height=590 + 9 * len(series),
    )  # fmt: skip
    figure.update_xaxes(type="log", dtick=1, tickformat="~g")
    figure.update_xaxes(range=span(np.log10(np.asarray([*every, budget]))))
    figure.update_xaxes(
        title_text=axis_title("KL to the unsteered model", "nats per token"), row=2, col=1
    )
    figure.update_yaxes(title_text="gain (nats)", zeroline=True, row=1, col=1)
    figure.update_yaxes(title_text="utility (nats)", zeroline=True, nticks=5, row=2, col=1)
    make_narrow(figure, title=title, note="95% intervals on hover", left=48)
    return figure


def nearness_curves(
    series: Mapping[str, tuple[Any, Any, Any]],
    *,
    multipliers: Iterable[float],
    title: str,
    lowest: float = -1.0,
) -> go.Figure:
    """The share of the way to an ideal over the multiplier, a line for each way.

    Multipliers of which the largest is more than `FAR` times the smallest are drawn at even steps,
    since the small ones would lie on top of each other. Where a line leaves the axis, a triangle at its
    end has the value on hover.

    Args:
        series: Way -> (mean, low, high), each of shape (multiplier,).
        lowest: Where the axis ends below, if shares lie further down.
    """
    strengths, order = ordered("multipliers", multipliers)
    sizes = [abs(m) for m in strengths if m]
    even = len(sizes) > 1 and max(sizes) > FAR * min(sizes)
    x = np.asarray(range(len(strengths)) if even else strengths, dtype=float)
    drawn = bands("series", series, order, f"{len(strengths)} multipliers")
    figure = go.Figure()
    for name, look in way_looks(drawn).items():
        whole = drawn[name]
        below = whole.mean < lowest  # NaN is not
        beside = np.concatenate([[False], ~below, [False]])
        leaves = below & (beside[:-2] | beside[2:])
        at = np.where(below, np.where(leaves, lowest, np.nan), whole.mean)
        bare = type(whole)(at, *(np.full_like(at, np.nan),) * 2)
        line(figure, name, x, bare, hover=[""] * len(x), unit="of the way", **look)
        trace: Any = figure.data[-1]
        trace.marker.symbol = ["triangle-down-open" if b else look["symbol"] for b in below]
        trace.hovertext = [
            f"{safe(name)}<br>multiplier {number(m)}<br>{whole.text(i, 'of the way', 'share')}"
            for i, m in enumerate(strengths)
        ]
    rule(figure, span(x), [1.0, 1.0], "the ideal")
    least = min(float(np.nanmin(whole.mean)) for whole in drawn.values())
    note = "95% intervals on hover"
    if least < lowest:
        note += f"; the axis ends at {number(lowest)}: a triangle there lies further down"
    house(figure, title=title, note=note, height=450 + 9 * len(drawn))
    figure.update_xaxes(title_text="multiplier", range=span(x))
    if even:
        figure.update_xaxes(
            title_text="multiplier, in even steps", tickvals=x.tolist(),
            ticktext=[number(m) for m in strengths],
        )  # fmt: skip
    figure.update_yaxes(
        title_text="share to ideal", range=span([max(least, lowest), 1.0]), zeroline=True,
        zerolinecolor=INK,
    )  # fmt: skip
    make_narrow(figure, title=title, note=note, left=48)
    return figure


def within(values: list[float]) -> tuple[float, float]:
    """Ends between which all values lie but a few far ones, which would press the others together.

    A third of the values at the most is left out, from the largest distance down.

    >>> within([0.0, 0.1, 0.2, 13.0]), within([0.0, 1.0, 2.0, 3.0])
    ((0.0, 0.2), (0.0, 3.0))
    """
    kept = sorted(values)
    for _ in range(len(values) // 3):
        low, high = kept[1] - kept[0], kept[-1] - kept[-2]
        rest = kept[1:] if low > high else kept[:-1]
        if rest[0] == rest[-1] or max(low, high) <= BEYOND * (rest[-1] - rest[0]):
            break
        kept = rest
    return kept[0], kept[-1]


def _ends(drawn: Band) -> tuple[float, float]:
    """Where the axis of a panel ends: at 0 and the whiskers of all dots but a few far ones."""
    low, high = within(drawn.mean[~np.isnan(drawn.mean)].tolist())
    near = (drawn.mean >= low) & (drawn.mean <= high)
    reach = np.concatenate([[0.0], *(part[near] for part in drawn)])
    return float(np.nanmin(reach)), float(np.nanmax(reach))


def criteria_dots(
    panels: Mapping[str, tuple[Any, str, bool, str]],
    *,
    rows: Iterable[str],
    title: str,
    whiskers_are: str = "95% intervals; seconds and time per token: the range",
) -> go.Figure:
    """A panel for each criterion: a dot with its interval for every way; the best one is filled.

    Args:
        panels: Criterion -> ((value, low, high), unit, whether its axis is logarithmic, "more" or
            "less" for what is better); each array of shape (row,), NaN where not measured.
        rows: The name of each way, the first on top.
        whiskers_are: What the whiskers show.

    Raises:
        ValueError: If there is no criterion.
    """
    if not panels:
        raise ValueError("panels is empty, so there is nothing to draw. Pass at least one.")
    names = read_rows(rows, downwards=True)
    if names.are_layers:
        raise ValueError(f"rows={names.names} must be the names of ways.")
    beyond = False
    height = math.ceil(len(panels) / PANELS)
    each = 26 + 19 * names.count
    total = each * height + 58 * (height - 1)
    figure = make_subplots(
        rows=height, cols=PANELS, shared_yaxes=True, horizontal_spacing=0.05,
        vertical_spacing=58 / total if height > 1 else 0.0,
        subplot_titles=[broken(safe(name), 26) for name in panels],
    )  # fmt: skip
    for k, (name, (value, unit, log, better)) in enumerate(panels.items()):
        place: dict[str, Any] = {"row": k // PANELS + 1, "col": k % PANELS + 1}
        seen = band(f"panels[{name!r}]", value, names.order, f"{names.count} rows")
        drawn = seen
        if log:  # a logarithm of 0 is nowhere
            drawn = type(seen)(*(np.where(part > 0, part, np.nan) for part in seen))
        known = drawn.mean[~np.isnan(drawn.mean)]
        best = float("nan")
        if known.size:
            best = float(known.max() if better == "more" else known.min())
        colours = [PALETTE[0] if m == best else "white" for m in drawn.mean]
        ends = _ends(drawn) if known.size and not log else (-math.inf, math.inf)
        away = (drawn.mean < ends[0]) | (drawn.mean > ends[1])
        beyond |= bool(away.any())
        far = drawn.mean.copy()
        drawn = type(drawn)(*(np.where(away, np.nan, part) for part in drawn))
        room = 0.12 * (ends[1] - ends[0]) if away.any() else 0.0
        at = np.clip(far, ends[0] - room, ends[1] + room)
        figure.add_scatter(
            x=[None if math.isnan(m) else m for m in at.tolist()],
            y=list(range(names.count)),
            mode="markers+text",
            text=[number(m, 3) if out else "" for m, out in zip(far.tolist(), away, strict=True)],
            textposition=[f"middle {'left' if m > ends[1] else 'right'}" for m in far],
            textfont={"size": 10},
            marker={
                "size": 8,
                "color": colours,
                "line": {"width": 1.6, "color": PALETTE[0]},
                "symbol": [
                    ("triangle-right" if m > ends[1] else "triangle-left") if out else "circle"
                    for m, out in zip(far, away, strict=True)
                ],
            },
            error_x=whiskers(drawn, PALETTE[0]),
            hovertext=[f"{names.text(i)}<br>{seen.text(i, unit)}" for i in range(names.count)],
            name=name,
            **place,
        )
        reach = [*drawn.mean, *drawn.low, *drawn.high, *at[away]]
        finite = np.asarray([x for x in reach if not math.isnan(x)])
        if log and finite.size:
            edges = span(np.log10(finite))
            if edges[1] - edges[0] < 0.5:
                edges = [edges[0] - 0.25, edges[1] + 0.25]
            figure.update_xaxes(type="log", range=edges, **log_ticks(edges), **place)
        elif finite.size:
            edges = span([*finite.tolist(), 0.0])
            figure.update_xaxes(range=edges, nticks=4, zeroline=True, **place)
        arrow = "more is better" if better == "more" else "less is better"
        figure.update_xaxes(title_text=broken(f"{unit}; {arrow}", 34), **place)
    house(
        figure, title=title, note=f"Whiskers: {whiskers_are}. Filled: the best estimate of the "
        f"panel.{' A triangle lies beyond the axis, at the number beside it.' if beyond else ''}",
        height=total + 128, left=names.left, right=20,
    )  # fmt: skip
    figure.update_xaxes(title={"font": {"size": 11}, "standoff": 4}, tickfont={"size": 10})
    figure.update_yaxes(
        tickvals=list(range(names.count)), ticktext=names.labels, range=[-0.6, names.count - 0.4]
    )
    layout: Any = figure["layout"]
    layout.margin.t += 24
    layout.margin.b = 52
    for note in layout.annotations:
        note.font = {"size": 12, "color": INK}
    return figure
