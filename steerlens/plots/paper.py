"""Figures for a paper, and as files."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, Literal, get_args

import plotly.graph_objects as go

from steerlens.plots.narrow import NARROW, stated_narrow
from steerlens.plots.narrow_fit import fit_narrow

Theme = Literal["page", "paper"]
"""How a figure is drawn: as on the report page, or for print."""
COLUMNS = {1: NARROW, 2: 662}
"""Pixels (96 to the inch) of one column (85 mm) and of two (175 mm)."""
HTML = "html"
FORMATS = ("svg", "pdf", "png", HTML)
SCALE = 4
"""Pixels of a PNG for one of the figure, where nothing else is asked."""


class PictureError(OSError):
    """A picture that cannot be drawn here: kaleido, or the browser that it needs, is missing."""


def paper(figure: go.Figure, columns: int = 2) -> go.Figure:
    """The figure as it is printed: one or two columns wide, without the title, in fonts of 8 pt.

    A caption says what the title does. In one column a heatmap leaves out the bars beside it.

    Args:
        columns: 1 (85 mm) or 2 (175 mm). The sizes are those of the printed figure, so that a
            document must not scale it: in LaTeX, ``\\includegraphics`` without a width.

    Raises:
        ValueError: If columns is neither.
    """
    if columns not in COLUMNS:
        raise ValueError(
            f"columns={columns!r} is no width of a figure. Use 1 (85 mm) or 2 (175 mm)."
        )
    made = go.Figure(figure)
    if columns == 1:
        fit_narrow(made)
    layout: Any = made["layout"]
    titled = (layout.margin.t or 60) - _above(made)
    narrow = stated_narrow(made) if columns == 1 else None
    if narrow is not None:
        for name, value in narrow["layout"].items():
            layout[name] = value
        titled = narrow["titled"]
        for i in narrow["hidden"]:
            made.data[i].update(visible=False, showlegend=False)  # type: ignore[union-attr]
        for i, changes in narrow["traces"]:
            for name, value in changes.items():
                made.data[i][name] = value
    cut = max(0, titled - 8)  # what the title took, but for room above the top tick
    made.update_layout(
        title_text="",
        width=COLUMNS[columns],
        height=layout.height - cut,
        margin_t=layout.margin.t - cut,
        font_size=11,  # 8 pt
        meta=None,
    )
    made.update_xaxes(tickfont_size=11, title_font_size=11)
    made.update_yaxes(tickfont_size=11, title_font_size=11)
    return made


def require_drawing(ending: str) -> None:
    """Raises PictureError if figures cannot be written with this ending, as far as can be seen."""
    if ending != HTML and importlib.util.find_spec("kaleido") is None:
        raise PictureError(
            f".{ending}: plotly draws pictures with kaleido, which is not installed. "
            "pip install 'steerlens[figures]'; it also needs Chrome or Chromium. Or write .html."
        )


def write_figure(
    figure: go.Figure,
    path: Path | str,
    *,
    theme: Theme = "page",
    columns: int = 2,
    scale: float = SCALE,
) -> Path:
    """Writes a figure as SVG, PDF, PNG or HTML, by the ending of the path.

    Args:
        theme: "page", as in a notebook; or "paper", see `paper`.
        columns: Of the paper.
        scale: Pixels of a PNG for one of the figure; 4 are 384 to the inch.

    Raises:
        ValueError: For another ending or theme, or the home folder of a user who is not known.
        PictureError: If the extra that draws pictures is not installed, or no browser is found.
    """
    target = Path(os.path.expanduser(path))
    ending = target.suffix.lower().lstrip(".")
    if ending not in FORMATS:
        raise ValueError(
            f"{target.name!r} does not say how to write the figure. End it with one of "
            f"{', '.join('.' + one for one in FORMATS)}."
        )
    if theme not in get_args(Theme):
        raise ValueError(f"theme={theme!r} is no theme. Use one of {', '.join(get_args(Theme))}.")
    first = target.parts[0]
    if first.startswith("~") and not os.path.lexists(first):
        raise ValueError(
            f"{target} cannot be written: no user {first[1:]!r} with a home folder is known here. "
            "Write the whole path, or ~/ for your own home folder."
        )
    drawn = paper(figure, columns) if theme == "paper" else figure
    target.parent.mkdir(parents=True, exist_ok=True)
    if ending == HTML:
        drawn.write_html(target, include_mathjax=False, config={"displaylogo": False})
        return target
    require_drawing(ending)
    width = drawn["layout"]["width"] or 700
    try:
        drawn.write_image(target, width=width, scale=scale if ending == "png" else 1)
    except (RuntimeError, ValueError) as error:  # kaleido's, when there is no browser
        raise PictureError(
            f"{target.name} could not be drawn ({str(error).strip().splitlines()[0]:.200}). kaleido "
            "needs Chrome or Chromium: install one, run plotly_get_chrome, or name it in the "
            "variable BROWSER_PATH. Or write .html."
        ) from error
    return target


def _above(figure: go.Figure) -> int:
    """Pixels that lie between the title and the panel: names over panels, a colour bar on top."""
    bar: Any = getattr(figure.data[0], "colorbar", None) if figure.data else None
    if bar is not None and bar.orientation == "h":
        return 50
    annotations: Any = figure["layout"]["annotations"]
    return 22 if annotations else 0
