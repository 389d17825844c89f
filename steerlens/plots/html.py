"""A figure as part of a page."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from steerlens.plots.narrow_fit import fit_narrow


def to_html_div(figure: go.Figure, *, first: bool, div_id: str | None = None) -> str:
    """The figure as a `<div>` for a page that opens offline, which states its look on a phone.

    Args:
        first: Put plotly.js itself (about 4.5 MB) before the figure; True for the first figure of
            a page and False for the others, which use it.
        div_id: A fixed id makes the same figure give the same text; random by default.
    """
    layout: Any = figure["layout"]
    given = layout.meta
    fit_narrow(figure)
    page = figure.to_html(
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
    layout.meta = given
    return page
