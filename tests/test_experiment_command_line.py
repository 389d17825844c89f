"""`steerlens run | show | list`: what is printed, the exit status, and how it ends when stopped."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from steerlens.cli import finished_command, main
from steerlens.store import files
from steerlens.store.cells import Cells
from steerlens.store.run_folder import RunFolder

PATH = Path(__file__).parent / "stranger_experiment.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PATH.parents[1])}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder with one finished run of a stranger's experiment."""
    folder = tmp_path_factory.mktemp("results")
    assert main(["run", str(PATH), "--results", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def folder(results):
    (found,) = results.iterdir()
    return found


def test_a_strangers_experiment_runs_with_its_own_fields(tmp_path, capsys):
    words = ["run", str(PATH), "--power", "1.0", "--layers", "2", "--n-fit", "8"]
    assert main([*words, "--results", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Distance of sentiment in reviews\n  farthest apart  ")
    assert "of the norm at L2 resid_post" in said and "report.html" in said


def test_it_is_listed_and_shown_without_its_code(results, folder, tmp_path):
    """In a process that has never seen the stranger's file, and cannot find it."""
    assert folder.name.startswith("stranger_experiment-")
    both = (
        "import sys; from steerlens.cli import main; "
        "sys.exit(main(['list', sys.argv[1]]) or main(['show', sys.argv[2]]))"
    )
    said = subprocess.run(
        [sys.executable, "-c", both, str(results), str(folder)],
        cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT, timeout=300,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    head, listed, *shown = said.stdout.splitlines()
    assert head.split() == ["state", "started", "model", "contrast", "folder"]
    assert listed.startswith("finished  20") and listed.endswith(f"reviews/sentiment  {folder}")
    assert shown[0] == "Distance of sentiment in reviews"
    assert shown[-1].endswith("report.html")


def test_results_stand_in_the_working_folder_where_no_other_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(PATH), "--n-fit", "8", "--layers", "0"]) == 0
    (folder,) = Path("results").iterdir()
    assert main(["show", str(folder)]) == 0


def test_the_same_command_finds_the_finished_run(results, folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert main(["run", str(PATH), "--results", str(results)]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert "farthest apart" in capsys.readouterr().out


WITHOUT_TORCH = """
import sys
from steerlens.cli import main
status = main(sys.argv[1:])
sys.exit(99 if "torch" in sys.modules else status)
"""


def without_torch(*words, cwd):
    """A command in a process of its own that must not import torch."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words],
        cwd=cwd, capture_output=True, text=True, env=ENVIRONMENT, timeout=300,
    )  # fmt: skip


def test_the_same_command_says_that_it_was_finished_without_loading_torch(tmp_path, capsys):
    script, data = tmp_path / "mine.py", tmp_path / "beside.txt"
    script.write_text(PATH.read_text("utf-8"), "utf-8")
    data.write_text("a")
    words = ["run", str(script), "--n-fit", "8", "--layers", "2", "--results", str(tmp_path / "r")]
    assert main([*words, "--name", "mine"]) == 0
    printed = capsys.readouterr().out
    (folder,) = (tmp_path / "r").iterdir()
    assert folder.name.startswith("mine-")
    again = without_torch(*words, "--name", "mine", cwd=Path.cwd())
    assert again.returncode == 0, again.stderr
    assert again.stdout == printed
    assert again.stderr == f"steerlens: already finished in {folder}\n"
    listed = without_torch("list", str(tmp_path / "r"), cwd=tmp_path)
    assert listed.returncode == 0 and str(folder) in listed.stdout


@pytest.fixture
def tracker(monkeypatch):
    """A module with the three calls that are asked of a tracker; what it was called with."""
    calls = []
    made = SimpleNamespace(
        init=lambda **given: calls.append(("init", given)),
        log=lambda metrics: calls.append(("log", metrics)),
        finish=lambda: calls.append(("finish", {})),
    )
    monkeypatch.setitem(sys.modules, "trackio", made)
    made.calls = calls
    return made


def test_a_finished_run_is_logged_once_and_only_where_asked(results, folder, tracker, capsys):
    words = ["run", str(PATH), "--results", str(results)]
    assert main(words) == 0 and tracker.calls == []
    words += ["--track", "trackio", "--project", "tea"]
    assert main(words) == 0
    (init, given), (log, metrics), (finish, _) = tracker.calls
    assert (init, log, finish) == ("init", "log", "finish")
    assert (given["project"], given["name"]) == ("tea", folder.name)
    assert given["config"]["n_fit"] == 24 and len(given["config"]["fingerprint"]) > 8
    assert "of the norm at L" in metrics["summary/farthest apart"]
    capsys.readouterr()
    assert main(words) == 0 and len(tracker.calls) == 3
    assert "already finished" in capsys.readouterr().err


def test_a_tracker_that_fails_leaves_the_run(results, folder, tracker, capsys):
    def refuse(metrics):
        raise RuntimeError("no network")

    tracker.log = refuse
    words = ["run", str(PATH), "--results", str(results), "--track", "trackio", "--project", "b"]
    assert main(words) == 2
    said = capsys.readouterr()
    assert "farthest apart" in said.out
    assert f"did not take the run in {folder}, which is finished and kept: no network" in said.err
    assert tracker.calls[-1][0] == "finish"


def test_a_tracker_that_is_not_there_is_refused_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "trackio", None)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=print))
    words = ["run", str(PATH), "--results", str(tmp_path / "r"), "--track"]
    for service, why in (
        ("trackio", 'needs its package: pip install "steerlens[track]"'),
        ("wandb", "The module wandb has no init, log and finish"),
    ):
        for more in ([], ["--grid", "power=1.0"]):
            assert main([*words, service, *more]) == 2
            assert why in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_a_command_is_known_by_all_that_it_reads(tmp_path):
    script, data, results = tmp_path / "mine.py", tmp_path / "data.txt", tmp_path / "results"
    script.write_text("experiment = 1")
    data.write_text("a")
    with RunFolder.open(results / "run") as run:
        files.write_text(run.path / "summary.txt", "found")
        run.finish()
    finished_command.note(script, ["--seed", "1"], results / "run", "found", [str(data), 3, None])

    def known(*words):
        return finished_command.finished_before(script, words, results)

    assert known("--seed", "1") == (results / "run", "found")
    assert known("--seed", "2") is None and known() is None
    data.write_text("b")
    assert known("--seed", "1") is None, "a file that a field names has changed"
    data.write_text("a")
    assert known("--seed", "1") is not None
    (results / "run" / "summary.txt").write_text("other")
    assert known("--seed", "1") is None, "a file of the run has changed"
    (results / "run" / "summary.txt").write_text("found")
    (results / "run" / finished_command.FILE).write_text("{")
    assert known("--seed", "1") is None, "the note is damaged"
    script.write_text("experiment = 2")
    assert known("--seed", "1") is None


def test_the_version_by_name_and_by_module(tmp_path):
    for words in ("--version", "-V"):
        said = without_torch(words, cwd=tmp_path)
        assert said.returncode == 0 and said.stdout.startswith("steerlens 0.")
    asked = started("--version")
    assert asked.communicate(timeout=300)[0].startswith("steerlens 0.") and asked.returncode == 0


def test_a_name_that_is_no_folder_is_refused(tmp_path, capsys):
    for name in ("a/b", "..", ""):
        assert main(["run", str(PATH), "--results", str(tmp_path), f"--name={name}"]) == 2
        assert "cannot begin the name of a folder" in capsys.readouterr().err


def test_output_that_is_no_terminal_has_no_progress_bars(tmp_path, capsys):
    words = ["run", str(PATH), "--n-fit", "8", "--layers", "1", "--results", str(tmp_path)]
    assert main(words) == 0
    assert capsys.readouterr().err == ""


def test_figures_are_written_on_request(folder, tmp_path, capsys, monkeypatch):
    words = ["run", str(PATH), "--n-fit", "8", "--layers", "2", "--results", str(tmp_path)]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main([*words, "--figures", "svg"]) == 2
    assert "pip install 'steerlens[figures]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [], "refused before any work"
    monkeypatch.undo()
    assert main([*words, "--figures", "html"]) == 0
    assert "figures         1 in" in capsys.readouterr().out
    (found,) = tmp_path.glob("*/figures/*.html")
    assert found.name == "separation-1.html" and "plotly" in found.read_text("utf-8")


def test_runs_of_one_experiment_are_compared(results, folder, tmp_path, capsys):
    other = tmp_path / "other"
    assert main(["run", str(PATH), "--n-fit", "8", "--results", str(other)]) == 0
    (second,) = other.iterdir()
    capsys.readouterr()
    assert main(["compare", str(folder), str(second)]) == 0
    said = capsys.readouterr().out
    assert "n_fit" in said and "contrast" in said and "held out" not in said
    for wrong in ([str(folder)], []):
        assert main(["compare", *wrong]) == 2
    assert main(["compare", str(folder), str(folder)]) == 2
    assert "Give two or more different ones" in capsys.readouterr().err


def test_the_doctor_reproduces_the_stored_result(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "reference  reproduced: unsteered" in said
    for name in ("python", "packages", "threads", "memory", "devices", "precision", "terminal"):
        assert f"\n{name} " in said
    assert main(["doctor", "please"]) == 2


def test_a_subclass_of_an_experiment_of_steerlens_runs_and_is_shown(tmp_path, capsys):
    (tmp_path / "subclass.py").write_text(
        "from dataclasses import dataclass\n"
        "from steerlens.experiment import ProbingExperiment\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Twice(ProbingExperiment):\n"
        "    '''Probes.'''\n"
        "    more: int = 1\n"
        "experiment = Twice(n_fit=20, layers=(1, 2), controls=1, more=2)\n"
    )
    results = tmp_path / "results"
    assert main(["run", str(tmp_path / "subclass.py"), "--results", str(results)]) == 0
    (folder,) = results.iterdir()
    capsys.readouterr()
    assert main(["list", str(results)]) == 0
    listed = capsys.readouterr().out.splitlines()[-1]
    assert listed.startswith("finished") and listed.endswith(str(folder))
    assert main(["show", str(folder)]) == 0
    assert "AUROC" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_stopped_run_says_how_to_go_on_and_does(tmp_path, monkeypatch, capsys, number, status):
    saved = Cells.save

    def stopped(self, unit, numbers):
        saved(self, unit, numbers)
        signal.raise_signal(number)

    words = ["run", str(PATH), "--results", str(tmp_path)]
    # A shell starts what runs in the background with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(Cells, "save", stopped)
            assert main(words) == status
    finally:
        signal.signal(signal.SIGINT, before)
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == "steerlens: stopped; run the same command to go on"
    assert "Traceback" not in said.err and said.out == ""
    assert main(["list", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("unfinished  ")
    assert main(words) == 0


def test_the_handler_of_sigterm_is_put_back(results):
    before = signal.getsignal(signal.SIGTERM)
    main(["list", str(results)])
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "the disk or your quota is full. Free some space"),
        (errno.EROFS, "the file system is read-only. Choose another folder."),
        (errno.EACCES, "you have no permission. Change the permissions of"),
    ],
)
def test_what_cannot_be_written_is_named_with_the_remedy(tmp_path, monkeypatch, capsys, code, said):
    def refused(*arguments):
        raise OSError(code, os.strerror(code))

    words = ["run", str(PATH), "--results", str(tmp_path)]
    with monkeypatch.context() as patched:
        patched.setattr(files.os, "replace", refused)
        assert main(words) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("steerlens")]
    assert line.startswith(f"steerlens: {tmp_path}") and "cannot be written" in line
    assert said in line
    assert not list(tmp_path.rglob("*.steerlens-tmp"))
    assert main(words) == 0, "and it goes on when that is mended"


def test_a_folder_in_use_is_refused_in_one_line(results, folder, tmp_path, capsys):
    again = tmp_path / folder.name
    with RunFolder.open(again):
        assert main(["run", str(PATH), "--results", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"steerlens: Another process works in {again}.")


def test_results_that_are_a_file_are_refused(tmp_path, capsys):
    (tmp_path / "taken").write_text("precious")
    assert main(["run", str(PATH), "--results", str(tmp_path / "taken")]) == 2
    assert "taken is a file, so there is nothing below it" in capsys.readouterr().err
    assert (tmp_path / "taken").read_text() == "precious"


def test_a_reader_that_goes_away_is_no_error(folder):
    with started("show", str(folder)) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.parametrize(
    "encoding, shown",
    [("cp1252", "Zürich <= -2 ??"), ("gbk", "Zürich ≤ -2 東京"), ("ascii", "Z?rich <= -2 ??")],
)
def test_a_terminal_of_another_encoding_is_printed_to(
    folder, tmp_path, monkeypatch, encoding, shown
):
    """A sign of a number is never lost."""
    moved = tmp_path / "Zürich ≤ −2 東京"
    shutil.copytree(folder, moved)
    written = io.BytesIO()
    terminal = io.TextIOWrapper(written, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["show", str(moved)]) == 0
    assert terminal.errors == "strict"
    assert shown.encode(encoding) in written.getvalue()


def test_positions_that_cannot_be_steered_are_not_offered(tmp_path, capsys):
    (tmp_path / "map.py").write_text(
        "from steerlens.experiment import SteerabilityExperiment\n"
        "experiment = SteerabilityExperiment()\n"
    )
    with pytest.raises(SystemExit) as stop:
        main(["run", str(tmp_path / "map.py"), "--help"])
    assert stop.value.code == 0
    help_text = capsys.readouterr().out
    assert "{all,last,from_prompt_end,generated}" in help_text and "span" not in help_text
    with pytest.raises(SystemExit) as stop:
        main(["run", str(tmp_path / "map.py"), "--positions", "span"])
    assert stop.value.code == 2
    assert "span" in capsys.readouterr().err


def started(*words: str) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "steerlens", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
