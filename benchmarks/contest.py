"""The contestants, their processes, and whether their numbers agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from environment import ENV, HERE, peers_python
from safetensors.torch import load_file
from task import Reply, Request, TaskName
from torch import Tensor

DIRECTION_TOLERANCE = 1e-4
"""Norm of the difference over the norm of the direction, at the worst layer."""
LOG_ODDS_TOLERANCE = 1e-3
"""Nats."""
LEAST_EFFECT = 0.05
"""Nats by which some cell of a sweep must move, or agreement would prove nothing."""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One way of doing the work: a file in `contestants/`, and how many texts it takes at once."""

    module: str
    label: str
    role: Literal["ours", "naive", "peer"]
    style: Literal["whole", "loop", "batched"]
    """All the work in one call; or one text at a time, or in batches, on a part of it."""
    peers_environment: bool = True
    other_estimator: bool = False
    """Its directions are another statistic, so they are compared with nobody's."""


CONTESTANTS = {
    "steerlens": Contestant(
        module="steerlens_",
        label="steerlens",
        role="ours",
        style="whole",
        peers_environment=False,
    ),
    "tl-loop": Contestant(
        module="transformer_lens_",
        label="TransformerLens, one by one",
        role="naive",
        style="loop",
        peers_environment=False,
    ),
    "tl-batched": Contestant(
        module="transformer_lens_",
        label="TransformerLens, batched",
        role="naive",
        style="batched",
        peers_environment=False,
    ),
    "hf-loop": Contestant(
        module="huggingface_", label="Hugging Face hook, one by one", role="peer", style="loop"
    ),
    "hf-batched": Contestant(
        module="huggingface_", label="Hugging Face hook, batched", role="peer", style="batched"
    ),
    "steering-vectors": Contestant(
        module="steering_vectors_", label="steering-vectors", role="peer", style="batched"
    ),
    "repeng": Contestant(
        module="repeng_", label="repeng", role="peer", style="batched", other_estimator=True
    ),
    "nnsight": Contestant(module="nnsight_", label="nnsight", role="peer", style="batched"),
    "pyvene": Contestant(module="pyvene_", label="pyvene", role="peer", style="batched"),
}
REFERENCES = ("hf-loop", "hf-batched", "tl-loop", "tl-batched")
"""The first of these that ran is what the others are compared with."""


class ContestantFailedError(RuntimeError):
    """A contestant's process ended before it answered."""


class Worker:
    """A contestant's process, which keeps its model loaded between requests."""

    def __init__(self, key: str, scratch: Path) -> None:
        contestant = CONTESTANTS[key]
        self.key, self.scratch = key, scratch
        python = str(peers_python()) if contestant.peers_environment else sys.executable
        self._log = (scratch / f"{key}.log").open("w+")
        one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
        quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        found = {"PYTHONPATH": str(HERE.parent)} if not contestant.peers_environment else {}
        self._process = subprocess.Popen(
            [python, str(HERE / "worker.py"), contestant.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | one_thread | quiet | found,
        )

    def ask(self, request: Request) -> tuple[Reply, Tensor]:
        """Has the request done, and returns its cost and its result.

        Raises:
            ContestantFailedError: If the process ended instead; the message is the last line that
                it wrote, and the whole log is `.env/scratch/<run>/<contestant>.log`.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise ContestantFailedError(f"{self.key} has no pipes; start it again.")
        line = ""
        if self._process.poll() is None:
            with suppress(BrokenPipeError):  # it ended just now: an empty line says so below
                stdin.write(json.dumps(asdict(request)) + "\n")
                stdin.flush()
            line = stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            said = self._log.read().strip().splitlines() or ["nothing was said"]
            raise ContestantFailedError(said[-1])
        return Reply(**json.loads(line)), load_file(request.out)["result"]

    def stop(self) -> None:
        if self._process.stdin is not None and self._process.poll() is None:
            self._process.stdin.close()
        self._process.wait()
        self._log.close()


def scratch_folder(run: str) -> Path:
    """Where one run's work, answers and logs go; two runs of different names do not meet."""
    folder = ENV / "scratch" / run
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def agreement(task: TaskName, mine: Tensor, reference: Tensor, zero: int) -> str:
    """Says "same" and within what, or what differs; `zero` is the index of multiplier 0."""
    if task == "directions":
        error = ((mine - reference).norm(dim=-1) / reference.norm(dim=-1)).max().item()
        same, unit = error <= DIRECTION_TOLERANCE, "of the norm"
    elif task == "generate":
        rows = min(len(mine), len(reference))
        wrong = (mine[:rows] != reference[:rows]).sum().item()
        if wrong:
            return f"differs at {wrong} of {mine[:rows].numel()} tokens"
        return f"same {mine[:rows].numel()} tokens"
    else:
        n = min(mine.shape[-1], reference.shape[-1])
        mine, reference = mine[..., :n], reference[..., :n]
        effect = (reference - reference[:, zero : zero + 1]).abs().max().item()
        if effect < LEAST_EFFECT:
            return f"proves nothing: steering moved the log-odds by {effect:.1g} nats at most"
        error = (mine - reference).abs().max().item()
        same, unit = error <= LOG_ODDS_TOLERANCE, "nats"
    return f"same within {error:.0e} {unit}" if same else f"differs by {error:.1e} {unit}"
