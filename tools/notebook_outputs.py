"""Runs notebooks and stores their outputs in them, with figures as pictures.

    python tools/notebook_outputs.py notebooks/01_from_a_model_to_a_heatmap.ipynb

GitHub, nbviewer and nbconvert show what is stored, and none of them draws plotly's figures: each figure
is stored as a PNG instead, which a run of the notebook replaces by the interactive one. Needs the
extras steerlens[notebook,figures] and a Chrome or Chromium. Run it again when a notebook's code or what
it prints has changed.
"""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import plotly.graph_objects as go
from nbclient import NotebookClient

from steerlens.plots import write_figure

PLOTLY = "application/vnd.plotly.v1+json"
KEPT = ("image/png", "text/html", "text/plain")


def main(words: list[str]) -> int:
    """Runs and stores, and returns the exit status."""
    if not words:
        print(__doc__, file=sys.stderr)
        return 2
    for path in map(Path, words):
        notebook = nbformat.read(path, as_version=4)
        folder = {"metadata": {"path": path.parent}}
        NotebookClient(notebook, timeout=900, resources=folder).execute()
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.metadata = {}
                cell.outputs = [kept for output in cell.outputs if (kept := stored(output))]
        nbformat.write(notebook, path)
        print(f"{path}: {path.stat().st_size / 2**10:.0f} KiB")
    return 0


def stored(output: Any) -> Any:
    """An output as it is kept; None for progress bars and warnings."""
    if output.output_type == "stream":
        return output if output.name == "stdout" else None
    if output.output_type not in ("display_data", "execute_result"):
        return output
    figure = output.data.get(PLOTLY)
    data = {kind: output.data[kind] for kind in KEPT if kind in output.data}
    if figure is not None:
        data = {"image/png": picture(figure), "text/plain": "A figure: run the cell to use it."}
    if "widget" in str(data.get("text/plain", "")).lower() and "text/html" not in data:
        return None
    output.data = nbformat.from_dict(data)
    return output


def picture(figure: Any) -> str:
    """A figure as a PNG of 700 pixels, in base64."""
    shown = go.Figure({name: figure[name] for name in ("data", "layout")})
    shown.update_layout(width=700, modebar_remove=None)
    with tempfile.TemporaryDirectory() as scratch:
        file = write_figure(shown, Path(scratch) / "figure.png", scale=1.5)
        return base64.b64encode(file.read_bytes()).decode("ascii")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
