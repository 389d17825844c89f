"""An experiment in a file of its own, with a result of its own: run, resumed, listed, shown."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from steerlens.experiment import ExperimentError, load_experiment
from steerlens.experiment.experiment import Experiment
from steerlens.experiment.run import Run
from steerlens.results import Result, ResultError
from steerlens.store.cells import Cells
from steerlens.store.documents import read_document, write_document
from steerlens.store.run_folder import FolderInUse, RunFolder

PATH = Path(__file__).parent / "stranger_experiment.py"


@pytest.fixture(scope="module")
def experiment():
    return load_experiment(PATH)


@pytest.fixture(scope="module")
def run(experiment, tmp_path_factory):
    return experiment.run(tmp_path_factory.mktemp("results"), progress=False)


def files(folder: Path) -> dict[str, bytes]:
    """The content of every file of a run, but the one that holds its time and machine."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", "finished.json", ".lock")
    }


def test_it_runs_and_its_result_is_an_attribute(run):
    assert run.separation.distances.shape == (2, 24)
    assert list(run.results) == ["separation"]
    assert "farthest apart  " in run.summary() and "report.html" in run.summary()
    with pytest.raises(AttributeError, match="This run has no 'map'. Its results are separation"):
        run.map  # noqa: B018


def test_its_section_is_on_the_page(run):
    page = run.page.read_text("utf-8")
    assert "<h1>How far apart are the two sides of sentiment in reviews?</h1>" in page
    assert '<li><a href="#separation">Distance</a></li>' in page
    assert "They are farthest apart at <strong>L1 resid_post</strong>" in page
    assert "Plotly.newPlot(" in page and "figure-separation" in page
    assert "from stranger_experiment import SeparationExperiment" in page


def test_it_is_read_back_with_its_class_and_without(experiment, run):
    again = Run.load(run.folder, experiment.results)
    assert torch.equal(again.separation.distances, run.separation.distances)
    alone = Run.load(run.folder)
    assert alone.results == {} and alone.separation is None
    assert alone.summary() == run.summary()


def test_no_code_that_a_manifest_names_is_imported(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')\n")
    manifest = read_document(folder / "manifest.json")
    for place in ("trap:Separation", "os:system", "steerlens.cli:main", "steerlens.nowhere:X"):
        manifest["results"] = {"separation": place}
        write_document(folder / "manifest.json", manifest)
        with RunFolder.open(folder) as open_folder:
            open_folder.finish()
        sys.path.insert(0, str(tmp_path))
        try:
            assert Run.load(folder).results == {}
        finally:
            sys.path.remove(str(tmp_path))


def test_a_killed_run_goes_on_to_the_same_files(experiment, run, tmp_path, monkeypatch):
    saved = Cells.save

    def killed(self, unit, numbers):
        saved(self, unit, numbers)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Cells, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            experiment.run(tmp_path, progress=False)
    folder = tmp_path / run.folder.name
    with pytest.raises(ResultError, match="not finished"):
        Run.load(folder)
    experiment.run(tmp_path, progress=False)
    before, now = files(run.folder), files(folder)
    started = [read_document(f / "manifest.json")["started"] for f in (run.folder, folder)]
    page = before.pop("report.html").replace(started[0].encode(), started[1].encode())
    assert page == now.pop("report.html")
    assert before == now


@pytest.mark.parametrize(
    "lost", ["separation.csv", "separation.json", "separation.safetensors", "report.html",
             "summary.txt", "finished.json"],
)  # fmt: skip
def test_a_missing_file_is_written_again(experiment, run, tmp_path, lost):
    folder = tmp_path / run.folder.name
    shutil.copytree(run.folder, folder)
    (folder / lost).unlink()
    with pytest.raises(ResultError, match="not finished"):
        Run.load(folder)
    experiment.run(tmp_path, progress=False)
    assert files(folder) == files(run.folder)


@pytest.mark.parametrize("damaged", ["separation.csv", "separation.json", "report.html"])
def test_a_changed_file_is_named_with_the_remedy(experiment, run, tmp_path, damaged):
    folder = tmp_path / run.folder.name
    shutil.copytree(run.folder, folder)
    whole = (folder / damaged).read_bytes()
    (folder / damaged).write_bytes(whole.replace(b"7", b"8", 1))
    with pytest.raises(ResultError, match=f"{damaged} is damaged or was changed.*Delete"):
        experiment.run(tmp_path, progress=False)
    (folder / damaged).unlink()
    experiment.run(tmp_path, progress=False)
    assert (folder / damaged).read_bytes() == whole


def test_a_folder_that_another_process_works_in_is_refused(experiment, tmp_path):
    folder = tmp_path / f"separation-{experiment.digest}"
    with RunFolder.open(folder), pytest.raises(FolderInUse, match="Another process works in"):
        experiment.run(tmp_path, progress=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nothing(Experiment):
    """Keeps what it is given."""

    given: Any = None

    results: ClassVar[tuple[type[Result], ...]] = ()

    def measure(self, run) -> None:
        if self.given is not None:
            run.keep(self.given)


class Other(Result):
    kind = "other"


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeepsNothing(Nothing):
    results = (Other,)


def test_results_that_are_not_stated_are_refused(tmp_path):
    with pytest.raises(ExperimentError, match="state the classes of what a run may hold"):
        Nothing().run(tmp_path)
    with pytest.raises(ExperimentError, match="measure kept no result"):
        KeepsNothing(n_fit=4, layers=(0,)).run(tmp_path)


@pytest.mark.parametrize("kind", ["manifest", "limits", "a b", "_x"])
def test_a_kind_that_cannot_name_files_is_refused(tmp_path, kind):
    named = type("Named", (Result,), {"kind": kind})
    experiment = type("E", (Nothing,), {"results": (named,)})
    with pytest.raises(ExperimentError, match="cannot name a result"):
        experiment().run(tmp_path)


def test_a_field_whose_repr_names_a_place_in_memory_is_refused():
    with pytest.raises(ExperimentError, match="differs in every process"):
        Nothing(given=object()).fields()


@pytest.mark.parametrize(
    ("text", "said"),
    [("x = 1\n", "defines no `experiment`"), ("experiment = 3\n", "defines no `experiment`")],
)
def test_a_file_without_an_experiment_is_refused(tmp_path, text, said):
    (tmp_path / "empty.py").write_text(text)
    with pytest.raises(ExperimentError, match=said):
        load_experiment(tmp_path / "empty.py")


def test_a_file_can_import_what_is_beside_it(tmp_path):
    (tmp_path / "beside_it.py").write_text("layers = (2,)\n")
    (tmp_path / "asks.py").write_text(
        "from beside_it import layers\n"
        "from stranger_experiment import SeparationExperiment\n"
        "experiment = SeparationExperiment(layers=layers)\n"
    )
    shutil.copy(PATH, tmp_path)
    assert load_experiment(tmp_path / "asks.py").layers == (2,)


def test_the_manifest_states_what_the_run_may_hold(run):
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert manifest["results"] == {"separation": "stranger_experiment:Separation"}
    assert list(manifest["sources"]) == ["stranger_experiment.py"]
