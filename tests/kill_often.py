"""Runs an experiment by the command line, kills it at random steps until it is finished.

    python tests/kill_often.py FILE RESULTS KILLS SEED

First an uninterrupted run into RESULTS/whole, whose steps are counted: a step is a call that changes
a file or a folder (`killed_run.Counter`), so that no kill depends on how fast the machine is. Then
into RESULTS/killed: a process is started and kills itself (SIGKILL) before a random step, KILLS
times, and once it may finish. Then into RESULTS/small with little free memory. How much is free is
stated, so that nothing depends on what else runs on the machine. Each run is a fork of this
process, so that everything is imported only once. Prints how many of the kills hit a running process.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

import torch

from tests.killed_run import Counter

MUCH, LITTLE = 4 * 2**30, 256 * 2**20
"""Bytes of memory that are said to be free; a quarter of either holds each unit of work."""


def main(file: str, results: str, kills: str, seed: str) -> int:
    torch.set_num_threads(1)  # before anything is computed: a fork has no other threads
    from steerlens import experiment  # noqa: F401 (imported once, for every fork)

    whole, killed, small = (Path(results) / name for name in ("whole", "killed", "small"))
    count = Path(results) / "steps"
    finished(forked(file, whole, count=count))
    steps = int(count.read_text())
    draws, hit = random.Random(int(seed)), 0
    for _ in range(int(kills)):
        # What remains to be done gets shorter with every kill.
        process = forked(file, killed, last=round(draws.uniform(0.02, 0.4) * steps))
        hit += os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    finished(forked(file, killed))
    finished(forked(file, small, memory=LITTLE))
    sys.stdout.write(f"{hit} of {kills} kills hit a running process; a run has {steps} steps\n")
    return 0


def forked(
    file: str,
    results: Path,
    *,
    memory: int = MUCH,
    last: int | None = None,
    count: Path | None = None,
) -> int:
    """A process that runs the experiment, until its step `last`; its id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        with_memory(memory)
        from steerlens.cli import main as command_line

        counter = Counter(last)
        status = command_line(["run", file, "--results", str(results)])
        if count is not None:
            count.write_text(str(counter.steps))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def with_memory(free: int) -> None:
    import psutil

    found = psutil.virtual_memory
    psutil.virtual_memory = lambda: found()._replace(available=free)


def finished(process: int) -> None:
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status:
        raise SystemExit(f"a run ended with status {status}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
