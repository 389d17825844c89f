"""Arrays in, plotly figures out: every picture of the project is drawn here.

Nothing in this file knows a model, a file format or another module of the package, and no global
plotly setting is touched: the house look is written into each figure by one function, `_house`.

Three rules hold for every figure. A number that was not measured (NaN) is shown as missing, never
as zero. Every number drawn can be read on hover, with its interval. Colours are safe for
colour-blind readers (Okabe and Ito's palette; ColorBrewer RdBu for signed values).
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

Array = NDArray[np.float64]
Band = tuple[Array, Array, Array]

INK = "#222222"
QUIET = "#6b6b6b"
RULE = "#e4e4e4"
MISSING = "#b9b9b9"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "triangle-down", "cross")
DIVERGING = (
    (0.0, "#053061"),
    (0.1, "#2166ac"),
    (0.2, "#4393c3"),
    (0.3, "#92c5de"),
    (0.4, "#d1e5f0"),
    (0.5, "#fafafa"),
    (0.6, "#fddbc7"),
    (0.7, "#f4a582"),
    (0.8, "#d6604d"),
    (0.9, "#b2182b"),
    (1.0, "#67001f"),
)
# The yellow end of viridis is lost on white paper, so it is left out.
SEQUENTIAL = tuple(sample_colorscale("Viridis", [0.9 * i / 8 for i in range(9)]))
FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"
MONO = "'DejaVu Sans Mono', Menlo, Consolas, 'Liberation Mono', monospace"
IDLE_BUTTONS = (
    "zoom2d", "pan2d", "select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d",
    "sendChartToCloud",
)  # fmt: skip
"""Buttons that would cover the title; double click zooms out, and nothing is sent anywhere."""
WIDTH = 700
"""Pixels a figure must be readable at; it stretches to its container above that."""


def layer_heatmap(
    values: ArrayLike,
    *,
    layers: Iterable[SupportsIndex],
    columns: Iterable[SupportsFloat] | Iterable[str],
    unit: str,
    title: str,
    column_title: str = "multiplier",
    quantity: str | None = None,
    best: tuple[SupportsIndex, SupportsFloat | str] | None = None,
    below_null: ArrayLike | None = None,
    over_budget: ArrayLike | None = None,
    hover: Sequence[Sequence[str]] | None = None,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
    limit: float | None = None,
    null_label: str = "below the null threshold",
    budget_label: str = "over the cost budget",
) -> go.Figure:
    """Layer x column heatmap with diverging colours centred on zero, layer 0 at the bottom.

    Rows and numeric columns are drawn in increasing order whatever order they come in. The colour
    range is symmetric about zero; a single cell more than three times beyond all others does not
    stretch it, and the colour bar then says where it was clipped.

    Args:
        values: Shape (layer, column); NaN is drawn grey, as "not measured".
        layers: The layer of each row.
        columns: The multiplier (or the name) of each column.
        unit: Unit of `values`, e.g. "nats".
        quantity: What `values` is, for the colour bar and the hover, e.g. "propensity gain".
        best: The cell to mark, as (layer, column) in the values of `layers` and `columns`, not as
            indices.
        below_null: True where a cell is no larger than chance allows; stippled.
        over_budget: True where a cell costs too much; hatched.
        hover: One more line of hover text for each cell; may hold `<br>`.
        low: Lower end of each cell's interval, for the hover.
        high: Upper end of each cell's interval, for the hover.
        limit: Colour range is [-limit, limit]; pass the same one to compare two heatmaps.

    Raises:
        ValueError: If shapes disagree, a value is infinite, a layer or column is repeated, or
            `best` is not a cell.

    >>> figure = layer_heatmap(
    ...     [[0.0, 0.1], [0.0, 2.0]], layers=[0, 1], columns=[0.0, 1.0], unit="nats",
    ...     title="Propensity gain", best=(1, 1.0),
    ... )
    >>> figure.data[0].zmin, figure.data[0].zmax
    (-2.0, 2.0)
    """
    return _heatmap(
        values,
        layers=layers,
        columns=columns,
        unit=unit,
        title=title,
        column_title=column_title,
        quantity=quantity,
        best=best,
        below_null=below_null,
        over_budget=over_budget,
        hover=hover,
        low=low,
        high=high,
        limit=limit,
        null_label=null_label,
        budget_label=budget_label,
        room=480,
        right=112,
    )


def steerability_figure(
    values: ArrayLike,
    *,
    layers: Iterable[SupportsIndex],
    columns: Iterable[SupportsFloat] | Iterable[str],
    unit: str,
    title: str,
    score: ArrayLike,
    score_unit: str,
    score_title: str = "gain within budget",
    score_low: ArrayLike | None = None,
    score_high: ArrayLike | None = None,
    column_title: str = "multiplier",
    quantity: str | None = None,
    best: tuple[SupportsIndex, SupportsFloat | str] | None = None,
    below_null: ArrayLike | None = None,
    over_budget: ArrayLike | None = None,
    hover: Sequence[Sequence[str]] | None = None,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
    limit: float | None = None,
    null_label: str = "below the null threshold",
    budget_label: str = "over the cost budget",
) -> go.Figure:
    """`layer_heatmap` with one score per layer beside it, as bars on the same layer axis.

    Args:
        score: Shape (layer,), e.g. the gain available within the budget; NaN is shown as
            "not measured".
        score_low: Lower end of each score's interval, drawn as a whisker.
        score_high: Upper end of each score's interval.

    The other arguments are those of `layer_heatmap`.

    Raises:
        ValueError: As `layer_heatmap`, and if a score's shape is not (layer,) or its interval is
            upside down.
    """
    layers = list(layers)
    columns_read: Any = list(columns)
    score_axis = _broken(_axis(score_title, score_unit), 28)
    figure = _heatmap(
        values,
        layers=layers,
        columns=columns_read,
        unit=unit,
        title=title,
        column_title=column_title,
        quantity=quantity,
        best=best,
        below_null=below_null,
        over_budget=over_budget,
        hover=hover,
        low=low,
        high=high,
        limit=limit,
        null_label=null_label,
        budget_label=budget_label,
        room=380,
        right=30,
        above=50,
        below=16 * score_axis.count("<br>"),
    )
    rows, order = _ordered("layers", layers)
    shape, axes = (len(rows),), f"{len(rows)} layers"
    bars = _array("score", score, shape, axes)[order]
    lower, upper = (
        ends[order]
        for ends in _interval(score_low, score_high, shape, axes, "score_low", "score_high")
    )
    chosen = None if best is None else best[0]
    figure.add_bar(
        orientation="h",
        x=_holes(bars),
        y=list(range(len(rows))),
        xaxis="x2",
        width=0.7,
        marker={"color": [PALETTE[0] if layer == chosen else "#9fb6c6" for layer in rows]},
        error_x=_whiskers((bars, lower, upper), INK, width=3 if len(rows) <= 24 else 0),
        hovertext=[
            f"layer {layer}<br>{_measured(bars[i], score_unit, (lower[i], upper[i]), score_title)}"
            for i, layer in enumerate(rows)
        ],
        hoverinfo="text",
        showlegend=False,
        name=score_title,
    )
    absent = np.flatnonzero(np.isnan(bars)).tolist()
    figure.add_scatter(
        x=[0.0] * len(absent),
        y=absent,
        xaxis="x2",
        mode="markers+text" if len(rows) <= 24 else "markers",
        marker={"symbol": "x-thin-open", "size": 6, "color": QUIET},
        text=["not measured"] * len(absent),
        textposition="middle right",
        textfont={"size": 10, "color": QUIET},
        hovertext=[f"layer {rows[i]}<br>not measured" for i in absent],
        hoverinfo="text",
        showlegend=False,
        name=f"{score_title}: not measured",
    )
    drawn = [0.0, *bars, *lower, *upper]
    figure.update_layout(
        xaxis={"domain": [0.0, 0.69]},
        xaxis2={
            "domain": [0.72, 1.0],
            "anchor": "y",
            "title": {"text": score_axis, "font": {"size": 13}, "standoff": 8},
            "range": _span(drawn),
            "nticks": 5,
            "gridcolor": RULE,
            "zeroline": True,
            "zerolinecolor": QUIET,
            "zerolinewidth": 1,
            "ticks": "outside",
            "ticklen": 4,
            "tickcolor": QUIET,
        },
    )
    # The colour bar lies on the heatmap it belongs to, not beyond the bars. Its own title would
    # push the figure's title out of the picture, so it is written as a note.
    bar: Any = figure["data"][0]["colorbar"]
    figure.add_annotation(
        text=bar.title.text.replace("<br>clipped", ", clipped").replace("<br>", " "),
        showarrow=False,
        x=0,
        xref="paper",
        xanchor="left",
        y=1,
        yref="paper",
        yanchor="bottom",
        yshift=36,
        font={"size": 12},
    )
    bar.update(orientation="h", xanchor="left", yanchor="bottom", x=0, y=1, xpad=0, ypad=4)
    bar.update(len=0.69, thickness=10, title_text="")
    return figure


def layer_curve(
    series: Mapping[str, Any],
    *,
    layers: Iterable[SupportsIndex],
    unit: str,
    title: str,
    quantity: str | None = None,
    controls: Iterable[str] = (),
    reference: float | None = None,
    reference_label: str = "chance",
    band_label: str = "95% interval",
) -> go.Figure:
    """One quantity over the layers, a line and a shaded interval for each series.

    Args:
        series: Name -> (mean, low, high), each of shape (layer,); or the mean alone.
        layers: The layer of each entry.
        unit: Unit of the values, e.g. "accuracy".
        quantity: What the values are, for the axis title.
        controls: Names in `series` that are controls: drawn grey and dashed.
        reference: Height of a horizontal reference line, e.g. chance.
        band_label: What the shaded bands are; written under the title.

    Raises:
        ValueError: If shapes disagree, a value is infinite, an interval is upside down, or a
            control is not in `series`.
    """
    rows, order = _ordered("layers", layers)
    x = np.asarray(rows, dtype=float)
    bands = _bands("series", series, order, f"{len(rows)} layers")
    grey = list(controls)
    if unknown := [name for name in grey if name not in bands]:
        raise ValueError(
            f"controls={grey} names {unknown}, not in series ({list(bands)}). "
            "Use names of the series."
        )
    figure = go.Figure()
    colours = _colours([name for name in bands if name not in grey])
    legend = []
    for name, band in bands.items():
        colour, symbol = colours.get(name, ("#8a8a8a", "circle-open"))
        dash = "dash" if name in grey else "solid"
        hover = [f"layer {layer}" for layer in rows]
        _line(figure, name, x, band, hover, unit, colour, symbol, dash=dash)
        legend.append(name)
    if reference is not None:
        name = f"{reference_label} ({_number(reference)})"
        _rule(figure, _padded(x), [reference, reference], name)
        legend.append(name)
    has_band = any(not np.isnan(low).all() for _, low, _ in bands.values())
    _house(figure, title=title, note=f"Shaded: {band_label}" if has_band else "", legend=legend)
    figure.update_xaxes(title_text="layer", range=_padded(x), **_layer_ticks(rows))
    figure.update_yaxes(title_text=_axis(quantity, unit))
    return figure


def dose_response(
    series: Mapping[str, Any],
    *,
    multipliers: Iterable[SupportsFloat],
    unit: str,
    title: str,
    quantity: str | None = None,
    cost: Mapping[str, Any] | None = None,
    cost_unit: str = "nats",
    cost_quantity: str = "cost",
    budget: float | None = None,
    valid: tuple[float, float] | None = None,
    valid_label: str = "utility holds",
    multiplier_unit: str = "",
    band_label: str = "95% interval",
) -> go.Figure:
    """Response to the steering multiplier, a line and a shaded interval for each series.

    Args:
        series: Name (e.g. "layer 4") -> (mean, low, high), each of shape (multiplier,); or the
            mean alone.
        multipliers: The strength of each entry; 0, the unsteered model, is marked.
        unit: Unit of the response.
        quantity: What the response is, for the axis title.
        cost: Like `series`, drawn in a lower panel; names shared with `series` share its colour.
        budget: Largest cost allowed: a dashed line in the cost panel.
        valid: Multipliers between which utility holds: shaded.
        multiplier_unit: E.g. "fraction of the median residual norm".

    Raises:
        ValueError: If shapes disagree, a value is infinite, an interval is upside down, `valid` is
            empty, or a budget comes without a cost.
    """
    strengths, order = _ordered("multipliers", multipliers)
    x = np.asarray(strengths, dtype=float)
    axes = f"{len(strengths)} multipliers"
    upper = _bands("series", series, order, axes)
    lower = {} if cost is None else _bands("cost", cost, order, axes)
    if budget is not None and not lower:
        raise ValueError(f"budget={budget} has no cost to bound. Pass cost= as well.")
    panels = 2 if lower else 1
    figure = make_subplots(
        rows=panels,
        cols=1,
        shared_xaxes=True,
        row_heights=[0.66, 0.34] if lower else [1.0],
        vertical_spacing=0.05,
    )
    span = _padded(x)
    legend = []
    if valid is not None:
        start, stop = max(valid[0], span[0]), min(valid[1], span[1])
        if not start < stop:
            raise ValueError(
                f"valid={valid} leaves nothing of the multipliers {_number(x[0])} to "
                f"{_number(x[-1])} to shade. Pass (lowest, highest) with lowest < highest."
            )
        for row in range(1, panels + 1):
            figure.add_vrect(
                x0=start, x1=stop, fillcolor="#009E73", opacity=0.09, line_width=0,
                layer="below", exclude_empty_subplots=False, **_at(row),
            )  # fmt: skip
        name = f"{valid_label} ({_number(valid[0])} to {_number(valid[1])})"
        _key(figure, legend, name, symbol="square", size=11, color="rgba(0,158,115,0.22)")
    if span[0] <= 0 <= span[1]:
        for row in range(1, panels + 1):
            figure.add_vline(
                x=0, line={"color": QUIET, "width": 1, "dash": "dot"},
                exclude_empty_subplots=False, **_at(row),
            )  # fmt: skip
        figure.add_annotation(
            x=0, y=1, xref="x", yref="paper", yanchor="bottom", text="unsteered", showarrow=False,
            font={"size": 11, "color": QUIET},
        )  # fmt: skip
    hover = [f"multiplier {_number(m)}" for m in strengths]
    every = list(upper) + [name for name in lower if name not in upper]
    colours = _colours(every)
    for name in every:
        colour, symbol = colours[name]
        legend.append(name)
        if name in upper:
            _line(figure, name, x, upper[name], hover, unit, colour, symbol, row=1)
        if name in lower:
            _line(
                figure, name, x, lower[name], hover, cost_unit, colour, symbol,
                row=2, listed=name not in upper, quantity=cost_quantity,
            )  # fmt: skip
    if budget is not None:
        name = f"budget ({_number(budget)} {cost_unit})"
        _rule(figure, span, [budget, budget], name, row=2)
        legend.append(name)
    has_band = any(not np.isnan(low).all() for _, low, _ in [*upper.values(), *lower.values()])
    _house(
        figure,
        title=title,
        note=f"Shaded around the lines: {band_label}" if has_band else "",
        legend=legend,
        height=560 if lower else 450,
        head=14,
    )
    figure.update_xaxes(range=span, showticklabels=False)
    figure.update_xaxes(
        title_text=f"multiplier ({multiplier_unit})" if multiplier_unit else "multiplier",
        showticklabels=True,
        row=panels,
        col=1,
    )
    figure.update_yaxes(title_text=_axis(quantity, unit), row=1, col=1)
    if lower:
        figure.update_yaxes(title_text=_axis(cost_quantity, cost_unit), row=2, col=1, nticks=5)
    return figure


def tradeoff(
    gain: ArrayLike,
    cost: ArrayLike,
    *,
    labels: Sequence[str],
    gain_unit: str,
    cost_unit: str,
    title: str,
    layers: Iterable[SupportsIndex] | None = None,
    gain_quantity: str = "gain",
    cost_quantity: str = "cost",
    budget: float | None = None,
    frontier: bool = True,
    best: str | None = None,
    fitted: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
) -> go.Figure:
    """Gain against cost, a point for each cell; cells with a NaN are counted under the title.

    Args:
        gain: Any shape; larger is better.
        cost: Same shape as `gain`; smaller is better.
        labels: What each cell is, in the flat order of `gain`, e.g. "layer 4, multiplier 1.5".
        layers: The layer of each cell, in the same order; colours the points.
        budget: Largest cost allowed: a dashed line, with what lies beyond it shaded.
        frontier: Draw the largest gain to be had at each cost or less, as steps.
        best: The label of the cell to mark.
        fitted: Name -> (gain, cost) along a fitted curve.

    Raises:
        ValueError: If sizes disagree, a value is infinite, no cell has both numbers, or `best` is
            not a label.
    """
    y = _array("gain", gain)
    x = _array("cost", cost, y.shape, f"the shape of gain, {y.shape}").ravel()
    y = y.ravel()
    names = [html.escape(label, quote=False) for label in labels]
    if len(names) != y.size:
        raise ValueError(
            f"labels has {len(names)} entries but gain has {y.size} cells. Pass one for each."
        )
    depths = None if layers is None else [int(layer) for layer in layers]
    if depths is not None and len(depths) != y.size:
        raise ValueError(
            f"layers has {len(depths)} entries but gain has {y.size} cells. Pass one for each cell."
        )
    if best is not None and best not in labels:
        raise ValueError(f"best={best!r} is not one of the labels, e.g. {labels[0]!r}.")
    seen = np.isfinite(x) & np.isfinite(y)
    if not seen.any():
        raise ValueError("No cell has both a gain and a cost (all are NaN): nothing to draw.")
    figure = go.Figure()
    legend: list[str] = []
    xs = [*x[seen], 0.0, *([] if budget is None else [budget])]
    span = _span(xs)
    if budget is not None:
        figure.add_vrect(
            x0=budget, x1=span[1], fillcolor="#000000", opacity=0.05, line_width=0, layer="below"
        )
    marker: dict[str, Any] = {
        "size": 8 if seen.sum() <= 200 else 6,
        "line": {"width": 0.7, "color": "white"},
    }
    if depths is None:
        marker["color"] = PALETTE[0]
    else:
        distinct = sorted(set(depths))
        marker |= {
            "color": [layer for layer, keep in zip(depths, seen, strict=True) if keep],
            "colorscale": SEQUENTIAL,
            "cmin": distinct[0],
            "cmax": max(distinct[-1], distinct[0] + 1),
            "colorbar": _layer_bar(distinct),
        }
    figure.add_scatter(
        x=x[seen].tolist(),
        y=y[seen].tolist(),
        mode="markers",
        marker=marker,
        hovertext=[
            f"{names[i]}<br>{gain_quantity} {_number(float(y[i]))} {gain_unit}"
            f"<br>{cost_quantity} {_number(float(x[i]))} {cost_unit}"
            for i in np.flatnonzero(seen).tolist()
        ],
        hoverinfo="text",
        showlegend=False,
        name="cells",
    )
    if frontier:
        fx, fy = _frontier(x[seen], y[seen])
        figure.add_scatter(
            x=[*fx, max(x[seen])],
            y=[*fy, fy[-1]],
            mode="lines",
            line={"shape": "hv", "color": INK, "width": 1.4},
            hoverinfo="skip",
            name="efficient frontier",
        )
        legend.append("efficient frontier")
    for i, (name, curve) in enumerate((fitted or {}).items()):
        fy = _array(f"fitted[{name!r}] gain", curve[0])
        fx = _array(
            f"fitted[{name!r}] cost", curve[1], fy.shape, f"the shape of its gain {fy.shape}"
        )
        figure.add_scatter(
            x=_holes(fx),
            y=_holes(fy),
            mode="lines",
            line={"color": PALETTE[(i + 1) % len(PALETTE)], "width": 2, "dash": "dashdot"},
            hoverinfo="name",
            name=html.escape(name, quote=False),
        )
        legend.append(name)
    ys = [*y[seen], *(v for curve in (fitted or {}).values() for v in np.ravel(curve[0])), 0.0]
    rise = _span(ys)
    if budget is not None:
        name = f"budget ({_number(budget)} {cost_unit})"
        _rule(figure, [budget, budget], rise, name)
        legend.append(name)
    if best is not None:
        i = list(labels).index(best)
        if not seen[i]:
            raise ValueError(f"best={best!r} has no gain or no cost (NaN), so it cannot be marked.")
        name = f"best: {names[i]}"
        figure.add_scatter(
            x=[float(x[i])],
            y=[float(y[i])],
            mode="markers",
            marker={"symbol": "star", "size": 15, "color": PALETTE[1]}
            | {"line": {"width": 1.2, "color": "black"}},
            hoverinfo="skip",
            name=name,
        )
        legend.append(name)
    lost = int((~seen).sum())
    note = f"{lost} of {y.size} cells not measured and not drawn" if lost else ""
    wide = 95 if depths is not None else 30
    _house(figure, title=title, note=note, legend=legend, right=wide)
    figure.update_xaxes(title_text=_axis(cost_quantity, cost_unit), range=span)
    figure.update_yaxes(
        title_text=_axis(gain_quantity, gain_unit),
        range=rise,
        zeroline=True,
        zerolinecolor=QUIET,
        zerolinewidth=1,
    )
    return figure


def example_slopes(
    slopes: ArrayLike, *, layers: Iterable[SupportsIndex], unit: str, title: str
) -> go.Figure:
    """Per-example steering slopes at each layer, with the share steered the wrong way above.

    Boxes span the quartiles with the median, whiskers reach the last point within 1.5 box lengths
    (Tukey), and every example is a point. The upper panel is the share of examples with a slope
    below zero (anti-steerable, arXiv:2407.12404).

    Args:
        slopes: Shape (layer, example); NaN examples are left out and counted on hover.
        layers: The layer of each row.
        unit: Unit of the slopes, e.g. "nats per unit multiplier".

    Raises:
        ValueError: If the shape is not (layer, example) or a value is infinite.
    """
    rows, order = _ordered("layers", layers)
    grid = _array("slopes", slopes, (len(rows), None), f"{len(rows)} layers x examples")[order]
    counts = (~np.isnan(grid)).sum(1)
    below = [float((r < 0).sum() / n) if n else math.nan for r, n in zip(grid, counts, strict=True)]
    places = list(range(len(rows)))
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[0.2, 0.8], vertical_spacing=0.06
    )
    roomy = len(rows) <= 16
    figure.add_bar(
        x=places,
        y=_holes(np.array(below)),
        width=0.7,
        marker={"color": PALETTE[1]},
        text=["" if math.isnan(b) else f"{b:.0%}" for b in below] if roomy else None,
        textposition="outside",
        textfont={"size": 11, "color": INK},
        cliponaxis=False,
        hovertext=[
            f"layer {layer}<br>"
            + (f"{b:.1%} of {n} examples below zero" if n else "not measured")
            + (f"<br>{grid.shape[1] - n} not measured" if n and n < grid.shape[1] else "")
            for layer, b, n in zip(rows, below, counts, strict=True)
        ],
        hoverinfo="text",
        showlegend=False,
        name="share below zero",
        row=1,
        col=1,
    )
    size = 4.5 if grid.size <= 1500 else 3
    for name, wanted, colour in (
        ("slope above or at zero", grid >= 0, PALETTE[0]),
        ("below zero: anti-steerable", grid < 0, PALETTE[1]),
    ):
        r, e = np.nonzero(wanted)
        figure.add_scatter(
            x=(r + 0.5 * (_spread(e) - 0.5)).tolist(),
            y=grid[wanted].tolist(),
            mode="markers",
            marker={"size": size, "color": colour, "opacity": 0.45},
            hovertext=[
                f"layer {rows[i]}, example {j}<br>slope {_number(grid[i, j])} {unit}"
                for i, j in zip(r, e, strict=True)
            ],
            hoverinfo="text",
            showlegend=False,
            legendgroup=name,
            name=name,
            row=2,
            col=1,
        )
    full = [i for i in places if counts[i]]
    boxes = [_box(grid[i][~np.isnan(grid[i])]) for i in full]
    figure.add_box(
        x=full,
        **{key: [box[key] for box in boxes] for key in ("q1", "median", "q3")},
        lowerfence=[box["lowerfence"] for box in boxes],
        upperfence=[box["upperfence"] for box in boxes],
        width=0.7,
        fillcolor="rgba(255,255,255,0)",
        line={"color": INK, "width": 1.3},
        hoverinfo="y",
        showlegend=False,
        name="quartiles",
        row=2,
        col=1,
    )
    legend: list[str] = []
    _key(figure, legend, "slope above or at zero", symbol="circle", size=7, color=PALETTE[0])
    _key(figure, legend, "below zero: anti-steerable", symbol="circle", size=7, color=PALETTE[1])
    empty = [i for i in places if not counts[i]]
    for i in empty:
        figure.add_vrect(
            x0=i - 0.45, x1=i + 0.45, fillcolor=MISSING, opacity=0.5, line_width=0, layer="below",
            **_at(2),
        )  # fmt: skip
    if empty:
        _key(figure, legend, "not measured", symbol="square", size=11, color=MISSING)
    note = f"{grid.shape[1]} examples; boxes: quartiles, whiskers: 1.5 box lengths"
    _house(figure, title=title, note=note, legend=legend, height=500)
    shown = _thin([1] * len(rows), 560, 0, pixels=28)
    figure.update_xaxes(range=[-0.6, len(rows) - 0.4], showgrid=False)
    figure.update_xaxes(
        title_text="layer", tickvals=shown, ticktext=[str(rows[i]) for i in shown], row=2, col=1
    )
    highest = max([b for b in below if not math.isnan(b)], default=0.0)
    ceiling = max(0.1, min(1.0, 1.1 * highest)) * (1.25 if roomy else 1.0)
    figure.update_yaxes(
        title_text="below 0", tickformat=".0%", range=[0, ceiling], nticks=4, row=1, col=1
    )
    figure.update_yaxes(
        title_text=f"slope ({unit})", zeroline=True, zerolinecolor=INK, zerolinewidth=1.2,
        row=2, col=1,
    )  # fmt: skip
    return figure


def probe_against_steering(
    probe: Any,
    steering: Any,
    *,
    layers: Iterable[SupportsIndex],
    probe_unit: str,
    steering_unit: str,
    title: str,
    probe_quantity: str = "probe",
    steering_quantity: str = "steering",
    correlation: tuple[float, float, float] | None = None,
    correlation_label: str = "Spearman ρ",
    band_label: str = "95% interval",
) -> go.Figure:
    """How readable a concept is at each layer, beside how far steering there moves the model.

    Left, one panel for each over the layers, never a shared axis with two scales; right, one
    against the other, a point for each layer.

    Args:
        probe: (mean, low, high), each of shape (layer,); or the mean alone.
        steering: The same, for steering.
        correlation: (value, low, high) of the rank correlation over layers.

    Raises:
        ValueError: If shapes disagree, a value is infinite, or an interval is upside down.
    """
    rows, order = _ordered("layers", layers)
    x = np.asarray(rows, dtype=float)
    axes = f"{len(rows)} layers"
    both = _bands("", {"probe": probe, "steering": steering}, order, axes)
    read, steer = both["probe"], both["steering"]
    figure = make_subplots(
        rows=2,
        cols=2,
        specs=[[{}, {"rowspan": 2}], [{}, None]],
        column_widths=[0.47, 0.53],
        horizontal_spacing=0.14,
        vertical_spacing=0.07,
    )
    hover = [f"layer {layer}" for layer in rows]
    for row, (name, band, unit, colour) in enumerate(
        (
            (probe_quantity, read, probe_unit, PALETTE[0]),
            (steering_quantity, steer, steering_unit, PALETTE[1]),
        ),
        start=1,
    ):
        _line(figure, name, x, band, hover, unit, colour, "circle", row=row, col=1, listed=False)
    seen = np.flatnonzero(~np.isnan(read[0]) & ~np.isnan(steer[0])).tolist()
    px, py = read[0][seen], steer[0][seen]
    here = [rows[i] for i in seen]
    places = _label_places(px, py)
    figure.add_scatter(
        x=px.tolist(),
        y=py.tolist(),
        mode="markers+text",
        marker={
            "size": 9 if len(seen) <= 24 else 7,
            "color": here,
            "colorscale": SEQUENTIAL,
            "cmin": rows[0],
            "cmax": max(rows[-1], rows[0] + 1),
            "line": {"width": 0.7, "color": "white"},
            "colorbar": _layer_bar(rows),
        },
        error_x=_whiskers(_rows(read, seen), "rgba(90,90,90,0.35)"),
        error_y=_whiskers(_rows(steer, seen), "rgba(90,90,90,0.35)"),
        text=[str(layer) if place else "" for layer, place in zip(here, places, strict=True)],
        textposition=[place or "middle center" for place in places],
        textfont={"size": 11, "color": INK},
        hovertext=[
            f"layer {rows[i]}"
            f"<br>{_measured(float(read[0][i]), probe_unit, _ends(read, i), probe_quantity)}"
            "<br>"
            + _measured(float(steer[0][i]), steering_unit, _ends(steer, i), steering_quantity)
            for i in seen
        ],
        hoverinfo="text",
        showlegend=False,
        name="layers",
        row=1,
        col=2,
    )
    notes = []
    if correlation is not None:
        value, least, most = correlation
        notes.append(
            f"{correlation_label} over {len(seen)} layers: {_number(value)} "
            f"[{_number(least)}, {_number(most)}]"
        )
    if any(not np.isnan(band[1]).all() for band in both.values()):
        notes.append(f"shaded and whiskers: {band_label}")
    _house(figure, title=title, note="; ".join(notes), legend=[], height=460, right=90)
    figure.update_xaxes(range=_padded(x), **_layer_ticks(rows, most=9), col=1)
    figure.update_xaxes(showticklabels=False, row=1, col=1)
    figure.update_xaxes(title_text="layer", row=2, col=1)
    probe_title, steering_title = (
        _axis(probe_quantity, probe_unit),
        _axis(steering_quantity, steering_unit),
    )
    figure.update_yaxes(title_text=_broken(probe_title, 24), nticks=6, row=1, col=1)
    figure.update_yaxes(title_text=_broken(steering_title, 24), nticks=6, row=2, col=1)
    figure.update_xaxes(title_text=probe_title, nticks=6, row=1, col=2)
    figure.update_yaxes(title_text=steering_title, row=1, col=2)
    return figure


def token_heat(
    tokens: Sequence[str], values: ArrayLike, *, title: str, unit: str, limit: float | None = None
) -> go.Figure:
    """A text, token by token, each on the colour of its value; long texts run over lines.

    Spaces are drawn as "·" and line ends as "⏎", so that every token can be seen.

    Args:
        tokens: The pieces of the text, in order.
        values: Shape (token,), signed; NaN is drawn grey, as "not measured".
        limit: Colour range is [-limit, limit]; pass the same one to compare two texts.

    Raises:
        ValueError: If there are no tokens, a value is infinite, or the counts differ.
    """
    if not tokens:
        raise ValueError("tokens is empty, so there is nothing to draw. Pass at least one token.")
    heat = _array("values", values, (len(tokens),), f"{len(tokens)} tokens")
    top, clipped = _limit(heat, limit)
    shown = [t.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥") or "∅" for t in tokens]
    line_length = 66
    starts, lines, at, line = [], [], 0, 0
    for text in shown:
        if at and at + len(text) + 1 > line_length:
            at, line = 0, line + 1
        starts.append(at)
        lines.append(line)
        at += len(text) + 1
    figure = go.Figure()
    legend: list[str] = []
    for name, chosen in (("values", ~np.isnan(heat)), ("not measured", np.isnan(heat))):
        index: list[int] = np.flatnonzero(chosen).tolist()
        if not index:
            continue
        measured = name == "values"
        colour = (
            {
                "color": heat[index].tolist(),
                "colorscale": DIVERGING,
                "cmin": -top,
                "cmax": top,
                "colorbar": _colorbar(
                    _broken(unit, 15)
                    + (f"<br>clipped at<br>±{_number(top, 3)}" if clipped else ""),
                    top,
                    clipped,
                    few=True,
                ),
            }
            if measured
            else {"color": MISSING}
        )
        figure.add_bar(
            orientation="h",
            x=[len(shown[i]) + 0.9 for i in index],
            base=[starts[i] for i in index],
            y=[lines[i] for i in index],
            width=0.78,
            marker={**colour, "line": {"width": 0.5, "color": "#cfcfcf"}},
            text=[html.escape(shown[i], quote=False) for i in index],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            constraintext="none",
            insidetextfont={"family": MONO, "size": 12},
            hovertext=[
                f"token {i}: {html.escape(repr(tokens[i]), quote=False)}"
                f"<br>{_measured(float(heat[i]), unit)}"
                for i in index
            ],
            hoverinfo="text",
            showlegend=False,
            name=name,
        )
        if not measured:
            _key(figure, legend, name, symbol="square", size=11, color=MISSING)
    count = lines[-1] + 1
    _house(figure, title=title, legend=legend, height=150 + 30 * max(count, 3), left=14, right=112)
    figure.update_layout(barmode="overlay")
    width = line_length + 1 if count > 1 else max(at + 1, 30)
    figure.update_xaxes(visible=False, range=[-0.3, width])
    # A text of one or two lines keeps the height of its boxes instead of filling the panel.
    figure.update_yaxes(visible=False, range=[max(count, 3) - 0.5, -0.5])
    return figure


def to_html_div(figure: go.Figure, *, first: bool, div_id: str | None = None) -> str:
    """The figure as a `<div>` for a page that opens offline.

    Args:
        first: Put plotly.js itself (about 4.5 MB) before the figure; True for the first figure of
            a page and False for the others, which use it.
        div_id: A fixed id makes the same figure give the same text; random by default.
    """
    return figure.to_html(
        full_html=False,
        include_plotlyjs=first,
        include_mathjax=False,
        default_width="100%",
        default_height=f"{figure['layout']['height'] or 450}px",
        config={
            "displaylogo": False,
            "showSendToCloud": False,
            "responsive": True,
            "toImageButtonOptions": {"scale": 3},
        },
        div_id=div_id,
    )


# The heatmap -------------------------------------------------------------------------------------


def _heatmap(
    values: ArrayLike,
    *,
    layers: Iterable[SupportsIndex],
    columns: Iterable[SupportsFloat] | Iterable[str],
    unit: str,
    title: str,
    column_title: str,
    quantity: str | None,
    best: tuple[SupportsIndex, SupportsFloat | str] | None,
    below_null: ArrayLike | None,
    over_budget: ArrayLike | None,
    hover: Sequence[Sequence[str]] | None,
    low: ArrayLike | None,
    high: ArrayLike | None,
    limit: float | None,
    null_label: str,
    budget_label: str,
    room: float,
    right: int,
    above: int = 0,
    below: int = 0,
) -> go.Figure:
    """`layer_heatmap` with the columns sharing `room` pixels, and space left around the panel."""
    rows, row_order = _ordered("layers", layers)
    names, column_order = _ordered("columns", columns)
    shape = (len(rows), len(names))
    pick = np.ix_(row_order, column_order)
    axes = f"{shape[0]} layers x {shape[1]} columns"
    grid = _array("values", values, shape, axes)[pick]
    lower, upper = (ends[pick] for ends in _interval(low, high, shape, axes))
    null = _mask("below_null", below_null, shape, axes)[pick]
    costly = _mask("over_budget", over_budget, shape, axes)[pick]
    labels = _column_labels(names)
    star = None if best is None else _locate(best, rows, names)
    top, clipped = _limit(grid, limit)
    cells = _written(grid, top)
    longest = max(len(text) for row in cells for text in row)
    written = shape[0] <= 14 and shape[1] * (6.4 * longest + 6) <= room
    tall = 300 / shape[0] * shape[1] / room  # height of a cell over its width

    notes = _strings("hover", hover, shape, axes)[pick]
    texts = np.empty(shape, dtype=object)
    for cell in np.ndindex(shape):
        r, c = cell
        lines = [f"layer {rows[r]}, {column_title} {labels[c]}"]
        ends = float(lower[cell]), float(upper[cell])
        lines.append(_measured(float(grid[cell]), unit, ends, quantity))
        lines += [null_label] * bool(null[cell]) + [budget_label] * bool(costly[cell])
        lines += ["best cell"] * (star == cell) + [notes[cell]] * bool(notes[cell])
        texts[cell] = "<br>".join(lines)

    what = _axis(quantity, unit)
    bound = f"<br>clipped at<br>±{_number(top, 3)}" if clipped else ""
    figure = go.Figure()
    figure.add_heatmap(
        z=_holes(grid),
        zmin=-top,
        zmax=top,
        colorscale=DIVERGING,
        xgap=1,
        ygap=1,
        hovertext=texts,
        hoverinfo="text",
        colorbar=_colorbar(_broken(what, 15) + bound, top, clipped),
        name="values",
    )
    legend: list[str] = []
    missing = np.isnan(grid)
    if missing.any():
        figure.add_heatmap(
            z=_holes(np.where(missing, 1.0, np.nan)),
            colorscale=((0, MISSING), (1, MISSING)),
            showscale=False,
            xgap=1,
            ygap=1,
            hovertext=texts,
            hoverinfo="text",
            name="not measured",
        )
        _key(figure, legend, "not measured", symbol="square", size=11, color=MISSING)
    if null.any():
        xs, ys = _stipple(null & ~missing, written, tall)
        figure.add_scatter(
            x=xs,
            y=ys,
            mode="markers",
            marker={"size": 3, "color": INK, "opacity": 0.55},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=null_label,
            name=null_label,
        )
        _key(figure, legend, null_label, symbol="circle", size=4, color=QUIET)
    if costly.any():
        xs, ys = _hatch(costly & ~missing, written, tall)
        # A white halo keeps the dark strokes visible on the darkest cells, where cost is highest.
        for width, colour in ((3.0, "rgba(255,255,255,0.75)"), (1.2, INK)):
            figure.add_scatter(
                x=xs,
                y=ys,
                mode="lines",
                line={"width": width, "color": colour},
                hoverinfo="skip",
                showlegend=False,
                legendgroup=budget_label,
                name=budget_label,
            )
        _key(figure, legend, budget_label, symbol="line-ne-open", size=9, color=INK)
    if written:
        where = [cell for cell in np.ndindex(shape) if not missing[cell]]
        dark = [abs(grid[cell]) > 0.66 * top for cell in where]
        figure.add_scatter(
            x=[c for _, c in where],
            y=[r for r, _ in where],
            mode="text",
            text=[cells[r][c] for r, c in where],
            textfont={"size": 11, "color": ["white" if d else INK for d in dark]},
            hoverinfo="skip",
            showlegend=False,
            name="written values",
        )
    if star is not None:
        r, c = star
        name = f"best: layer {rows[r]}, {column_title} {labels[c]}"
        for width, colour in ((5.0, "white"), (2.5, "black")):
            figure.add_scatter(
                x=[c - 0.5, c + 0.5, c + 0.5, c - 0.5, c - 0.5],
                y=[r - 0.5, r - 0.5, r + 0.5, r + 0.5, r - 0.5],
                mode="lines",
                line={"width": width, "color": colour},
                cliponaxis=False,
                hoverinfo="skip",
                showlegend=False,
                legendgroup="best",
                name="best cell",
            )
        if not written:
            figure.add_scatter(
                x=[c],
                y=[r],
                mode="markers",
                marker={"symbol": "star", "size": 10, "color": "black"}
                | {"line": {"width": 1, "color": "white"}},
                cliponaxis=False,
                hoverinfo="skip",
                showlegend=False,
                legendgroup="best",
                name="best cell",
            )
        mark = "square-open" if written else "star"
        _key(figure, legend, name, symbol=mark, size=10, color="black", group="best")

    shown = _thin([len(label) for label in labels], room, _zero_index(names))
    slanted = isinstance(names[0], str) and len(shown) < len(labels)
    if slanted:  # a number can be read off its neighbours, a name cannot
        shown = list(range(len(labels)))
        below = max(below, int(4.2 * max(len(label) for label in labels)))
    height = max(450, 150 + 11 * shape[0]) + above + below
    _house(figure, title=title, legend=legend, height=height, right=right, head=above, foot=below)
    figure.update_xaxes(
        title_text=column_title,
        tickvals=shown,
        ticktext=[labels[i] for i in shown],
        tickangle=-40 if slanted else 0,
        range=[-0.5, shape[1] - 0.5],
        showgrid=False,
        zeroline=False,
        showline=False,
        ticks="",
    )
    shown = _thin([1] * shape[0], 16 * 16, 0, pixels=16)
    figure.update_yaxes(
        title_text="layer",
        tickvals=shown,
        ticktext=[str(rows[i]) for i in shown],
        range=[-0.5, shape[0] - 0.5],
        showgrid=False,
        zeroline=False,
        showline=False,
        ticks="",
    )
    return figure


# The house look -----------------------------------------------------------------------------------


def _house(
    figure: go.Figure,
    *,
    title: str,
    legend: Sequence[str],
    note: str = "",
    height: int = 450,
    left: int = 68,
    right: int = 30,
    head: int = 0,
    foot: int = 0,
) -> None:
    """Writes the house layout into the figure, with room for its title, note and legend."""
    lines = _broken(title, 76).split("<br>")
    text = "<b>" + "</b><br><b>".join(lines) + "</b>"
    notes = _broken(note, 100).split("<br>") if note else []
    text += "".join(f"<br><span style='font-size:12px;color:{QUIET}'>{n}</span>" for n in notes)
    rows = _legend_rows(legend, WIDTH - left - right)
    figure.update_layout(
        template="none",
        title={
            "text": text,
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            # plotly lifts a title of several lines by most of a line.
            "pad": {"l": 14, "t": 14 + 12 * (len(lines) + len(notes) > 1)},
            "font": {"size": 15, "color": INK},
        },
        font={"family": FONT, "size": 12, "color": INK},
        height=height,
        paper_bgcolor="white",
        plot_bgcolor="white",
        colorway=PALETTE,
        hovermode="closest",
        hoverlabel={
            "bgcolor": "white",
            "bordercolor": QUIET,
            "font": {"family": FONT, "size": 12, "color": INK},
            "align": "left",
        },
        margin={
            "l": left,
            "r": right,
            "t": 26 + 20 * len(lines) + 18 * len(notes) + head,
            "b": foot + 52 + (8 + 20 * rows if rows else 0),
            # Room is counted here; plotly's own guesses move titles and shrink the panel.
            "autoexpand": False,
        },
        modebar={"remove": list(IDLE_BUTTONS), "bgcolor": "rgba(255,255,255,0)"},
        showlegend=bool(legend),
        legend={
            "orientation": "h",
            "xref": "container",
            "x": 0.5,
            "xanchor": "center",
            "yref": "container",
            "y": 0.01,
            "yanchor": "bottom",
            "font": {"size": 12},
            "bgcolor": "rgba(255,255,255,0)",
            "itemsizing": "trace",
            "traceorder": "normal",
        },
    )
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(
            showgrid=True,
            gridcolor=RULE,
            gridwidth=1,
            zeroline=False,
            showline=True,
            linecolor=QUIET,
            linewidth=1,
            ticks="outside",
            ticklen=4,
            tickcolor=QUIET,
            tickfont={"size": 12},
            title_font={"size": 13},
            title_standoff=8,
            automargin=False,
        )


def _legend_rows(names: Sequence[str], room: float) -> int:
    """Rows a horizontal legend takes at the narrowest width; plotly aligns wrapped columns."""
    if not names:
        return 0
    widths = [48 + 6.4 * len(name) for name in names]
    if sum(widths) <= room:
        return 1
    return math.ceil(len(names) / max(1, int(room // max(widths))))


def _key(
    figure: go.Figure,
    legend: list[str],
    name: str,
    *,
    symbol: str,
    size: float,
    color: str,
    group: str | None = None,
) -> None:
    """A legend entry without a point, for a mark that is drawn cell by cell."""
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        marker={"symbol": symbol, "size": size, "color": color, "line": {"width": 2}}
        if symbol.endswith("open")
        else {"symbol": symbol, "size": size, "color": color},
        hoverinfo="skip",
        legendgroup=group or name,
        showlegend=True,
        name=name,
    )
    legend.append(name)


def _colorbar(title: str, top: float, clipped: bool, *, few: bool = False) -> dict[str, Any]:
    power = 10.0 ** math.floor(math.log10(top))
    step = top if few else next(m * power for m in (5, 2, 1, 0.5, 0.2) if 2 * m * power <= top)
    ticks = [i * step for i in range(-int(top / step + 1e-9), int(top / step + 1e-9) + 1)]
    texts = [_number(t, 3) for t in ticks]
    if clipped:
        ends = [f"≤ {_number(-top, 3)}", f"≥ {_number(top, 3)}"]
        inner = [(t, text) for t, text in zip(ticks, texts, strict=True) if abs(t) < 0.85 * top]
        ticks = [-top, *(t for t, _ in inner), top]
        texts = [ends[0], *(text for _, text in inner), ends[1]]
    return {
        "title": {"text": title, "side": "top", "font": {"size": 12}},
        "tickvals": ticks,
        "ticktext": texts,
        "thickness": 12,
        "len": 1.0,
        "x": 1.02,
        "outlinewidth": 0,
        "tickfont": {"size": 11},
        "ticks": "outside",
        "ticklen": 3,
    }


def _layer_bar(layers: Sequence[int]) -> dict[str, Any]:
    return {
        "title": {"text": "layer", "side": "top", "font": {"size": 12}},
        "thickness": 12,
        "len": 1.0,
        "x": 1.02,
        "outlinewidth": 0,
        "tickfont": {"size": 11},
        "ticks": "outside",
        "ticklen": 3,
        **_layer_ticks(layers),
    }


# Marks --------------------------------------------------------------------------------------------


def _stipple(
    mask: NDArray[np.bool_], written: bool, tall: float
) -> tuple[list[float], list[float]]:
    """Dots in the corners of the marked cells, clear of a written number; else along the middle."""
    if written:
        spots = [(dx, dy) for dx in (-0.4, 0.4) for dy in (-0.32, 0.32)]
    else:
        count = max(1, min(4, round(0.5 / tall)))
        spots = [((i + 0.5) / count - 0.5, 0.0) for i in range(count)]
    cells = np.argwhere(mask)
    return (
        [float(c + dx) for _, c in cells for dx, _ in spots],
        [float(r + dy) for r, _ in cells for _, dy in spots],
    )


def _hatch(mask: NDArray[np.bool_], written: bool, tall: float) -> tuple[list[Any], list[Any]]:
    """Strokes near 45 degrees over the marked cells; only across corners beside a number."""
    if written:
        wide = min(1.0, tall)  # of a stroke, so that long cells do not get flat ones
        strokes = []
        for reach in (0.4, 0.18):
            strokes.append((-0.5, 0.5 - reach, -0.5 + reach * wide, 0.5))
            strokes.append((0.5 - reach * wide, -0.5, 0.5, -0.5 + reach))
    else:
        count = max(1, min(6, round(0.6 / tall)))
        edges = [i / count - 0.5 for i in range(count + 1)]
        strokes = [(x0, -0.5, x1, 0.5) for x0, x1 in zip(edges, edges[1:], strict=False)]
    xs: list[Any] = []
    ys: list[Any] = []
    for r, c in np.argwhere(mask).tolist():
        for x0, y0, x1, y1 in strokes:
            xs += [c + x0, c + x1, None]
            ys += [r + y0, r + y1, None]
    return xs, ys


def _line(
    figure: go.Figure,
    name: str,
    x: Array,
    band: Band,
    hover: Sequence[str],
    unit: str,
    colour: str,
    symbol: str,
    *,
    dash: str = "solid",
    row: int | None = None,
    col: int | None = None,
    listed: bool = True,
    quantity: str | None = None,
) -> None:
    """A line with markers and, where it has an interval, a shaded band behind it."""
    mean, low, high = band
    place = {} if row is None else _at(row, col or 1)
    label = html.escape(name, quote=False)
    xs, ys = _polygons(x, low, high)
    if xs:
        figure.add_scatter(
            x=xs,
            y=ys,
            fill="toself",
            mode="lines",
            line={"width": 0},
            fillcolor=_faded(colour, 0.16),
            hoverinfo="skip",
            showlegend=False,
            legendgroup=name,
            name=f"{label} interval",
            **place,
        )
    figure.add_scatter(
        x=x.tolist(),
        y=_holes(mean),
        mode="lines+markers",
        line={"color": colour, "width": 2, "dash": dash},
        marker={"symbol": symbol, "size": 7 if len(x) <= 24 else 5, "color": colour},
        connectgaps=False,
        hovertext=[
            f"{label}<br>{where}<br>{_measured(mean[i], unit, _ends(band, i), quantity)}"
            for i, where in enumerate(hover)
        ],
        hoverinfo="text",
        showlegend=listed,
        legendgroup=name,
        name=label,
        **place,
    )


def _at(row: int, col: int = 1) -> dict[str, Any]:
    return {"row": row, "col": col}


def _rule(
    figure: go.Figure, x: Sequence[float], y: Sequence[float], name: str, *, row: int | None = None
) -> None:
    place = {} if row is None else _at(row)
    figure.add_scatter(
        x=list(x),
        y=list(y),
        mode="lines",
        line={"color": INK, "width": 1.3, "dash": "dash"},
        hoverinfo="name",
        name=name,
        **place,
    )


def _polygons(x: Array, low: Array, high: Array) -> tuple[list[Any], list[Any]]:
    """The outline of the band, one polygon for each unbroken run of measured points."""
    fine = ~(np.isnan(low) | np.isnan(high))
    step = float(np.diff(x).min()) if len(x) > 1 else 1.0
    xs: list[Any] = []
    ys: list[Any] = []
    for run in np.split(np.arange(len(x)), np.flatnonzero(np.diff(fine)) + 1):
        if not fine[run[0]]:
            continue
        at, lo, hi = x[run].tolist(), low[run].tolist(), high[run].tolist()
        if len(run) == 1:  # a lone point has no width of its own
            at = [at[0] - 0.15 * step, at[0] + 0.15 * step]
            lo, hi = lo * 2, hi * 2
        gap = [None] if xs else []
        xs += [*gap, *at, *at[::-1], at[0]]
        ys += [*gap, *hi, *lo[::-1], hi[0]]
    return xs, ys


def _whiskers(band: Band, colour: str, width: float = 0) -> dict[str, Any] | None:
    mean, low, high = band
    if np.isnan(low).all():
        return None
    ends = {"array": _holes(high - mean), "arrayminus": _holes(mean - low)}
    return {
        "type": "data",
        "symmetric": False,
        "color": colour,
        "thickness": 1.2,
        "width": width,
    } | ends


def _box(values: Array) -> dict[str, float]:
    q1, median, q3 = np.quantile(values, [0.25, 0.5, 0.75])
    reach = 1.5 * (q3 - q1)
    inside = values[(values >= q1 - reach) & (values <= q3 + reach)]
    return {
        "q1": float(q1),
        "median": float(median),
        "q3": float(q3),
        "lowerfence": float(inside.min()),
        "upperfence": float(inside.max()),
    }


def _spread(index: NDArray[np.intp]) -> Array:
    """Even, repeatable places in [0, 1): the golden-ratio sequence, so no seed is needed."""
    return np.asarray((0.5 + index * 0.6180339887498949) % 1.0, dtype=float)


def _frontier(cost: Array, gain: Array) -> tuple[list[float], list[float]]:
    """Cells that no other cell beats on both cost and gain, by increasing cost."""
    xs: list[float] = []
    ys: list[float] = []
    for i in np.lexsort((-gain, cost)):
        if not ys or gain[i] > ys[-1]:
            xs.append(float(cost[i]))
            ys.append(float(gain[i]))
    return xs, ys


def _label_places(x: Array, y: Array) -> list[str | None]:
    """Where each point's label goes without touching a point or a label; None where it cannot."""
    if not len(x):
        return []
    scale = [max(float(np.ptp(v)), 1e-12) for v in (x, y)]
    px, py = 250 * (x - x.min()) / scale[0], 290 * (y - y.min()) / scale[1]
    boxes = [(a - 5, b - 5, a + 5, b + 5) for a, b in zip(px, py, strict=True)]
    sides = {
        "top center": (0, 13), "middle right": (14, 0), "bottom center": (0, -13),
        "middle left": (-14, 0), "top right": (12, 9), "bottom right": (12, -9),
        "top left": (-12, 9), "bottom left": (-12, -9),
    }  # fmt: skip
    places: list[str | None] = [None] * len(x)
    # The ends of both scales are what a reader looks up first, so they are labelled first.
    far = np.abs(px - np.median(px)) / 250 + np.abs(py - np.median(py)) / 290
    for i in np.argsort(-far).tolist():
        for side, (dx, dy) in sides.items():
            a, b = px[i] + dx, py[i] + dy
            box = (a - 8, b - 7, a + 8, b + 7)
            others = boxes[:i] + boxes[i + 1 :]
            if not any(
                box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in others
            ):
                places[i] = side
                boxes.append(box)
                break
    return places


