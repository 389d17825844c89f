"""A grid of experiments in one call."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from steerlens.experiment import Experiment, Run
from steerlens.experiment.experiment_data import ExperimentError
from steerlens.experiment.field_values import as_json
from steerlens.grid import grid_views
from steerlens.grid.engines import Engine, EngineError, Outcome, Setup
from steerlens.grid.grid_cells import (
    Axes,
    GridCell,
    digest_of_grid,
    grid_cells,
    in_short,
    modules_of,
    own_classes,
    packed,
    require_data,
)
from steerlens.grid.grid_runs import FILE, PAGE, SUMMARY, TABLE, GridRun, GridRuns
from steerlens.grid.local_engine import Local
from steerlens.grid.ray_engine import OnRay
from steerlens.grid.schedule import Schedule
from steerlens.report.grid_page import grid_page
from steerlens.results import headline_numbers_of, headline_of
from steerlens.store.documents import write_document
from steerlens.store.files import expanded, write_text
from steerlens.store.headline import read_headline
from steerlens.store.run_folder import RunFolder

On = Literal["local", "ray"]


def run_grid(
    experiment: Experiment,
    axes: Axes,
    *,
    results: Path | str = "results",
    name: str | None = None,
    on: On | Engine = "local",
    workers: int = 1,
    limit: float | None = None,
    progress: bool | Callable[[str], None] = True,
) -> GridRuns:
    """Runs every combination of some fields' values, each as an ordinary run.

    Each run has its own folder in `results`, with the same files as the experiment run alone with
    as many threads. What is finished is not done again, so a grid that was stopped goes on, and a
    larger grid makes use of a smaller one. A run that fails is reported, and the others go on.

    Args:
        experiment: What all runs share.
        axes: By field: the values that it takes, e.g. ``{"seed": (0, 1), "method": ("PCA", "LDA")}``.
        results: The folder that holds the runs.
        name: How the folders of the runs begin; by default the kind of experiment.
        on: "local" for processes of this machine, "ray" for Ray (the extra steerlens[ray]), or an
            engine with its own settings: `Local(threads=2)`, `OnRay(address="auto", gpus=1)`.
        workers: How many runs are made at the same time. Each worker loads its own model, and keeps
            it for the next run that has the same.
        limit: Seconds that one run may take before it counts as failed; None for any.
        progress: Whether a line is printed for each run that is over, or what is called with it.

    Raises:
        ExperimentError: If a value cannot be a value of its field, or data cannot be read; nothing
            is written then.
        EngineError: If there is no such engine or device, or no worker can be started.
        StorageError: If files cannot be written, or another process runs the same grid.
    """
    if limit is not None and not limit > 0:
        raise ExperimentError(f"limit={limit}: give the seconds that a run may take, or None.")
    engine = engine_named(on)
    cells = grid_cells(experiment, axes, name=name)
    classes = own_classes(cells)
    modules = modules_of(classes)
    for cell in cells:
        packed(cell)
    require_data(cells)
    count = engine.require(cells, workers)
    root = expanded(results)
    folder = root / f"{name or experiment.kind}-grid-{digest_of_grid(cells)}"
    setup = Setup(
        str(root.resolve()), os.getcwd(), modules,
        tuple((of.__module__, of.__qualname__) for of in classes), tuple(filter(None, sys.path)),
    )  # fmt: skip
    said = Lines(cells, root, progress)
    with RunFolder.open(folder) as grid:
        grid.reopen()
        read: dict[int, GridRun] = {}

        def read_back(k: int, outcome: Outcome) -> None:
            read[k] = _read_back(experiment, cells[k], outcome, root)

        outcomes = Schedule(cells, engine, setup, said, limit, read_back).run(count)
        for k, outcome in enumerate(outcomes):
            if k not in read:
                read_back(k, outcome)
        made = _collected(experiment, cells, outcomes, [read[k] for k in range(len(cells))], folder)
        _write(made, experiment)
        grid.finish([FILE, TABLE, PAGE, SUMMARY])
    return made


def engine_named(on: On | Engine) -> Engine:
    """The engine of a name.

    Raises:
        EngineError: If there is none.
    """
    if not isinstance(on, str):
        return on
    if on == "local":
        return Local()
    if on == "ray":
        return OnRay()
    raise EngineError(f"on={on!r} is no engine. Use 'local' or 'ray'.")


class Lines:
    """A line for each run that is over, and for what else a reader should know."""

    def __init__(
        self, cells: Sequence[GridCell], root: Path, progress: bool | Callable[[str], None]
    ) -> None:
        self._cells, self._root = cells, root
        self._say = _to_stderr if progress is True else progress or _to_nobody
        self._over = 0
        self._started = time.perf_counter()

    def __call__(self, k: int, outcome: Outcome | None, line: str) -> None:
        """Says what came of a run, or a line about it."""
        if outcome is None:
            self._say(f"        {self._cells[k]}: {line}")
            return
        self._over += 1
        total = len(self._cells)
        head = f"[{self._over:{len(str(total))}d}/{total}] {self._cells[k]}"
        self._say(f"{head}: {self._came_to(outcome)}")

    def _came_to(self, outcome: Outcome) -> str:
        if outcome.error:
            return f"failed: {' '.join(outcome.error.split())}"
        found = read_headline(self._root / outcome.folder)
        words = ", ".join(f"{k} {found[k]}" for k in ("cell", "gain") if k in found) or "finished"
        took = "finished before" if outcome.before else f"{outcome.seconds:.1f} s"
        return f"{words} ({took})"


def _read_back(experiment: Experiment, cell: GridCell, outcome: Outcome, root: Path) -> GridRun:
    """A run with its numbers, read from its folder and checked there."""
    numbers: Mapping[str, float] = {}
    headline: Mapping[str, str] = {}
    error = outcome.error
    if not error:
        try:
            found = Run.load(root / outcome.folder, type(experiment).results)
            numbers = headline_numbers_of(found.results.values())
            headline = headline_of(found.results.values())
        except (ValueError, OSError) as damaged:
            error = str(damaged)
    values = {name: as_json(name, value) for name, value in cell.values.items()}
    seconds = float("nan") if outcome.before or outcome.error else outcome.seconds
    return GridRun(values, root / cell.folder, numbers, headline, error, outcome.fault, seconds)


def _collected(
    experiment: Experiment,
    cells: Sequence[GridCell],
    outcomes: Sequence[Outcome],
    runs: Sequence[GridRun],
    folder: Path,
) -> GridRuns:
    """All runs, and what they share."""
    differ = set(cells[0].values)
    shared = {k: v for k, v in experiment.fields().items() if k not in differ}
    warned = Counter(text for outcome in outcomes for text in outcome.warnings)
    listed = tuple(f"{text} ({count} of {len(runs)} runs)" for text, count in warned.items())
    return GridRuns(folder, tuple(runs), shared, listed)


def _write(made: GridRuns, experiment: Experiment) -> None:
    """Writes the files of a grid."""
    fields = made.fields
    version = importlib.metadata.version("steerlens")
    what = grid_views.section(made.runs, fields, _question(made))
    meta = f"{type(experiment).__name__} · {len(made.runs)} runs"
    write_document(made.folder / FILE, made.stated())
    write_text(made.folder / TABLE, made.to_frame().to_csv(index=False))
    write_text(made.folder / SUMMARY, "\n".join(made.lines()) + "\n")
    write_text(
        made.folder / PAGE,
        grid_page(
            what, meta=meta, version=version,
            fields={k: ", ".join(map(in_short, v)) for k, v in fields.items()},
        ),
    )  # fmt: skip


def _question(made: GridRuns) -> str:
    shared = [str(made.shared[k]) for k in ("contrast", "model") if k in made.shared]
    of = f" of {' on '.join(shared)}" if shared else ""
    return f"{made.shared['experiment']}{of} by {' and '.join(made.fields)}"


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _to_nobody(line: str) -> None:
    """Says nothing."""
