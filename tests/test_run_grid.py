"""A grid of runs: the same bits as each run alone, killed workers, failing runs, refusals, views."""

from __future__ import annotations

import dataclasses
import enum
import itertools
import math
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from steerlens import grid as grid_package
from steerlens.cli import main
from steerlens.cli.grid_command import asked_of
from steerlens.directions.methods import PCA
from steerlens.experiment import Experiment, ExperimentError
from steerlens.grid import EngineError, GridRuns, Local, run_grid
from steerlens.grid.cell_worker import CellWorker, require_module
from steerlens.grid.engines import Died, Done, Event, Ready, Setup
from steerlens.grid.grid_cells import GridCell
from steerlens.grid.grid_runs import GridRun
from steerlens.grid.plain_experiment import (
    digest_in,
    experiment_bytes,
    found,
    read_experiment,
)
from steerlens.grid.schedule import TRIES
from steerlens.store.documents import read_document

ROOT = Path(__file__).parents[1]
PATH = ROOT / "tests" / "stranger_experiment.py"
OWN = ("manifest.json", "finished.json", "commands.json", ".lock")
"""Files of a run that hold its time and its machine, or digests of such files."""


def files(folder: Path) -> dict[str, bytes]:
    """The content of every file that does not depend on the time."""
    started = read_document(folder / "manifest.json")["started"].encode()
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        .replace(started, b"")
        .replace(started[:10], b"")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in OWN
    }


def experiment(**fields):
    """A stranger's experiment, small."""
    from tests.stranger_experiment import SeparationExperiment

    return SeparationExperiment(**{"n_fit": 8, "layers": (1,), **fields})


# Real workers -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Two runs of a stranger's experiment on two processes, one of which is killed on its way."""
    folder = tmp_path_factory.mktemp("grid")
    killed: list[int] = []

    class Killing(Local):
        def give(self, worker: int, experiment: bytes, name: str, again: bool) -> None:
            super().give(worker, experiment, name, again)
            if not killed:
                killed.append(worker)
                os.kill(self._running[worker].process.pid or 0, signal.SIGKILL)

    lines: list[str] = []
    made = run_grid(
        experiment(), {"power": (1.0, 2.0)}, results=folder, name="stranger", workers=2,
        on=Killing(threads=1), progress=lines.append,
    )  # fmt: skip
    return made, lines


def test_two_processes_give_the_bits_of_one_run_alone(grid, tmp_path):
    made, _ = grid
    alone = experiment(power=2.0).run(tmp_path, name="stranger", progress=False)
    assert made.runs[1].folder.name == alone.folder.name
    assert files(made.runs[1].folder) == files(alone.folder)


def test_the_run_of_a_killed_process_is_done_again(grid):
    made, lines = grid
    assert not made.failed
    assert [line for line in lines if "killed by SIGKILL" in line]
    assert [line[:5] for line in lines if line.startswith("[")] == ["[1/2]", "[2/2]"]


# The schedule, with workers in this process -------------------------------------------------------


class Here:
    """An engine whose workers run in this process, or die where a test wants them to."""

    def __init__(self, deaths: Sequence[str] = (), refuses: str = "") -> None:
        self.deaths, self.refuses = list(deaths), refuses
        self.given: list[tuple[int, str, bool]] = []
        self.events: list[Event] = []
        self.workers: dict[int, CellWorker] = {}
        self.stopped = False

    def require(self, cells: Sequence[GridCell], workers: int) -> int:
        return min(workers, len(cells))

    def start(self, setup: Setup) -> int:
        number = len(self.workers)
        self.workers[number] = CellWorker(setup, 1)
        self.events.append(Died(number, self.refuses, True) if self.refuses else Ready(number))
        return number

    def give(self, worker: int, experiment: bytes, name: str, again: bool) -> None:
        self.given.append((worker, name, again))
        if self.deaths:
            self.events.append(Died(worker, self.deaths.pop(0)))
            return
        self.events.append(Done(worker, self.workers[worker].run(experiment, name, again)))

    def wait(self, seconds: float) -> list[Event]:
        found, self.events = self.events, []
        return found

    def kill(self, worker: int) -> None:
        raise AssertionError

    def stop(self) -> None:
        self.stopped = True


