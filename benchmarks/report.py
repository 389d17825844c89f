"""From the times of a run to its table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from contest import CONTESTANTS
from floor import Counts, Rates
from task import LETTERS, TITLES, TaskName, Work

UNITS: dict[TaskName, str] = {
    "directions": "pair",
    "sweep_all": "prompt",
    "sweep_last": "prompt",
    "generate": "run",
}


@dataclass(kw_only=True)
class Entry:
    """One contestant in one task."""

    contestant: str
    count: int
    """Pairs or prompts that it was timed on."""
    batch_size: int
    cpu_seconds: list[float] = field(default_factory=list)
    """Process time of each repeat."""
    wall_seconds: list[float] = field(default_factory=list)
    extra_bytes: int | None = None
    """Peak resident memory above the loaded model, the greatest over repeats."""
    verdict: str = "not compared"
    failure: str | None = None

    @property
    def agrees(self) -> bool:
        return self.verdict.startswith(("same", "reference"))

    def per_unit(self, task: TaskName) -> list[float]:
        units = 1 if task == "generate" else self.count
        return [seconds / units for seconds in self.cpu_seconds]


@dataclass(kw_only=True)
class TaskResult:
    """One task: what every contestant took, and what arithmetic asks for."""

    task: TaskName
    floor_seconds: float
    """Per pair, prompt or run."""
    entries: list[Entry]

    def median_of(self, entry: Entry) -> float | None:
        return median(entry.per_unit(self.task)) if entry.cpu_seconds else None

    def best(self, role: str, style: str | None = None) -> float | None:
        """The least median among the contestants whose numbers agree."""
        times = [
            self.median_of(entry)
            for entry in self.entries
            if entry.agrees
            and CONTESTANTS[entry.contestant].role == role
            and style in (None, CONTESTANTS[entry.contestant].style)
        ]
        return min((time for time in times if time is not None), default=None)

    def to_json(self) -> dict[str, Any]:
        unit = UNITS[self.task]
        rows = [
            asdict(entry) | {f"cpu_seconds_per_{unit}": self.median_of(entry)}
            for entry in self.entries
        ]
        return {"task": self.task, "floor_seconds": self.floor_seconds, "entries": rows}


def floor_seconds(task: TaskName, work: Work, count: int, counts: Counts, rates: Rates) -> float:
    """Floor of one pair, prompt or run, as a mean over the first `count`; one word is one token."""
    strengths = sum(multiplier != 0 for multiplier in work.multipliers)
    if task == "directions":
        texts = [len(text.split()) for pair in work.pairs[:count] for text in pair]
        return sum(map(counts.directions, texts)) / rates.many_rows / count
    lengths = [len(prompt.split()) for prompt in work.prompts[:count]]
    if task == "sweep_all":
        return sum(counts.sweep_all(t, strengths) for t in lengths) / rates.many_rows / count
    if task == "sweep_last":
        return sum(counts.sweep_last(t, strengths) for t in lengths) / rates.many_rows / count
    total = 0.0
    for t in lengths:
        blocks, unembedding = counts.decode(t, work.n_new)
        total += counts.prefill(t) / rates.many_rows
        total += blocks / rates.few_rows + unembedding / rates.unembed
    return total


def markdown(results: list[TaskResult], work: Work, settings: dict[str, Any]) -> str:
    """The tables of a run."""
    lines = []
    for result in results:
        lines += [*_table(result, work), ""]
    lines.append("Settings: " + ", ".join(f"{key}={value}" for key, value in settings.items()))
    return "\n".join(lines) + "\n"


def _table(result: TaskResult, work: Work) -> list[str]:
    unit = UNITS[result.task]
    style = None if result.task == "generate" else "loop"
    naive, peer = result.best("naive", style), result.best("peer")
    title = f"## {LETTERS[result.task]}: {TITLES[result.task]}"
    lines = [
        title,
        "",
        f"| contestant | {unit}s timed x batch | CPU s per {unit} (median) | least - most "
        "| less than naive TransformerLens | less than the fastest peer | times the floor "
        "| extra MB at the peak | numbers |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in result.entries:
        label = CONTESTANTS[entry.contestant].label
        time = result.median_of(entry)
        if time is None:
            lines.append(f"| {label} | – | – | – | – | – | – | – | {entry.failure} |")
            continue
        spread = entry.per_unit(result.task)
        cells = [
            label,
            f"{entry.count} x {entry.batch_size}"
            if CONTESTANTS[entry.contestant].style != "whole"
            else f"{entry.count}, its own batches",
            f"{time:.4g}",
            f"{min(spread):.4g} - {max(spread):.4g}",
            _ratio(naive, time, entry.agrees),
            _ratio(peer, time, entry.agrees),
            _ratio(time, result.floor_seconds, entry.agrees),
            "–" if entry.extra_bytes is None else f"{entry.extra_bytes / 1e6:.0f}",
            entry.failure or entry.verdict,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, "", f"Arithmetic floor: {result.floor_seconds:.4g} s per {unit}."]


def _ratio(above: float | None, below: float, allowed: bool) -> str:
    if above is None or not allowed:
        return "–"
    return f"{above / below:.3g}x"