def _colours(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and symbol of each series; more series than the palette has run along viridis."""
    if len(names) <= len(PALETTE):
        return {n: (PALETTE[i], SYMBOLS[i]) for i, n in enumerate(names)}
    scale = sample_colorscale(list(SEQUENTIAL), [i / (len(names) - 1) for i in range(len(names))])
    return {n: (str(scale[i]), SYMBOLS[i % len(SYMBOLS)]) for i, n in enumerate(names)}


def _faded(colour: str, opacity: float) -> str:
    if colour.startswith("rgb("):
        return f"rgba({colour[4:-1]}, {opacity})"
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r}, {g}, {b}, {opacity})"


# Scales and ticks ---------------------------------------------------------------------------------


def _limit(values: Array, limit: float | None) -> tuple[float, bool]:
    """Half the symmetric colour range, and whether a value lies beyond it.

    Only isolated cells are clipped (one, and one more for each 300 cells), and only when they are
    more than three times beyond all others: a single live layer must not be taken for an outlier.
    """
    sizes = np.sort(np.abs(values[~np.isnan(values)]))
    largest = float(sizes[-1]) if sizes.size else 0.0
    if limit is not None:
        if not (math.isfinite(limit) and limit > 0):
            raise ValueError(f"limit={limit} is no colour range. Pass a number above zero.")
        return float(limit), largest > limit
    apart = 1 + sizes.size // 300
    if sizes.size >= 6:
        rest = float(sizes[-1 - apart])
        if 0 < 3 * rest < largest:
            return rest, True
    return largest or 1.0, False


def _thin(lengths: Sequence[int], room: float, anchor: int, pixels: float = 0.0) -> list[int]:
    """Indices of the tick labels that fit in `room` pixels, evenly spaced through `anchor`."""
    each = pixels or 6.2 * max(lengths) + 9
    step = max(1, math.ceil(len(lengths) * each / room))
    if step > 2 and pixels:  # layers read best in round steps
        step = next(s for s in (4, 5, 10, 20, 25, 50, 100, 1000) if s >= step)
    return [i for i in range(len(lengths)) if (i - anchor) % step == 0]


def _layer_ticks(layers: Sequence[int], most: int = 17) -> dict[str, Any]:
    step = next(s for s in (1, 2, 4, 5, 10, 20, 25, 50, 100, 1000) if len(layers) / s <= most)
    shown = list(layers)[::step]
    return {"tickvals": shown, "ticktext": [str(layer) for layer in shown]}


def _column_labels(names: Sequence[float | str]) -> list[str]:
    numbers = [n for n in names if not isinstance(n, str)]
    digits = next((d for d in (3, 5) if len({_number(n, d) for n in numbers}) == len(numbers)), 9)
    return [
        html.escape(n, quote=False) if isinstance(n, str) else _number(n, digits) for n in names
    ]


def _zero_index(names: Sequence[float | str]) -> int:
    return next((i for i, n in enumerate(names) if not isinstance(n, str) and n == 0), 0)


def _padded(x: Array) -> list[float]:
    pad = 0.03 * float(np.ptp(x)) or 0.5
    return [float(x[0]) - pad, float(x[-1]) + pad]


def _span(values: Iterable[float]) -> list[float]:
    finite = [float(v) for v in values if math.isfinite(v)]
    low, high = min(finite), max(finite)
    pad = 0.05 * (high - low) or 0.5
    return [low - pad, high + pad]


# Words --------------------------------------------------------------------------------------------


def _number(value: float, digits: int = 4) -> str:
    """Short and exact enough to read: 4 digits, a true minus sign."""
    return f"{float(value) + 0.0:.{digits}g}".replace("-", "−")


def _measured(
    value: float,
    unit: str,
    interval: tuple[float, float] | None = None,
    quantity: str | None = None,
) -> str:
    lead = f"{quantity} " if quantity else ""
    if math.isnan(value):
        return f"{lead}not measured"
    text = f"{lead}{_number(value)}"
    if interval is not None and not any(math.isnan(end) for end in interval):
        text += f" [{_number(interval[0])}, {_number(interval[1])}]"
    return f"{text} {unit}"


def _written(grid: Array, top: float) -> list[list[str]]:
    """Cell texts with as many decimals as the range needs, the same for every cell."""
    places = max(0, min(4, 2 - math.floor(math.log10(top))))

    def text(value: float) -> str:
        if math.isnan(value):
            return ""
        return f"{round(value, places) + 0.0:.{places}f}".replace("-", "−")

    return [[text(v) for v in row] for row in grid.tolist()]


def _axis(quantity: str | None, unit: str) -> str:
    return f"{quantity} ({unit})" if quantity else unit


def _broken(text: str, width: int) -> str:
    return "<br>".join(
        line for part in text.split("<br>") for line in textwrap.wrap(part, width) or [""]
    )


def _holes(values: Array) -> list[Any]:
    """Nested lists with None for NaN: JSON has no NaN, and None is what plotly leaves empty."""
    cells = values.astype(object)
    cells[np.isnan(values)] = None
    return cells.tolist()


# Checks at the door -------------------------------------------------------------------------------


def _array(
    name: str, values: Any, shape: tuple[int | None, ...] | None = None, axes: str = ""
) -> Array:
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is not an array of numbers ({error}). Pass nested lists of equal length or an "
            "array, with NaN for what was not measured."
        ) from error
    if shape is not None and (
        array.ndim != len(shape)
        or any(
            want is not None and want != got for want, got in zip(shape, array.shape, strict=True)
        )
    ):
        raise ValueError(
            f"{name} has shape {array.shape}, which does not fit {axes}. "
            f"Pass shape {tuple('any' if s is None else s for s in shape)}."
        )
    if array.size == 0:
        raise ValueError(f"{name} is empty (shape {array.shape}), so there is nothing to draw.")
    if np.isinf(array).any():
        where = tuple(int(i) for i in np.argwhere(np.isinf(array))[0])
        raise ValueError(
            f"{name} is infinite at {where}, and no scale shows that. "
            "Use NaN for a cell without a number."
        )
    return array


def _mask(name: str, mask: Any, shape: tuple[int, ...], axes: str) -> NDArray[np.bool_]:
    if mask is None:
        return np.zeros(shape, dtype=bool)
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        raise ValueError(
            f"{name} holds {array.dtype}, not booleans. Compare first, e.g. `values < threshold`."
        )
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, which does not fit {axes}: {shape}.")
    return array


def _strings(name: str, texts: Any, shape: tuple[int, ...], axes: str) -> NDArray[Any]:
    if texts is None:
        return np.full(shape, "", dtype=object)
    array = np.asarray(texts, dtype=object)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, which does not fit {axes}: {shape}.")
    return array


def _interval(
    low: Any,
    high: Any,
    shape: tuple[int, ...],
    axes: str,
    low_name: str = "low",
    high_name: str = "high",
) -> tuple[Array, Array]:
    if low is None and high is None:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    if low is None or high is None:
        raise ValueError(f"An interval has two ends: pass {low_name} and {high_name} together.")
    lower, upper = _array(low_name, low, shape, axes), _array(high_name, high, shape, axes)
    _check_ends(low_name, lower, high_name, upper)
    return lower, upper


def _check_ends(low_name: str, low: Array, high_name: str, high: Array) -> None:
    if (low > high).any():
        where = tuple(int(i) for i in np.argwhere(low > high)[0])
        raise ValueError(
            f"{low_name} is {low[where]} and {high_name} is {high[where]} at {where}: the interval "
            "is upside down. Pass (mean, low, high) in this order."
        )


def _bands(
    name: str, series: Mapping[str, Any], order: NDArray[np.intp], axes: str
) -> dict[str, Band]:
    """Each series as (mean, low, high), in drawing order; the ends are NaN where none came."""
    if not series:
        raise ValueError(f"{name} is empty, so there is nothing to draw. Pass at least one.")
    shape = (len(order),)
    bands = {}
    for key, value in series.items():
        label = f"{name}[{key!r}]" if name else key
        if isinstance(value, tuple) and len(value) == 3 and np.ndim(value[0]) == 1:
            mean, low, high = (
                _array(f"{label} {part}", numbers, shape, axes)[order]
                for part, numbers in zip(("mean", "low", "high"), value, strict=True)
            )
            _check_ends(f"{label} low", low, f"{label} high", high)
        else:
            mean = _array(label, value, shape, axes)[order]
            low = high = np.full(shape, np.nan)
        bands[str(key)] = (mean, low, high)
    return bands


def _rows(band: Band, index: list[int]) -> Band:
    return band[0][index], band[1][index], band[2][index]


def _ends(band: Band, i: int) -> tuple[float, float]:
    return float(band[1][i]), float(band[2][i])


def _ordered(name: str, labels: Iterable[Any]) -> tuple[list[Any], NDArray[np.intp]]:
    """The labels in drawing order (numbers increasing, names as they come) and that order."""
    plain = [label.item() if hasattr(label, "item") else label for label in labels]
    if not plain:
        raise ValueError(f"{name} is empty, so there is nothing to draw. Pass at least one.")
    if len(set(plain)) != len(plain):
        raise ValueError(f"{name}={plain} holds a value twice. Each needs its own place.")
    if any(isinstance(label, str) for label in plain):
        return [str(label) for label in plain], np.arange(len(plain))
    if not np.isfinite(np.asarray(plain, dtype=float)).all():
        raise ValueError(f"{name}={plain} holds a value that is not finite.")
    order = np.argsort(np.asarray(plain, dtype=float), kind="stable")
    return [plain[i] for i in order], order


def _locate(
    best: tuple[SupportsIndex, SupportsFloat | str],
    rows: Sequence[int],
    names: Sequence[float | str],
) -> tuple[int, int]:
    """Row and column of a cell given by its layer and column value."""
    layer, column = best
    found = [
        i
        for i, name in enumerate(names)
        if name == column
        or not (isinstance(name, str) or isinstance(column, str))
        and math.isclose(name, column, rel_tol=1e-6, abs_tol=1e-9)
    ]
    if layer not in rows or not found:
        raise ValueError(
            f"best={best} is not a cell: layers are {list(rows)} and columns {list(names)}. "
            "Pass (layer, column) by their values, not by index."
        )
    return list(rows).index(int(layer)), found[0]
