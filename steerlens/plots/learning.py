"""Losses over the steps of a training, and how near its result comes to what was wanted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsFloat

import numpy as np
import plotly.graph_objects as go

from steerlens.plots.arrays import band, ordered
from steerlens.plots.curves import multiplier_lines
from steerlens.plots.look import INK, PALETTE, QUIET, house, span
from steerlens.plots.marks import line, rule
from steerlens.plots.words import number


def learning_curve(
    losses: Sequence[float],
    *,
    looks: Sequence[int],
    validation: Any = None,
    kept: int | None = None,
    title: str,
    unit: str = "nats",
) -> go.Figure:
    """The loss of every step's batch, and the validation loss with its interval.

    Args:
        losses: Of each step's batch; step 1 is the first.
        looks: The steps after which `validation` was measured; 0 is before any.
        validation: (mean, low, high) with 95% intervals, each of shape (look,); None for none.
        kept: The step whose state is kept: a dotted line.

    Raises:
        ValueError: If there are no losses, or not as many looks as validation losses.
    """
    if not len(losses):
        raise ValueError("There are no losses to draw. Train for at least one step.")
    values = np.asarray(losses, dtype=float)
    steps = np.arange(1, len(values) + 1)
    figure = go.Figure()
    figure.add_scatter(
        x=steps.tolist(),
        y=[v if np.isfinite(v) else None for v in values.tolist()],
        mode="lines",
        line={"color": PALETTE[5], "width": 1},
        opacity=0.55,
        hovertext=[
            f"step {s}<br>batch: {number(v)} {unit}" for s, v in zip(steps, values, strict=True)
        ],
        showlegend=True,
        name="each batch",
    )
    width = max(1, len(values) // 12)
    if width > 1:
        smooth = np.convolve(values, np.full(width, 1 / width), mode="valid")
        figure.add_scatter(
            x=steps[width - 1 :].tolist(),
            y=smooth.tolist(),
            mode="lines",
            line={"color": PALETTE[0], "width": 2},
            hovertext=[
                f"step {s}<br>mean of {width} batches: {number(v)} {unit}"
                for s, v in zip(steps[width - 1 :], smooth, strict=True)
            ],
            showlegend=True,
            name=f"mean of {width} batches",
        )
    note = ""
    if validation is not None:
        at = np.asarray(looks, dtype=float)
        seen = band("validation", validation, np.arange(len(at)), f"{len(at)} looks")
        line(
            figure, "validation", at, seen, hover=[f"step {int(s)}" for s in at], unit=unit,
            colour=PALETTE[1],
        )  # fmt: skip
        note = "Shaded: 95% interval over groups of validation pairs" if seen.has_interval else ""
    if kept is not None:
        figure.add_vline(x=kept, line={"color": QUIET, "width": 1, "dash": "dot"})  # pyright: ignore[reportArgumentType]
        figure.add_annotation(
            x=kept, y=1, xref="x", yref="paper", yanchor="bottom", text="kept", showarrow=False,
            font={"size": 11, "color": INK},
        )  # fmt: skip
    house(figure, title=title, note=note)
    margin: Any = figure["layout"]["margin"]
    margin.t += 14  # for the word over the panel
    figure.update_xaxes(title_text="step", range=span([0.0, float(len(values))]))
    figure.update_yaxes(title_text=f"loss ({unit})")
    return figure


def share_lines(
    series: Mapping[str, Any], *, multipliers: Iterable[SupportsFloat], title: str
) -> go.Figure:
    """The share of a distance that is removed over the multiplier, a line and a band for each row.

    Args:
        series: Name of a row -> (mean, low, high) with 95% intervals, each of shape (multiplier,).
    """
    figure, x, note = multiplier_lines(series, multipliers, "of the way")
    rule(figure, span(x), [1.0, 1.0], "the target")
    house(figure, title=title, note=note)
    figure.update_xaxes(title_text="multiplier", range=span(x))
    figure.update_yaxes(title_text="share of the KL removed", zeroline=True, zerolinecolor=INK)
    return figure


def rate_curve(
    losses: Sequence[float], *, rates: Sequence[float], start: float, title: str
) -> go.Figure:
    """The loss that trainings reach over their learning rate, on a logarithmic axis.

    Args:
        losses: One for each rate; NaN where training diverged.
        start: The loss before training: a dashed line.
    """
    strengths, order = ordered("rates", rates)
    seen = band("losses", list(losses), order, f"{len(strengths)} rates")
    figure = go.Figure()
    line(
        figure, "validation loss", np.asarray(strengths, dtype=float), seen,
        hover=[f"rate {number(rate)}" for rate in strengths], unit="nats", colour=PALETTE[0],
        listed=False,
    )  # fmt: skip
    if np.isfinite(start):
        rule(figure, [strengths[0], strengths[-1]], [start, start], "before training")
    house(figure, title=title)
    figure.update_xaxes(title_text="learning rate", type="log")
    figure.update_yaxes(title_text="validation loss (nats)")
    return figure
