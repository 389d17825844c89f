"""Preference and utility over the multiplier with fitted curves, and one against the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsFloat

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from steerlens.plots.arrays import Array, array, bands, ordered
from steerlens.plots.look import INK, QUIET, house, span
from steerlens.plots.marks import key, line, series_looks
from steerlens.plots.words import axis_title, number, safe

HOLDS = "rgba(0,158,115,0.13)"


def validity_curves(
    points: Mapping[str, Any],
    *,
    multipliers: Iterable[SupportsFloat],
    along: Iterable[SupportsFloat],
    curves: Mapping[str, Any],
    residuals: Mapping[str, Any],
    unit: str,
    title: str,
    r2: Mapping[str, float] | None = None,
    valid: Sequence[tuple[float, float]] = (),
    valid_label: str = "valid",
    note: str = "",
    multiplier_unit: str = "",
) -> go.Figure:
    """Quantities over the multiplier with their fitted curves, a panel each; residuals below.

    Args:
        points: Name (e.g. "utility") -> (mean, low, high), each of shape (multiplier,); or the mean
            alone.
        along: Multipliers at which the curves are given, enough of them to look smooth.
        curves: The same names -> shape (along,).
        residuals: The same names -> measured minus fitted, shape (multiplier,).
        r2: The same names -> share of the variance that the curve explains; NaN where undefined.
        valid: Stretches of multipliers to shade.
        valid_label: What the shading means.
        note: A line under the title.

    Raises:
        ValueError: If the mappings have different names.
    """
    strengths, order = ordered("multipliers", multipliers)
    fine, along_order = ordered("along", along)
    x, axes = np.asarray(strengths, dtype=float), f"{len(strengths)} multipliers"
    measured = bands("points", points, order, axes)
    fitted = bands("curves", curves, along_order, f"{len(fine)} multipliers along the curve")
    left_over = bands("residuals", residuals, order, axes)
    shares = dict.fromkeys(measured, np.nan) if r2 is None else r2
    for name, other in (("curves", fitted), ("residuals", left_over), ("r2", shares)):
        if set(other) != set(measured):
            raise ValueError(
                f"{name} is of {list(other)} but points of {list(measured)}. Pass one for each."
            )
    rows, last = [1.0] * len(measured) + [0.55], len(measured) + 1
    figure = make_subplots(
        rows=last, cols=1, shared_xaxes=True, row_heights=rows, vertical_spacing=0.045
    )
    hover = [f"multiplier {number(m)}" for m in strengths]
    for row, (name, look) in enumerate(series_looks(list(measured)).items(), start=1):
        panel: dict[str, Any] = {"row": row, "col": 1}
        line(figure, name, x, measured[name], hover=hover, unit=unit, **look, **panel)
        figure.update_traces(selector=-1, mode="markers")
        share = "" if np.isnan(shares[name]) else f" (R² {shares[name]:.3f})"
        figure.add_scatter(
            x=fine,
            y=fitted[name].mean.tolist(),
            mode="lines",
            line={"color": look["colour"], "width": 2},
            showlegend=True,
            name=f"{safe(name)}, fitted{share}",
            **panel,
        )
        line(
            figure, name, x, left_over[name], hover=hover, unit=unit, quantity="residual",
            listed=False, row=last, col=1, **look,
        )  # fmt: skip
        figure.update_traces(selector=-1, line_width=1)
        figure.update_yaxes(title_text=axis_title(name, unit), nticks=6, **panel)
    for low, high in valid:
        figure.add_vrect(x0=low, x1=high, fillcolor=HOLDS, line_width=0, layer="below")
    if valid:
        key(figure, safe(valid_label), symbol="square", size=11, color=HOLDS)
    figure.add_hline(y=0, line={"color": QUIET, "width": 1}, row=last, col=1)  # pyright: ignore[reportArgumentType]
    figure.add_vline(x=0, line={"color": QUIET, "width": 1, "dash": "dot"}, row="all", col=1)  # pyright: ignore[reportArgumentType]
    figure.add_annotation(
        x=0, y=1, xref="x", yref="paper", yanchor="bottom", text="unsteered", showarrow=False,
        font={"size": 11, "color": QUIET},
    )  # fmt: skip
    shaded = any(band.has_interval for band in measured.values())
    notes = [note] * bool(note) + ["Shaded about the points: 95% interval of the mean"] * shaded
    house(figure, title=title, note=". ".join(notes), height=200 + 190 * len(measured) + 60)
    margin: Any = figure["layout"]["margin"]
    margin.t += 14  # for the word over the panel
    where = f"multiplier ({multiplier_unit})" if multiplier_unit else "multiplier"
    figure.update_xaxes(range=span(x))
    figure.update_xaxes(title_text=where, row=last, col=1)
    figure.update_yaxes(title_text=axis_title("residual", unit), nticks=4, row=last, col=1)
    return figure


def preference_against_utility(
    points: Mapping[str, tuple[Any, Any]],
    *,
    multipliers: Iterable[SupportsFloat],
    unit: str,
    title: str,
    curves: Mapping[str, tuple[Any, Any]] | None = None,
    note: str = "",
) -> go.Figure:
    """Preference against utility at every multiplier, with the efficient frontier over all series.

    A cell is on the frontier if no other has both more preference and more utility. Open points are
    of negative multipliers.

    Args:
        points: Name (e.g. "layer 4") -> (preference, utility), each of shape (multiplier,).
        curves: Some of the same names -> the same two along a fitted curve.

    Raises:
        ValueError: If a curve has no points, or no cell has both numbers.
    """
    strengths, order = ordered("multipliers", multipliers)
    shape, axes = (len(strengths),), f"{len(strengths)} multipliers"
    cells = {
        name: (array(f"preference of {name}", y, shape, axes)[order],
               array(f"utility of {name}", x, shape, axes)[order])
        for name, (y, x) in points.items()
    }  # fmt: skip
    drawn_curves = curves or {}
    if unknown := [name for name in drawn_curves if name not in cells]:
        raise ValueError(
            f"curves has {unknown}, not in points ({list(cells)}). Use names of the points."
        )
    every_y, every_x = (np.concatenate([cell[k] for cell in cells.values()]) for k in (0, 1))
    if np.isnan(every_x + every_y).all():
        raise ValueError("No cell has both a preference and a utility: nothing to draw.")
    figure = go.Figure()
    looks = series_looks(list(cells))
    for name, (y, x) in drawn_curves.items():
        length = (len(np.atleast_1d(y)),)
        figure.add_scatter(
            x=array(f"utility curve of {name}", x, length, "the preference curve").tolist(),
            y=array(f"preference curve of {name}", y, length).tolist(),
            mode="lines",
            line={"color": looks[name]["colour"], "width": 1.6},
            legendgroup=name,
            name=f"{safe(name)}, fitted",
        )
    for name, (y, x) in cells.items():
        seen = np.flatnonzero(~np.isnan(x + y))[::-1]  # the legend takes the first point's symbol
        symbol = looks[name]["symbol"]
        figure.add_scatter(
            x=x[seen].tolist(),
            y=y[seen].tolist(),
            mode="markers",
            marker={
                "color": looks[name]["colour"],
                "size": 7,
                "symbol": [symbol + "-open" * (strengths[i] < 0) for i in seen],
            },
            hovertext=[
                f"{safe(name)}, multiplier {number(strengths[i])}<br>preference "
                f"{number(float(y[i]))} {unit}<br>utility {number(float(x[i]))} {unit}"
                for i in seen
            ],
            showlegend=True,
            legendgroup=name,
            name=safe(name),
        )
    fx, fy = _frontier(every_x, every_y)
    figure.add_scatter(
        x=[*fx, float(np.nanmin(every_x))],
        y=[*fy, fy[-1]],
        mode="lines",
        line={"shape": "hv", "color": INK, "width": 1.4, "dash": "dash"},
        showlegend=True,
        name="efficient frontier",
    )
    _mark_unsteered(figure, strengths, cells)
    lost = int(np.isnan(every_x + every_y).sum())
    lines = [note] * bool(note) + ["Open points: negative multipliers"]
    lines += [f"{lost} of {every_x.size} cells not measured and not drawn"] * bool(lost)
    house(figure, title=title, note=". ".join(lines), height=500)
    figure.update_xaxes(title_text=axis_title("utility", unit), range=span(every_x))
    figure.update_yaxes(title_text=axis_title("preference", unit), range=span(every_y))
    return figure


def _mark_unsteered(
    figure: go.Figure, strengths: Sequence[float], cells: Mapping[str, tuple[Array, Array]]
) -> None:
    """A ring at multiplier 0, which is at the same place for all series of one model."""
    if 0 not in strengths:
        return
    at = strengths.index(0)
    places = {(float(x[at]), float(y[at])) for y, x in cells.values()}
    measured = sorted(place for place in places if not np.isnan(place).any())
    figure.add_scatter(
        x=[x for x, _ in measured],
        y=[y for _, y in measured],
        mode="markers",
        marker={"symbol": "circle-open", "size": 14, "color": INK, "line": {"width": 2}},
        showlegend=True,
        name="unsteered",
    )


def _frontier(utility: Array, preference: Array) -> tuple[list[float], list[float]]:
    """Cells that no other beats on both, by falling utility and rising preference."""
    order = np.lexsort((-preference, -utility))
    order = order[~np.isnan((utility + preference)[order])]
    best = np.maximum.accumulate(preference[order])
    kept = order[np.r_[True, best[1:] > best[:-1]]]
    return utility[kept].tolist(), preference[kept].tolist()
