"""What is timed: one description, read by every contestant from JSON and safetensors."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

Positions = Literal["all", "last"]
"""Where a sweep steers: every position, or from the last prompt token on."""

TaskName = Literal["directions", "sweep_all", "sweep_last", "generate"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
AloneName = Literal["unsteered", "screen"]
"""What only steerlens is timed at, against itself."""
LETTERS: dict[TaskName, str] = {
    "directions": "A",
    "sweep_all": "B1",
    "sweep_last": "B2",
    "generate": "C",
}
TITLES: dict[TaskName, str] = {
    "directions": "one DiffMean direction per layer",
    "sweep_all": "layers x multipliers x prompts, steering at all positions",
    "sweep_last": "layers x multipliers x prompts, steering from the last prompt token on",
    "generate": "greedy steered generation, one layer steered",
}


@dataclass(frozen=True, kw_only=True)
class Work:
    """One set of inputs. Texts hold one token per word; steering is at `resid_post`."""

    model_dir: str
    """Hugging Face directory with weights, config and tokenizer."""
    pairs: tuple[tuple[str, str], ...]
    """(positive, negative) texts for the directions, read at their last token."""
    prompts: tuple[str, ...]
    """Prompts of the sweep and of the generation."""
    answers: tuple[tuple[str, str], ...]
    """For each prompt two answers of one token each; log-odds are first minus second, in nats."""
    multipliers: tuple[float, ...]
    """Strengths of the sweep, 0 included."""
    vectors: str
    """Safetensors file with `vectors`, float32 [layer, d_model]."""
    n_new: int
    """Tokens to generate."""
    layer: int
    """The layer steered in the generation."""
    multiplier: float
    """The strength of the generation."""

    def save(self, path: Path) -> Path:
        path.write_text(json.dumps(asdict(self)))
        return path


def read_work(path: Path | str) -> Work:
    """Reads what `Work.save` wrote."""
    fields = json.loads(Path(path).read_text())
    for name in ("pairs", "answers"):
        fields[name] = tuple((first, second) for first, second in fields[name])
    for name in ("prompts", "multipliers"):
        fields[name] = tuple(fields[name])
    return Work(**fields)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One thing for a worker to do: the first `count` pairs or prompts of a piece of work."""

    work: str
    task: TaskName | AloneName
    count: int
    batch_size: int
    out: str
    """Safetensors file for the answer, `result`."""
    multipliers: tuple[float, ...] | None = None
    """Instead of the work's own, for a short warm-up."""
    n_new: int | None = None
    """Instead of the work's own, for a short warm-up."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What one request cost."""

    cpu_seconds: float
    """Process time of all threads."""
    wall_seconds: float
    extra_bytes: int | None
    """Peak resident memory above the loaded model; None where the system cannot say."""