def test_a_worker_that_dies_again_and_again_fails_its_run_and_no_other(tmp_path):
    engine, lines = Here(["lost"] * TRIES), []
    made = run_grid(
        experiment(), {"power": (1.0, 2.0)}, results=tmp_path, on=engine, progress=lines.append
    )
    assert engine.stopped
    assert [run.error for run in made.runs] == [
        f"its worker ended {TRIES} times, the last time so: lost", ""
    ]  # fmt: skip
    assert [again for _, _, again in engine.given] == [False, True, True, False]
    assert len(lines) == 2 + TRIES - 1
    assert "failed" in made.summary() and "Give the same command again" in made.summary()


def test_a_worker_that_cannot_start_ends_the_grid_with_its_reason(tmp_path):
    with pytest.raises(EngineError, match="No worker could be started: no shared folder"):
        run_grid(
            experiment(), {"power": (1.0,)}, results=tmp_path, on=Here(refuses="no shared folder")
        )


def test_a_failing_run_is_reported_with_its_traceback_and_the_others_go_on(tmp_path, monkeypatch):
    from tests.stranger_experiment import SeparationExperiment

    measure = SeparationExperiment.measure

    def failing(self, run):
        if self.power == 1.0:
            raise KeyError("a fault")
        measure(self, run)

    monkeypatch.setattr(SeparationExperiment, "measure", failing)
    axes = {"power": (1.0, 2.0), "layers": ((0,), (99,))}
    made = run_grid(experiment(), axes, results=tmp_path, on=Here(), progress=False)
    faults = [bool(run.fault) for run in made.runs]
    assert faults == [True, False, False, False]
    assert made.runs[0].error == "KeyError: 'a fault'"
    assert (
        "99" in made.runs[1].error and not made.runs[1].folder.exists()
    )  # refused before it wrote
    assert not made.runs[2].error
    again = GridRuns.load(made.folder)
    assert again.summary() == made.summary()
    assert again.to_frame().equals(made.to_frame())


def test_a_model_is_kept_for_the_next_run_that_has_it(tmp_path, monkeypatch):
    loaded: list[str] = []
    load = Experiment.load_model

    def counted(self):
        loaded.append(self.dtype)
        return load(self)

    monkeypatch.setattr(Experiment, "load_model", counted)
    axes = {"power": (1.0, 2.0), "dtype": ("float32", "bfloat16")}
    made = run_grid(experiment(), axes, results=tmp_path, on=Here(), progress=False)
    assert not made.failed
    assert loaded == ["float32", "bfloat16"]


def test_ctrl_c_ends_the_workers(tmp_path):
    class Interrupted(Here):
        def wait(self, seconds: float) -> list[Event]:
            if self.given:
                raise KeyboardInterrupt
            return super().wait(seconds)

    engine = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        run_grid(experiment(), {"power": (1.0, 2.0)}, results=tmp_path, on=engine, progress=False)
    assert engine.stopped


def test_a_run_that_takes_too_long_fails_and_its_worker_is_replaced(tmp_path):
    class Hanging(Here):
        killed: list[int] = []

        def give(self, worker: int, experiment: bytes, name: str, again: bool) -> None:
            if worker:  # the first one never answers
                super().give(worker, experiment, name, again)

        def kill(self, worker: int) -> None:
            self.killed.append(worker)

    engine = Hanging()
    made = run_grid(
        experiment(), {"power": (1.0, 2.0)}, results=tmp_path, on=engine, limit=0.05, progress=False
    )
    assert engine.killed[0] == 0
    assert "longer than 0.05 s" in made.runs[0].error


