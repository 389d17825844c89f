"""The heatmap with one score for each row beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, SupportsIndex

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from steerlens.plots.arrays import band, holes
from steerlens.plots.heatmap import layer_heatmap
from steerlens.plots.look import AXIS, INK, PALETTE, QUIET, span
from steerlens.plots.marks import whiskers
from steerlens.plots.narrow import make_narrow, stated_narrow, title_and_note
from steerlens.plots.rows import read_rows
from steerlens.plots.words import axis_title, broken


def steerability_figure(
    values: ArrayLike,
    *,
    rows: Iterable[SupportsIndex] | Iterable[str],
    score: ArrayLike,
    score_unit: str,
    score_title: str = "gain within budget",
    score_low: ArrayLike | None = None,
    score_high: ArrayLike | None = None,
    **heatmap: Any,
) -> go.Figure:
    """`layer_heatmap` with one score per row beside it, as bars on the same axis.

    Args:
        score: Shape (row,), e.g. the gain available within the budget; NaN is shown as
            "not measured".
        score_low: Lower end of each score's interval, drawn as a whisker.
        score_high: Upper end of each score's interval.
        heatmap: The other arguments of `layer_heatmap`.

    Raises:
        ValueError: As `layer_heatmap`.
    """
    given: list[Any] = list(rows)
    figure = layer_heatmap(values, rows=given, room=380, **heatmap)
    lines = read_rows(given, downwards=True)
    bare = score_low is None and score_high is None
    drawn = score if bare else (score, score_low, score_high)
    bars = band("score", drawn, lines.order, f"{lines.count} rows")
    best = heatmap.get("best")
    few = lines.count <= 24
    figure.add_bar(
        orientation="h",
        x=holes(bars.mean),
        y=list(range(lines.count)),
        xaxis="x2",
        width=0.7,
        marker_color=[PALETTE[0] if best and row == best[0] else "#9fb6c6" for row in lines.names],
        error_x=whiskers(bars, INK, width=3 if few else 0),
        hovertext=[
            f"{lines.text(i)}<br>{bars.text(i, score_unit, score_title)}"
            for i in range(lines.count)
        ],
        hoverinfo="text",
        showlegend=False,
        name=score_title,
    )
    absent = np.flatnonzero(np.isnan(bars.mean)).tolist()
    figure.add_scatter(
        x=[0.0] * len(absent),
        y=absent,
        xaxis="x2",
        mode="text",
        text=["× not measured" if few else "×"] * len(absent),
        textposition="middle right",
        textfont={"size": 10, "color": QUIET},
        hovertext=[f"{lines.text(i)}<br>not measured" for i in absent],
        hoverinfo="text",
        showlegend=False,
        name=f"{score_title}: not measured",
    )
    score_axis = broken(axis_title(score_title, score_unit), 28)
    more = 16 * score_axis.count("<br>")
    extent = span([0.0, *np.concatenate(bars)])
    bar_axis = {"domain": [0.72, 1.0], "anchor": "y", "range": extent, "nticks": 5}
    bar_axis |= {"title_text": score_axis, "zeroline": True, "showline": False}
    figure.update_layout(xaxis_domain=[0.0, 0.69], xaxis2={**AXIS, **bar_axis})
    # The colour bar lies on the heatmap it belongs to, not beyond the bars. Its own title would
    # push the figure's title out of the picture, so it is written as a note.
    colour_bar: Any = figure["data"][0]["colorbar"]
    figure.add_annotation(
        text=colour_bar.title.text.replace("<br>clipped", ", clipped").replace("<br>", " "),
        showarrow=False,
        x=0,
        xref="paper",
        xanchor="left",
        y=1,
        yref="paper",
        yanchor="bottom",
        yshift=36,
    )
    colour_bar.update(orientation="h", xanchor="left", yanchor="bottom", x=0, y=1, xpad=0, ypad=4)
    colour_bar.update(len=0.69, thickness=10, title_text="")
    layout: Any = figure["layout"]
    layout.height += 50 + more
    layout.margin.update(r=30, t=layout.margin.t + 50, b=layout.margin.b + more)
    if (stated := stated_narrow(figure)) is not None:
        # In the width of a phone the heatmap stands alone; the bars are in the table as well.
        ticks = {k: v for k, v in stated["layout"].items() if k.startswith("xaxis.")}
        # The empty panel of the bars would still cover what lies under it.
        alone = {"xaxis.domain": [0.0, 1.0], "xaxis2.visible": False, "xaxis2.domain": [0.999, 1.0]}
        hidden = [score_title, f"{score_title}: not measured"]
        hidden += [figure.data[i].name for i in stated["hidden"]]  # type: ignore[union-attr]
        make_narrow(
            figure, title=heatmap["title"], note=title_and_note(figure)[1], above=50,
            layout={**ticks, **alone}, hidden=hidden, restyled={0: {"colorbar.len": 1}},
        )  # fmt: skip
    return figure
