"""A small run over cells and a run's folder, killed at random moments; started by test_kills.py.

Usage: python killed_run.py FOLDER KILLS SECONDS. Prints how many kills hit a run that was working.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from steerlens.store.cells import Cells
from steerlens.store.documents import write_document
from steerlens.store.files import write_text
from steerlens.store.run_folder import RunFolder
from steerlens.store.tensors import write_tensors


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


def main(home: Path, kills: int, seconds: float) -> None:
    torch.set_num_threads(1)  # a forked process has no other threads
    started = time.monotonic()
    run(home / "uninterrupted")
    duration = time.monotonic() - started
    rng, hit, last = random.Random(), 0, 0
    while hit < kills and time.monotonic() - started < seconds:
        if (child := os.fork()) == 0:
            run(home / f"killed-{last}")
            os._exit(0)
        time.sleep(rng.uniform(0, 1.2 * duration))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            hit += 1
        elif status:
            sys.exit("a run that went on failed")
        else:
            last += 1  # it finished before it was killed: begin another
    run(home / f"killed-{last}")
    sys.stdout.write(f"{hit}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