def test_a_finished_grid_is_read_and_a_larger_one_uses_it(tmp_path):
    run_grid(experiment(), {"power": (2.0,)}, results=tmp_path, on=Here(), progress=False)
    lines: list[str] = []
    made = run_grid(
        experiment(), {"power": (2.0, 3.0)}, results=tmp_path, on=Here(), progress=lines.append
    )
    assert "finished before" in lines[0] and "finished before" not in lines[1]
    assert math.isnan(made.runs[0].seconds) and made.runs[1].seconds > 0


def test_the_warnings_of_runs_are_said_once(tmp_path, monkeypatch):
    from tests.stranger_experiment import SeparationExperiment

    measure = SeparationExperiment.measure

    def warning(self, run):
        warnings.warn("few pairs", stacklevel=1)
        measure(self, run)

    monkeypatch.setattr(SeparationExperiment, "measure", warning)
    made = run_grid(
        experiment(), {"power": (1.0, 2.0)}, results=tmp_path, on=Here(), progress=False
    )
    assert "few pairs (2 of 2 runs)" in made.warnings


# What is asked for --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "why"),
    [
        ({"sede": (0, 1)}, "Did you mean seed"),
        ({}, "names no field"),
        ({"contrast": "reviews/truth"}, "Give a list of values"),
        ({"seed": ()}, "no value"),
        ({"seed": (0, -1)}, "seed=-1"),
        ({"seed": (0, 0)}, "twice"),
        ({"method": ("DiffMean", "DifMean")}, "DifMean"),
        ({"contrast": ("reviews/sentiment", "reviews/joy")}, "joy"),
        ({"contrast": ("nowhere.jsonl",)}, "nowhere.jsonl"),
        ({"device": ("cpu", "cuda:7")}, "cuda:7"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(tmp_path, axes, why):
    with pytest.raises((ExperimentError, EngineError), match=why):
        run_grid(experiment(), axes, results=tmp_path, on=Local(), progress=False)
    assert not list(tmp_path.iterdir())


def test_settings_that_cannot_be_are_refused(unchecked):
    for more, why in (
        ({"workers": 0}, "workers=0"), ({"on": "slurm"}, "no engine"), ({"limit": 0}, "limit=0"),
        ({"on": Local(threads=0)}, "threads=0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=why):
            run_grid(experiment(), {"seed": (0,)}, **more)


def test_a_class_of_a_notebook_is_refused():
    made = type("Mine", (type(experiment()),), {"__module__": "__main__"})()
    main_module = sys.modules["__main__"]
    had = main_module.__dict__.pop("__file__", None)
    try:
        with pytest.raises(ExperimentError, match="is no file, so workers cannot read it"):
            run_grid(made, {"seed": (0,)})
    finally:
        if had is not None:
            main_module.__file__ = had


# What workers are handed --------------------------------------------------------------------------


class Side(enum.Enum):
    LEFT = "left"


@dataclass(frozen=True)
class Step:
    """Part of a method."""

    size: float = 0.1
    names: tuple[str, ...] = ("a", "b")


@dataclass(frozen=True)
class Several:
    """A method that holds one of each kind of value."""

    step: Step = Step()
    side: Side = Side.LEFT
    kind: type = Step
    file: Path = Path("words.txt")
    weights: dict = field(default_factory=lambda: {"a": [1, 2.5, None], "b": (True, float("inf"))})

    def __call__(self, positive, negative):
        return positive.mean(0) - negative.mean(0)


class Scaled:
    """A method that is no dataclass and states its settings."""

    def __init__(self, by: float = 1.0) -> None:
        self.by = 2 * by

    def __call__(self, positive, negative):
        return self.by * (positive.mean(0) - negative.mean(0))

    def __repr__(self) -> str:
        return f"Scaled(by={self.by})"


@dataclass(frozen=True)
class Doubled(Step):
    """A method whose constructor changes what it is given."""

    def __post_init__(self):
        object.__setattr__(self, "size", 2 * self.size)

    __call__ = Several.__call__


@dataclass(frozen=True)
class Held(Step):
    """A method that holds a tensor."""

    of: torch.Tensor = field(default_factory=lambda: torch.zeros(2))

    __call__ = Several.__call__


@pytest.mark.parametrize("method", [Several(Step(0.1 + 0.2)), Scaled(3.0), PCA(centred=True)])
def test_an_experiment_comes_back_from_json(method):
    asked = experiment(method=method, power=0.1 + 0.2, layers=range(3))
    content = experiment_bytes(asked)
    made = read_experiment(content)
    assert type(made) is type(asked) and made.fields() == asked.fields()
    assert repr(vars(made.method)) == repr(vars(method))
    assert digest_in(content) == asked.digest


@pytest.mark.parametrize(
    ("method", "why"),
    [
        (Doubled(), r"comes back from plain data as .Doubled\(size=0.4"),
        (Held(), r"method.of is tensor\(\[0., 0.\]\), of Tensor, which a worker cannot be sent"),
        (
            dataclasses.make_dataclass("Lost", [], bases=(Several,), frozen=True)(),
            "There is no Lost in",
        ),
    ],
)
def test_what_a_worker_could_not_make_is_refused_before_any_work(tmp_path, method, why):
    asked = experiment(method=method)
    with pytest.raises(ExperimentError, match=f"cannot be handed to a worker: .*{why}"):
        run_grid(asked, {"seed": (0,)}, results=tmp_path, on=Here())
    assert not list(tmp_path.iterdir())


def test_a_worker_that_finds_another_class_does_no_work(tmp_path):
    content = experiment_bytes(experiment())
    worker = CellWorker(Setup(str(tmp_path), os.getcwd()), 1)
    outcome = worker.run(content.replace(b'"power": 2.0', b'"power": 3.0'), "stranger", False)
    assert "makes another experiment here" in outcome.error and not outcome.fault
    with pytest.raises(ExperimentError, match="There is no Missing in tests.stranger_experiment"):
        CellWorker(
            Setup(str(tmp_path), os.getcwd(), classes=(("tests.stranger_experiment", "Missing"),)),
            1,
        )
    assert not list(tmp_path.iterdir())


def test_a_script_is_known_in_a_worker_without_running_it(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text("class Mine:\n    pass\n\nif __name__ == '__main__':\n    raise SystemExit\n")
    monkeypatch.setitem(sys.modules, "__mp_main__", sys.modules["__main__"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    require_module("__main__", str(script))
    assert found("__main__", "Mine").__module__ == "__mp_main__"


# From the shell -----------------------------------------------------------------------------------


@pytest.fixture
def here(monkeypatch):
    """Workers of the command line run in this process."""
    monkeypatch.setattr(grid_package, "Local", lambda threads: Here())


def test_a_grid_from_the_shell_is_said_to_be_finished_at_once(tmp_path, capsys, here):
    words = [
        "run", str(PATH), "--grid", "power=1.0,2.0", "layers=1,1 5", "--n-fit", "8",
        "--results", str(tmp_path),
    ]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 4
    assert said.err.splitlines()[3].startswith("[4/4] power=2.0 layers=1 5: finished")
    assert said.out.splitlines()[0].split() == ["power", "layers", "state"]
    assert len(list(tmp_path.glob("stranger_experiment-*/manifest.json"))) == 4
    assert main(words) == 0
    again = capsys.readouterr()
    assert again.err.startswith("steerlens: already finished in ") and again.out == said.out
    next(tmp_path.glob("*/separation.csv")).unlink()  # one run is damaged
    assert main(words) == 0
    assert "already finished" not in capsys.readouterr().err
    assert main(["list", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_each_finished_run_of_a_grid_is_tracked(tmp_path, monkeypatch, here):
    calls = []
    made = SimpleNamespace(init=lambda **given: calls.append(given["name"]), log=calls.append,
                           finish=lambda: calls.append("finish"))  # fmt: skip
    monkeypatch.setitem(sys.modules, "wandb", made)
    words = ["run", str(PATH), "--grid", "power=1.0,2.0", "--n-fit", "8", "--layers", "1"]
    assert main([*words, "--results", str(tmp_path), "--track", "wandb"]) == 0
    names = {path.parent.name for path in tmp_path.glob("stranger_experiment-*/manifest.json")}
    assert len(calls) == 6 and set(calls[::3]) == names
    assert calls[2] == calls[5] == "finish" and "summary/farthest apart" in calls[1]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--grid"], "names no field"),
        (["--grid", "seed"], "write FIELD=VALUE"),
        (["--grid", "seed=0", "--seed", "1"], "stands in --grid and as --seed"),
        (["--grid", "seed=0", "--grid", "seed=1"], "twice"),
        (["--grid", "sede=0"], "Did you mean seed"),
        (["--grid", "power=1.0", "--name", "a/b"], "cannot begin the name"),
    ],
)
def test_words_that_make_no_grid_are_refused(capsys, words, why):
    assert main(["run", str(PATH), *words]) == 2
    assert why in capsys.readouterr().err


def test_a_value_of_another_type_is_refused_as_an_option_is(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", str(PATH), "--grid", "seed=0,one"])
    assert stop.value.code == 2
    assert "one" in capsys.readouterr().err


def test_commas_inside_brackets_separate_nothing():
    asked = asked_of(
        ["--n-fit", "8", "--grid=method=Logistic(c=0.1, fit=True),PCA", "layers=0 1,2"]
    )
    assert asked is not None and asked.rest == ["--n-fit", "8"]
    assert asked.assignments == {
        "method": ["Logistic(c=0.1, fit=True)", "PCA"], "layers": ["0 1", "2"]
    }  # fmt: skip


# Views --------------------------------------------------------------------------------------------


def test_the_heatmap_is_the_mean_over_the_other_fields_and_marks_what_is_chance(tmp_path):
    """On numbers written by hand: model x contrast with two seeds each."""
    numbers = {("a", "p"): (1.0, 3.0), ("a", "q"): (0.5, 0.5), ("b", "p"): (2.0, None)}
    runs = []
    for model, contrast, seed in itertools.product("ab", "pq", (0, 1)):
        gain = numbers.get((model, contrast), (None, None))[seed]
        found = {} if gain is None else {
            "gain": gain, "gain_low": gain - 1, "gain_high": gain + 1,
            "above_null": float(contrast == "p"),
        }  # fmt: skip
        values = {"model": model, "contrast": contrast, "seed": seed}
        error = "" if found else "why it failed"
        runs.append(GridRun(values, tmp_path / f"{model}{contrast}{seed}", found, {}, error))
    made = GridRuns(tmp_path, tuple(runs), {"experiment": "E", "model": "m"})
    drawn = made.plot().data[0]
    assert np.array(drawn.z, dtype=float).tolist()[::-1][0] == [2.0, 0.5]  # a is on top
    assert np.array(drawn.z, dtype=float)[0, 0] == 2.0 and drawn.z[0][1] is None
    ring = [t for t in made.plot().data if t.name == "no more than chance" and t.x[0] is not None]
    assert len(ring[0].x) == 1
    assert "seed 1: failed" in drawn.hovertext[0][0]
    dots = made.plot_runs()
    assert sum(len(t.x) for t in dots.data if t.name.startswith("model")) == 5
    assert "Gain by seed and" in made.plot("gain", rows="seed").layout.title.text
    with pytest.raises(ValueError, match="no quantity 'auroc'. There are gain"):
        made.plot("auroc")
    with pytest.raises(ValueError, match="no field 'layer'"):
        made.plot(rows="layer")
    frame = made.to_frame()
    assert list(frame.columns[:4]) == ["model", "contrast", "seed", "state"]
    assert (frame.state == "finished").sum() == 5
