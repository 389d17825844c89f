"""Runs one contestant in its own process: a request per line on stdin, a reply per line on stdout.

Run as `python benchmarks/worker.py CONTESTANT`. Nothing here knows any library; a contestant is a
module with `load`, `directions`, `sweep` and `generate`; steerlens's also has what it is timed at
against itself.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import load_file, save_file
from task import Reply, Request, read_work


def main(name: str) -> None:
    torch.set_num_threads(1)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not land among the replies
    contestant = importlib.import_module(f"contestants.{name}")
    for line in sys.stdin:
        reply = handle(contestant, Request(**json.loads(line)))
        replies.write(json.dumps(asdict(reply)) + "\n")
        replies.flush()


def handle(contestant: ModuleType, request: Request) -> Reply:
    work = read_work(request.work)
    contestant.load(work.model_dir)  # kept by the contestant, so only the first call costs
    vectors = load_file(work.vectors)["vectors"]
    multipliers = work.multipliers if request.multipliers is None else request.multipliers
    n_new = work.n_new if request.n_new is None else request.n_new
    n, batch_size = request.count, request.batch_size
    prompts, answers = list(work.prompts[:n]), list(work.answers[:n])
    pairs = list(work.pairs[:n])
    before = start_of_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    if request.task == "directions":
        result = contestant.directions(work.model_dir, pairs, batch_size=batch_size)
    elif request.task == "unsteered":
        result = contestant.unsteered(work.model_dir, prompts, n_new)
    elif request.task == "screen":
        result = contestant.screened(work.model_dir, prompts, answers, vectors)
    elif request.task == "generate":
        result = contestant.generate(
            work.model_dir,
            prompts,
            vectors[work.layer],
            work.layer,
            work.multiplier,
            n_new,
            batch_size=batch_size,
        )
    else:
        result = contestant.sweep(
            work.model_dir,
            prompts,
            answers,
            vectors,
            list(multipliers),
            "all" if request.task == "sweep_all" else "last",
            batch_size=batch_size,
        )
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    extra = None if before is None else max(0, resident_bytes("VmHWM") - before)
    save_file({"result": result.detach().clone().contiguous()}, request.out)
    return Reply(cpu_seconds=cpu, wall_seconds=wall, extra_bytes=extra)


def start_of_peak() -> int | None:
    """Forgets earlier peaks and returns the resident bytes now; None where only Linux can do it.

    `ru_maxrss` alone would hide what a task needs below the peak of loading the weights.
    """
    clear = Path("/proc/self/clear_refs")
    if not os.access(clear, os.W_OK):
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    clear.write_text("5")
    return resident_bytes("VmRSS")


def resident_bytes(field: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(row.split()[1]) for row in status if row.startswith(field))


if __name__ == "__main__":
    main(sys.argv[1])
