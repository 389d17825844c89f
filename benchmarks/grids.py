"""What does a grid gain from a second worker, and what do its workers cost beside the runs?

    python benchmarks/grids.py               # 12 runs with 1 and with 2 processes
    python benchmarks/grids.py --on ray      # the same with actors of Ray

Every line is the same grid in a new folder, with one thread for each worker. The bars: two workers at
least 1.6 times as fast as one; and the engine takes less than 2 s (on Ray, beside Ray's own start).
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import tyro

from steerlens import SteerabilityExperiment, run_grid
from steerlens.grid import Engine, Local, OnRay
from steerlens.grid.engines import Done, Event, Ready, Setup
from steerlens.grid.grid_cells import GridCell

FASTER, OVERHEAD = 1.6, 2.0
"""The bars: times as fast with two workers as with one, and seconds of the engine."""


@dataclass
class Timed:
    """An engine, and when its workers were ready and had finished."""

    engine: Engine
    begun: float = 0.0
    ready: float = math.nan
    """When the first worker could be given a run."""
    runs: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    """By worker: the seconds that its runs took, loading the model included."""

    def require(self, cells: Sequence[GridCell], workers: int) -> int:
        self.begun = time.perf_counter()
        return self.engine.require(cells, workers)

    def start(self, setup: Setup) -> int:
        return self.engine.start(setup)

    def give(self, worker: int, experiment: bytes, name: str, again: bool) -> None:
        self.engine.give(worker, experiment, name, again)

    def wait(self, seconds: float) -> list[Event]:
        events = self.engine.wait(seconds)
        for event in events:
            if isinstance(event, Ready) and math.isnan(self.ready):
                self.ready = time.perf_counter()
            elif isinstance(event, Done):
                self.runs[event.worker] += event.outcome.seconds
        return events

    def kill(self, worker: int) -> None:
        self.engine.kill(worker)

    def stop(self) -> None:
        self.engine.stop()


def main(
    runs: int = 12,
    questions: int = 64,
    fit: int = 200,
    workers: tuple[int, ...] = (1, 2),
    on: Literal["local", "ray"] = "local",
    repeats: int = 1,
) -> None:
    """Prints a table.

    Args:
        runs: Of the grid: as many seeds.
        questions: To choose the cell on in each run, and as many to report on.
        fit: Pairs to fit directions on.
        workers: Numbers of workers, one line of the table each.
        repeats: Times that every line is measured, in turn.
    """
    experiment = SteerabilityExperiment(
        n_fit=fit, n_choose=questions, n_report=questions, n_neutral=16, layers=(2, 4, 6), nulls=0,
        written=0, confirmed=0, strengths=0, samples=0,
    )  # fmt: skip
    print(
        "| workers | wall, s | all runs, s | first worker ready after, s "
        "| beside the runs of the busiest worker, s | of these after the start, s | times as fast |"
    )
    print("|---|---|---|---|---|---|---|")
    walls: dict[int, float] = {}
    tables = []
    for count in workers * repeats:
        timed = Timed(OnRay(cpus=1) if on == "ray" else Local(threads=1))
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            made = run_grid(
                experiment, {"seed": range(runs)}, results=folder, on=timed, workers=count,
                progress=False,
            )  # fmt: skip
            wall = time.perf_counter() - start
            if made.failed:
                raise SystemExit(made.summary())
            tables.append(made.to_frame())
        busiest, started = max(timed.runs.values()), timed.ready - timed.begun
        walls.setdefault(count, wall)
        beside = wall - busiest
        print(
            f"| {count} | {wall:.1f} | {sum(timed.runs.values()):.1f} | {started:.1f} | "
            f"{beside:.1f} | {beside - started:.1f} | {walls[workers[0]] / wall:.2f} |",
            flush=True,
        )
    same = all(tables[0].equals(table) for table in tables[1:])
    print(f"\nThe tables of the runs are {'the same' if same else 'NOT the same'}.")
    print(
        f"Bars: {FASTER} times as fast with two workers; {OVERHEAD:g} s after the start of the first "
        "worker, which imports torch and TransformerLens."
    )


if __name__ == "__main__":
    tyro.cli(main, args=sys.argv[1:])
