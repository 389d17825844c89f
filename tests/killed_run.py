"""A small run over cells and a run's folder, killed at random steps; started by test_kills.py.

Usage: python killed_run.py FOLDER KILLS SEED. A step is a call that changes a file or a folder. A
forked process kills itself before a random one of them, so that no kill depends on how fast the
machine is. Prints how many kills there were.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from steerlens.store.cells import Cells
from steerlens.store.documents import write_document
from steerlens.store.files import write_text
from steerlens.store.run_folder import RunFolder
from steerlens.store.tensors import write_tensors

STEPS = ("open", "fsync", "replace", "mkdir", "unlink")


def run(path: Path) -> None:
    """Computes twelve units in two parts, writes two results, a table and the marker."""
    with RunFolder.open(path) as folder:
        if folder.finished:
            return
        cells, means = Cells(folder.path / "cells", facts={"run": "abc"}, progress=False), {}
        for name in ("gain", "shifts/hotel"):
            part = cells.part(name)
            values = [part.compute(k, lambda k=k, name=name: unit(k, name))["x"] for k in range(6)]
            whole = torch.stack(values)
            means[name] = float(whole.mean())
            write_tensors(folder.path / f"{len(name)}.safetensors", {"x": whole})
        write_document(folder.path / "map.json", means)
        write_text(folder.path / "map.csv", "\n".join(f"{n},{m}" for n, m in means.items()))
        folder.finish()


def unit(k: int, name: str) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(2000, generator=torch.Generator().manual_seed(100 * k + len(name)))}


class Counter:
    """Counts the steps of this process, and kills it before one of them."""

    def __init__(self, last: int | None = None) -> None:
        self.steps = 0
        for name in STEPS:
            setattr(os, name, self._counted(getattr(os, name), last))

    def _counted(self, real: Callable[..., Any], last: int | None) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if self.steps == last:
                os.kill(os.getpid(), signal.SIGKILL)
            self.steps += 1
            return real(*args, **more)

        return call


def forked(work: Callable[[], int]) -> int:
    """The exit status of a process that does the work; the number of steps fits into it."""
    if (child := os.fork()) == 0:
        os._exit(work())
    return os.waitpid(child, 0)[1]


def counted(path: Path) -> int:
    counter = Counter()
    run(path)
    return counter.steps


def main(home: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)  # a forked process has no other threads
    steps = os.waitstatus_to_exitcode(forked(lambda: counted(home / "uninterrupted")))
    rng, done = random.Random(seed), 0
    for last in range(kills):
        path = home / f"killed-{last % 4}"  # each is killed several times on its way

        def killed(path: Path = path, step: int = rng.randrange(steps)) -> int:
            Counter(step)
            run(path)
            return 0

        done += os.WIFSIGNALED(forked(killed))
    for last in range(4):
        run(home / f"killed-{last}")
    sys.stdout.write(f"{done}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
