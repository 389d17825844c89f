"""What steering writes at a few cells, as a share of what a context writes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from steerlens.plots.look import INK, PALETTE, QUIET, house, span
from steerlens.plots.words import axis_title, broken, measured, safe

_COLOURS = {"confirmed in writing": PALETTE[2], "gain without writing": PALETTE[1]}


def written_shares(
    values: Sequence[tuple[float, float, float]],
    *,
    labels: Sequence[str],
    verdicts: Sequence[str],
    unit: str,
    title: str,
    threshold: float | None = None,
) -> go.Figure:
    """A point with its interval for each cell, coloured by its verdict.

    Args:
        values: Value, low and high of every cell; NaN is shown as "not measured".
        labels: What the cells are called.
        verdicts: What is claimed of each.
        threshold: A line that an interval must clear to be confirmed.

    Raises:
        ValueError: If there are not as many labels and verdicts as values.
    """
    if not len(values) == len(labels) == len(verdicts):
        raise ValueError(
            f"{len(values)} values, {len(labels)} labels and {len(verdicts)} verdicts: give one of "
            "each for every cell."
        )
    figure = go.Figure()
    for verdict in dict.fromkeys(verdicts):
        places = [i for i, one in enumerate(verdicts) if one == verdict]
        drawn = [tuple(values[i]) for i in places]
        figure.add_scatter(
            x=[None if math.isnan(v) else v for v, _, _ in drawn],
            y=[len(values) - 1 - i for i in places],
            mode="markers",
            marker={"size": 11, "color": _COLOURS.get(verdict, QUIET)},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [0.0 if math.isnan(h) else h - v for v, _, h in drawn],
                "arrayminus": [0.0 if math.isnan(low) else v - low for v, low, _ in drawn],
                "color": _COLOURS.get(verdict, QUIET),
                "width": 5,
            },
            hovertext=[
                f"{safe(labels[i])}<br>{measured(v, unit)} [{low:.3g}, {h:.3g}]<br>{verdict}"
                for i, (v, low, h) in zip(places, drawn, strict=True)
            ],
            showlegend=True,
            name=verdict,
        )
    finite = [x for value in values for x in value if not math.isnan(x)]
    note = "" if finite else "Not measured: there is no scale."
    if threshold is not None and finite:
        figure.add_vline(x=threshold, line={"color": INK, "dash": "dash", "width": 1})
        note = f"Confirmed where the interval lies above {threshold:g}. Bars: 95% interval."
    rows = max(1, len(values))
    left = 24 + int(6.6 * min(26, max(map(len, labels), default=0)))
    house(figure, title=title, note=note, height=190 + 44 * rows, left=left)
    extent = [0.0, *finite, *([] if threshold is None else [threshold])]
    figure.update_xaxes(
        title_text="share of what the context writes"
        if unit == "share"
        else axis_title("change", unit),
        range=span(extent),
        zeroline=True,
    )
    figure.update_yaxes(
        tickvals=list(range(rows)),
        ticktext=[broken(safe(label), 26) for label in reversed(labels)],
        range=[-0.6, rows - 0.4],
        showgrid=False,
    )
    return figure
