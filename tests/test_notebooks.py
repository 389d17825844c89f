"""Every notebook runs from the top.

`make notebooks` runs them all. The test command leaves out those that load the packaged
pretrained model or take half a minute of processor time.
"""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from steerlens.models.checkpoints import MissingCheckpoint, packaged_gguf

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
PRETRAINED = "smollm2-135m-instruct"
LONG = ("02_", "03_", "06_", "08_")


def marked(path):
    """The notebook; one that loads the packaged model needs its package (`make pretrained`)."""
    needed = PRETRAINED in path.read_text(encoding="utf-8")
    return pytest.param(path, id=path.stem, marks=[pytest.mark.pretrained] if needed else [])


@pytest.mark.parametrize("path", [marked(path) for path in NOTEBOOKS])
# The client's own asyncio plumbing warns on some platforms; the notebook's errors still raise.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_notebook_runs_from_the_top(path, request):
    if path.stem.startswith(LONG) and not request.config.getoption("--all-notebooks"):
        pytest.skip("It takes half a minute of processor time: make notebooks.")
    if request.node.get_closest_marker("pretrained"):
        if not request.config.getoption("--all-notebooks"):
            pytest.skip("It loads the pretrained model, which takes a minute: make notebooks.")
        try:
            packaged_gguf(PRETRAINED)
        except MissingCheckpoint as error:
            pytest.skip(str(error))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}}).execute()
    figures = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "application/vnd.plotly.v1+json" in output.get("data", {})
    ]
    assert len(figures) >= 5, "results draw themselves"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
