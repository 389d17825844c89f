"""Runs an experiment by the command line, kills it at random times until it is finished.

    python tests/kill_often.py FILE RESULTS KILLS SEED

First an uninterrupted run into RESULTS/whole, which is timed. Then into RESULTS/killed: a process
is started and killed (SIGKILL) after a random share of that time, KILLS times, and once it may
finish. Then into RESULTS/small with a hundredth of the free memory. Each run is a fork of this
process, so that everything is imported only once. Prints how many of the kills hit a running
process.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch


def main(file: str, results: str, kills: str, seed: str) -> int:
    torch.set_num_threads(1)  # before anything is computed: a fork has no other threads
    from steerlens import experiment  # noqa: F401 (imported once, for every fork)

    whole, killed, small = (Path(results) / name for name in ("whole", "killed", "small"))
    began = time.monotonic()
    finished(forked(file, whole))
    full = time.monotonic() - began
    draws, hit = random.Random(int(seed)), 0
    for _ in range(int(kills)):
        process = forked(file, killed)
        time.sleep(draws.uniform(0.02, 0.9) * full)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        hit += os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    finished(forked(file, killed))
    finished(forked(file, small, memory=0.01))
    sys.stdout.write(f"{hit} of {kills} kills hit a running process; a run takes {full:.1f} s\n")
    return 0


def forked(file: str, results: Path, memory: float = 1.0) -> int:
    """A process that runs the experiment; its id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        if memory != 1.0:
            with_less_memory(memory)
        from steerlens.cli import main as command_line

        status = command_line(["run", file, "--results", str(results)])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def with_less_memory(share: float) -> None:
    import psutil

    found = psutil.virtual_memory

    def less():
        now = found()
        return now._replace(available=int(now.available * share))

    psutil.virtual_memory = less


def finished(process: int) -> None:
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status:
        raise SystemExit(f"a run ended with status {status}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
