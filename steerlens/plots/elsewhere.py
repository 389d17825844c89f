"""Steering held against other questions: slopes away over slopes at home, gains on other concepts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsFloat

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from steerlens.plots.arrays import Band, array, band, bands, mask, ordered
from steerlens.plots.heatmap import layer_heatmap
from steerlens.plots.look import INK, PALETTE, QUIET, house, layer_markers, span
from steerlens.plots.marks import line, rule, series_looks, whiskers
from steerlens.plots.probe import label_places
from steerlens.plots.words import axis_title, broken, measured, number, safe

MOST_ACROSS = 3
"""Panels side by side."""


def shift_scatter(
    home: Any,
    away: Mapping[str, Any],
    *,
    rows: tuple[str, ...],
    unit: str,
    title: str,
    layers: Sequence[int] | None = None,
    correlations: Mapping[str, tuple[float, float, float]] | None = None,
    quantity: str = "slope",
) -> go.Figure:
    """Slope away over slope at home, a point for each row and a panel for each set.

    On the dashed line steering works elsewhere as it does at home.

    Args:
        home: (mean, low, high) with 95% intervals, each of shape (row,); or the mean alone.
        away: Name of a set -> the same for it.
        rows: What each row is called.
        layers: The layer of each row, which then colours and labels its point.
        correlations: Name of a set -> (value, low, high) of Spearman's correlation over rows.
    """
    n, axes = len(rows), f"{len(rows)} rows"
    order = np.arange(n)
    x = band("home", home, order, axes)
    drawn = bands("away", away, order, axes)
    across = min(MOST_ACROSS, len(drawn))
    down = math.ceil(len(drawn) / across)
    heads = []
    for name in drawn:
        rho = (correlations or {}).get(name)
        told = (
            ""
            if rho is None
            else f"<br>ρ {number(rho[0], 2)} [{', '.join(number(r, 2) for r in rho[1:])}]"
        )
        heads.append(f"{broken(safe(name), 66 // across)}{told}")
    figure = make_subplots(
        rows=down,
        cols=across,
        subplot_titles=heads,
        horizontal_spacing=0.05,
        vertical_spacing=0.28 / down if down > 1 else 0.0,
    )
    figure.update_annotations(font={"size": 12, "color": INK})
    every = np.concatenate([*x, *(part for y in drawn.values() for part in y), [0.0]])
    low, high = span(every)
    ends = [low - 0.05 * (high - low), high + 0.05 * (high - low)]  # room for labels
    looks = series_looks(list(rows))
    for k, (name, y) in enumerate(drawn.items()):
        panel: dict[str, Any] = {"row": k // across + 1, "col": k % across + 1}
        rule(figure, ends, ends, "as at home", **panel)
        figure.data[-1].showlegend = k == 0  # pyright: ignore[reportAttributeAccessIssue]
        figure.data[-1].legendgroup = "as at home"  # pyright: ignore[reportAttributeAccessIssue]
        seen = np.flatnonzero(~np.isnan(x.mean + y.mean)).tolist()
        hover = [
            f"{safe(rows[i])}<br>home: {x.text(i, unit, quantity)}"
            f"<br>{safe(name)}: {y.text(i, unit, quantity)}"
            for i in range(n)
        ]
        if layers is None:
            for i in seen:
                look = looks[rows[i]]
                _point(figure, _only(x, [i]), _only(y, [i]), hover=[hover[i]], **panel).update(
                    marker={"size": 9, "color": look["colour"], "symbol": look["symbol"]},
                    name=safe(rows[i]),
                    legendgroup=rows[i],
                    showlegend=k == 0,
                )
            continue
        trace = _point(
            figure, _only(x, seen), _only(y, seen), hover=[hover[i] for i in seen], **panel
        )
        trace.update(
            marker=layer_markers([layers[i] for i in seen], layers) | {"size": 9}, name=safe(name)
        )
        trace.update(marker_showscale=k == 0)
        if across == 1:
            places = label_places(x.mean[seen], y.mean[seen])
            trace.update(
                mode="markers+text",
                text=[str(layers[i]) if p else "" for i, p in zip(seen, places, strict=True)],
                textposition=[p or "middle center" for p in places],
                textfont={"size": 11, "color": INK},
            )
    notes = [f"{quantity.capitalize()}s in {unit}"]
    if x.has_interval or any(y.has_interval for y in drawn.values()):
        notes.append("whiskers: 95% interval")
    if correlations:
        notes.append("ρ: rank correlation over points")
    house(
        figure,
        title=title,
        note="; ".join(notes),
        height=(440 if down == 1 else 150 + 270 * down),
        right=30 if layers is None else 90,
    )
    margin: Any = figure["layout"]["margin"]
    margin.t += 20 * max(head.count("<br>") + 1 for head in heads)
    figure.update_xaxes(range=ends, nticks=5, zeroline=True, zerolinecolor=QUIET)
    figure.update_yaxes(range=ends, nticks=6, zeroline=True, zerolinecolor=QUIET)
    for k in range(len(drawn)):
        row, col = k // across + 1, k % across + 1
        lowest = k + across >= len(drawn)
        figure.update_xaxes(showticklabels=lowest, row=row, col=col)
        figure.update_xaxes(title_text="at home" if lowest else "", row=row, col=col)
        figure.update_yaxes(showticklabels=col == 1, row=row, col=col)
    figure.update_yaxes(title_text="away", col=1)
    return figure


def _only(values: Band, kept: Sequence[int]) -> Band:
    return Band(*(part[kept] for part in values))


def _point(figure: go.Figure, x: Band, y: Band, *, hover: Sequence[str], **panel: int) -> Any:
    figure.add_scatter(
        x=x.mean.tolist(),
        y=y.mean.tolist(),
        mode="markers",
        error_x=whiskers(x, "rgba(90,90,90,0.45)"),
        error_y=whiskers(y, "rgba(90,90,90,0.45)"),
        hovertext=list(hover),
        **panel,
    )
    return figure.data[-1]


def shift_dots(
    slopes: Mapping[str, tuple[float, float, float]],
    *,
    home: str,
    unit: str,
    title: str,
    ratios: Mapping[str, tuple[float, float, float]] | None = None,
    quantity: str = "mean slope",
) -> go.Figure:
    """One slope with its interval for each set, home on top and its interval shaded behind.

    Args:
        slopes: Name of a set -> (value, low, high) with its 95% interval.
        home: The set that the others are held against.
        ratios: Name of a set -> (value, low, high) of slope over slope at home; written beside.

    Raises:
        ValueError: If home is not among the sets.
    """
    if home not in slopes:
        raise ValueError(f"home={home!r} is none of the sets {list(slopes)}. Name one of them.")
    names = [home, *(name for name in slopes if name != home)]
    values = array("slopes", [slopes[name] for name in names], (len(names), 3), "(set, 3)")
    points = band("slopes", tuple(values.T), np.arange(len(names)), f"{len(names)} sets")
    places = list(range(len(names)))[::-1]
    labels = [broken(safe(name), 26) for name in names]
    figure = go.Figure()
    figure.add_vrect(
        x0=values[0, 1], x1=values[0, 2], fillcolor="rgba(0,0,0,0.06)", line_width=0, layer="below"
    )
    figure.add_vline(x=values[0, 0], line={"color": INK, "width": 1.3, "dash": "dash"})
    figure.add_scatter(
        x=values[:, 0].tolist(),
        y=places,
        mode="markers",
        marker={"size": 10, "color": [INK] + [PALETTE[0]] * (len(names) - 1)},
        error_x=whiskers(points, QUIET, width=4),
        hovertext=[f"{name}<br>{points.text(i, unit, quantity)}" for i, name in enumerate(labels)],
        name="slopes",
    )
    ends = span([*values.ravel(), 0.0])
    for name, place in zip(names, places, strict=True):
        ratio = (ratios or {}).get(name)
        if ratio is None:
            told = "home" if name == home else ""
        elif math.isnan(ratio[0]):
            told = "× not known"
        else:
            value, low, high = (f"{r:.2f}".replace("-", "−") for r in ratio)
            told = f"× {value} [{low}, {high}]"
        figure.add_annotation(
            x=1, xref="paper", xanchor="left", xshift=10, y=place, yref="y", text=told,
            showarrow=False, font={"size": 12, "color": INK},
        )  # fmt: skip
    note = "Whiskers and shading: 95% interval" + (
        "; right: slope over slope at home" if ratios else ""
    )
    longest = max(len(part) for label in labels for part in label.split("<br>"))
    house(
        figure, title=title, note=note, height=max(300, 150 + 42 * len(names)),
        left=34 + round(6.6 * longest), right=150 if ratios else 40,
    )  # fmt: skip
    figure.update_xaxes(title_text=axis_title(quantity, unit), range=ends, zeroline=True)
    figure.update_yaxes(
        tickvals=places, ticktext=labels, range=[-0.6, len(names) - 0.4], showgrid=False
    )
    return figure


def gain_heatmap(
    gains: ArrayLike,
    *,
    rows: tuple[str, ...],
    sets: tuple[str, ...],
    homes: tuple[str, ...],
    unit: str,
    title: str,
    note: str = "",
    layers: Sequence[int] | None = None,
    below_null: ArrayLike | None = None,
    hover: Sequence[Sequence[str]] | None = None,
) -> go.Figure:
    """Row x set heatmap of gains, with each row's own set outlined.

    Args:
        gains: Shape (row, set).
        homes: For each row the set it is meant to move.
        layers: The layer of each row, where they have one; they then name the axis.
        below_null: True where the gain is no more than chance allows; stippled.
        hover: More lines of hover text for each cell; may hold `<br>`.

    Raises:
        ValueError: If a home is not among the sets.
    """
    shape, axes = (len(rows), len(sets)), f"{len(rows)} rows x {len(sets)} sets"
    grid = array("gains", gains, shape, axes)
    if unknown := [home for home in homes if home not in sets]:
        raise ValueError(f"homes holds {unknown[0]!r}, which is none of the sets {list(sets)}.")
    # Drawn from below: layers upwards, named rows in reading order.
    order = np.argsort(layers) if layers is not None else np.arange(len(rows))[::-1]
    null = mask("below_null", below_null, shape, axes)
    figure = layer_heatmap(
        grid[order], rows=range(len(rows)), columns=range(len(sets)), unit=unit, quantity="gain",
        title=title, below_null=null[order],
    )  # fmt: skip
    names = [safe(rows[i]) for i in order]

    def told(i: int, k: int) -> str:
        number = measured(float(grid[i, k]), unit, quantity="gain")
        return f"{safe(rows[i])}: {safe(sets[k])}<br>{number if hover is None else hover[i][k]}"

    texts = [[told(i, k) for k in range(len(sets))] for i in order.tolist()]
    figure.update_traces(hovertext=texts, selector={"type": "heatmap"})
    where = [(r, sets.index(homes[i])) for r, i in enumerate(order.tolist())]
    _frames(figure, where)
    labels = [broken(name, 24) for name in names]
    longest = max(len(part) for label in labels for part in label.split("<br>"))
    columns = [broken(safe(name), max(10, 80 // len(sets))) for name in sets]
    house(
        figure,
        title=title,
        note=note,
        height=max(330, 170 + (28 if layers is not None else 52) * len(rows)),
        left=68 if layers is not None else 34 + round(6.6 * longest),
        right=112,
    )
    cells: dict[str, Any] = {"showgrid": False, "zeroline": False, "showline": False, "ticks": ""}
    figure.update_xaxes(
        title_text="asked about", tickvals=list(range(len(sets))), ticktext=columns, **cells
    )
    ticks = labels if layers is None else [str(sorted(layers)[r]) for r in range(len(rows))]
    figure.update_yaxes(
        title_text="" if layers is None else "layer", tickvals=list(range(len(rows))), ticktext=ticks,
        **cells,
    )  # fmt: skip
    return figure


def _frames(figure: go.Figure, cells: Sequence[tuple[int, int]]) -> None:
    """A frame around each row's own set; neighbours in one column share one."""
    blocks: list[tuple[int, int, int]] = []
    for r, c in cells:
        if blocks and blocks[-1][2] == c:
            blocks[-1] = (blocks[-1][0], r, c)
        else:
            blocks.append((r, r, c))
    for width, colour in ((4.5, "white"), (2.0, "black")):
        xs: list[Any] = []
        ys: list[Any] = []
        for low, high, c in blocks:
            xs += [c - 0.5, c + 0.5, c + 0.5, c - 0.5, c - 0.5, None]
            ys += [low - 0.5, low - 0.5, high + 0.5, high + 0.5, low - 0.5, None]
        figure.add_scatter(
            x=xs,
            y=ys,
            mode="lines",
            line={"width": width, "color": colour},
            cliponaxis=False,
            showlegend=colour == "black",
            name="home: the concept it was made for",
        )


def gain_lines(
    series: Mapping[str, Any], *, multipliers: Iterable[SupportsFloat], unit: str, title: str
) -> go.Figure:
    """Gain over the multiplier, a line and a band for each set.

    Args:
        series: Name of a set -> (mean, low, high) with 95% intervals, each of shape (multiplier,).
    """
    strengths, order = ordered("multipliers", multipliers)
    x = np.asarray(strengths, dtype=float)
    drawn = bands("series", series, order, f"{len(strengths)} multipliers")
    hover = [f"multiplier {number(m)}" for m in strengths]
    figure = go.Figure()
    for name, look in series_looks(list(drawn)).items():
        line(figure, name, x, drawn[name], hover=hover, unit=unit, **look)
    shaded = any(each.has_interval for each in drawn.values())
    house(figure, title=title, note="Shaded: 95% interval" if shaded else "")
    figure.update_xaxes(title_text="multiplier", range=span(x), zeroline=True, zerolinecolor=QUIET)
    figure.update_yaxes(title_text=axis_title("gain", unit), zeroline=True, zerolinecolor=INK)
    return figure
