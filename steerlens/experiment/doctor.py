"""What a bug report needs: the machine, the versions, and whether a stored result is reproduced."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from dataclasses import dataclass

import psutil
import torch

from steerlens.directions.methods import DiffMean
from steerlens.experiment.experiment_data import load_data
from steerlens.experiment.manifest import source_commit, versions
from steerlens.interventions.residual import Add
from steerlens.measures.reading import activations
from steerlens.measures.sweep import sweep
from steerlens.models.memory import free_bytes
from steerlens.models.model import Model
from steerlens.models.speed import least_seconds

EXTRAS = ("sae-lens", "gguf", "kaleido", "ipykernel", "nbclient")
"""Packages of the extras."""
LAYER, MULTIPLIER = 4, 0.25
"""Where the reference model is steered: in the middle, in units of the stream's norm."""
STORED = {"unsteered": -0.17632, "gain": 0.64665}
"""What that gives in float32: mean log-odds of 16 questions without steering, and the gain."""
TOLERANCE = 1e-3
"""Nats by which machines may differ: about a hundred times what threads and libraries change."""


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """The lines of a diagnosis, and whether the stored result was reproduced."""

    lines: tuple[tuple[str, str], ...]
    reproduces: bool

    def __repr__(self) -> str:
        wide = max(len(name) for name, _ in self.lines)
        return "\n".join(f"{name:<{wide}}  {said}" for name, said in self.lines)


def diagnose() -> Diagnosis:
    """Looks at the machine and the installation, and measures a small result of the reference model.

    The result takes a few seconds: the mean log-odds of 16 questions, and the gain from a difference
    of means of 64 pairs. A difference beyond rounding means that numbers of this machine are not
    those of others; a failure is named and does not end the diagnosis.
    """
    found = versions()
    lines = [
        ("steerlens", f"{found.pop('steerlens')}{_commit()}"),
        ("python", f"{found.pop('python')}, {platform.platform()}"),
        ("packages", ", ".join(f"{name} {version}" for name, version in found.items())),
        ("extras", ", ".join(f"{name} {_version(name)}" for name in EXTRAS)),
        ("threads", _threads()),
        ("memory", _memory()),
        ("devices", _devices()),
        ("precision", _precision()),
        ("products", _products()),
        ("terminal", _terminal()),
    ]
    start = time.perf_counter()
    try:
        measured = measure_reference()
    except Exception as error:  # whatever it is belongs into the report
        return Diagnosis((*lines, ("reference", f"failed: {type(error).__name__}: {error}")), False)
    worst = max(abs(measured[name] - STORED[name]) for name in STORED)
    same = worst <= TOLERANCE
    said = ", ".join(f"{name} {measured[name]:.5f} (stored {STORED[name]:.5f})" for name in STORED)
    verdict = "reproduced" if same else f"NOT REPRODUCED, off by {worst:.2g} nats"
    lines.append(("reference", f"{verdict}: {said}; {time.perf_counter() - start:.1f} s"))
    return Diagnosis(tuple(lines), same)


def measure_reference() -> dict[str, float]:
    """Log-odds of some questions on the reference model, and what steering adds to them, in nats."""
    model = Model.load("reviews")
    data = load_data("reviews/sentiment", None, (64, 16, 16), 8, 0)
    read = activations(model, data.fit, layers=[LAYER], progress=False)
    steer = Add(read.direction(LAYER, DiffMean()))
    odds = sweep(model, data.choose, [steer], (0.0, MULTIPLIER), progress=False).log_odds[0]
    unsteered, steered = odds.double().mean(-1).tolist()
    return {"unsteered": unsteered, "gain": steered - unsteered}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    found = source_commit()
    return f", commit {found}" if found else ""


def _threads() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    asked = os.environ.get("OMP_NUM_THREADS", "not set")
    return f"torch {torch.get_num_threads()}, processors {usable}, OMP_NUM_THREADS {asked}"


def _memory() -> str:
    total = psutil.virtual_memory().total
    return f"{free_bytes(torch.device('cpu')) / 2**30:.1f} GiB free of {total / 2**30:.1f}"


def _devices() -> str:
    found = ["cpu"]
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(i)
        found.append(f"cuda:{i} {facts.name}, {facts.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        found.append("mps")
    return "; ".join(found)


def _precision() -> str:
    small = "yes" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no GPU"
    return (
        f"default {str(torch.get_default_dtype()).removeprefix('torch.')}, float32 products "
        f"{torch.get_float32_matmul_precision()}, bfloat16 on a GPU: {small}, deterministic "
        f"{torch.are_deterministic_algorithms_enabled()}"
    )


def _products() -> str:
    """Rates of matrix products, of which the second decides whether `products="bfloat16"` pays."""
    factor, rates = torch.randn(512, 512), []
    for own in (factor, factor.bfloat16()):
        seconds = least_seconds(lambda own=own: own @ own, factor.device)
        rates.append(512**3 / seconds / 1e9)
    one, half = rates
    return (
        f"{one:.3g} G multiply-adds per second in float32, {half:.3g} in bfloat16 "
        f"({half / one:.2g} times), on the CPU"
    )


def _terminal() -> str:
    stream = sys.stdout
    encoding = getattr(stream, "encoding", None) or "unknown"
    return f"{encoding}, {'a terminal' if stream.isatty() else 'no terminal'}"
