"""Times steerlens, naive TransformerLens and the peers on the same work: `make bench`."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro
from alone import Alone, time_alone
from contest import (
    CONTESTANTS,
    REFERENCES,
    ContestantFailedError,
    Worker,
    agreement,
    scratch_folder,
)
from environment import ENV, HERE
from floor import Counts, Rates
from model_directory import Shape, build_model, make_work
from report import Entry, TaskResult, floor_seconds, markdown
from task import LETTERS, TASKS, Request, TaskName, Work
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Times every contestant, repeats in turn, and prints one table per task."""

    name: str = "gpt2-small"
    """Results go to benchmarks/results/<name>.json and .md."""
    shape: Shape = field(default_factory=Shape)
    """The model."""
    contestants: tuple[str, ...] = tuple(CONTESTANTS)
    """Any of: steerlens, tl-loop, tl-batched, hf-loop, hf-batched, steering-vectors, repeng,
    nnsight, pyvene."""
    tasks: tuple[TaskName, ...] = TASKS
    """Any of: directions, sweep_all, sweep_last, generate."""
    repeats: int = 3
    """Times each contestant does each task."""
    tokens: int = 40
    """Length of the texts."""
    ragged: bool = False
    """Lengths between three quarters and five quarters of `tokens`, instead of all equal."""
    multipliers: tuple[float, ...] = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
    """Strengths of the sweep."""
    pairs: int = 200
    """Pairs for steerlens in A."""
    prompts: int = 50
    """Prompts for steerlens in B."""
    generate_prompts: int = 16
    """Prompts in C, for everyone in one batch."""
    n_new: int = 32
    """Tokens generated in C."""
    loop_pairs: int = 16
    """Pairs in A for those that take one text at a time; cost is reported per pair."""
    loop_prompts: int = 1
    """Prompts in B for those that take one prompt at a time; cost is reported per prompt."""
    batched_pairs: int = 64
    """Pairs in A for the batched."""
    batched_prompts: int = 4
    """Prompts in B for the batched, in one batch."""
    batch_size: int = 32
    """Texts per batch in A."""
    check_pairs: int = 4
    """Pairs on which all directions are compared, before the timing."""
    alone: bool = True
    """Also time steerlens against itself: steered against unsteered generation, and the screen."""
    growth: bool = True
    """Also time steerlens against pairs, prompts, multipliers and lengths."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.contestants) - set(CONTESTANTS))
        if unknown:
            raise ValueError(f"No contestant is called {unknown}. Use some of {[*CONTESTANTS]}.")
        if 0.0 not in self.multipliers:
            raise ValueError(
                f"multipliers={self.multipliers} has no 0, so the effect of steering, without "
                "which equal numbers prove nothing, is unknown. Add 0."
            )

    @property
    def prompts_needed(self) -> int:
        return max(self.prompts, self.generate_prompts, self.batched_prompts, self.loop_prompts)

    def plan(self, key: str, task: TaskName) -> tuple[int, int]:
        """(texts or pairs to time, batch size); (0, 0) where a contestant sits a task out."""
        style = CONTESTANTS[key].style
        if task == "generate":
            return (self.generate_prompts, self.generate_prompts) if style != "loop" else (0, 0)
        if task == "directions":
            return {
                "whole": (self.pairs, self.batch_size),
                "loop": (self.loop_pairs, 1),
                "batched": (self.batched_pairs, self.batch_size),
            }[style]
        return {
            "whole": (self.prompts, self.batched_prompts),
            "loop": (self.loop_prompts, 1),
            "batched": (self.batched_prompts, self.batched_prompts),
        }[style]


def main(settings: Benchmark) -> None:
    model_dir = build_model(settings.shape, ENV / "models")
    scratch = scratch_folder(settings.name)
    work = make_work(
        model_dir,
        settings.shape,
        scratch,
        pairs=max(settings.pairs, settings.batched_pairs, settings.loop_pairs),
        prompts=settings.prompts_needed,
        tokens=settings.tokens,
        ragged=settings.ragged,
        multipliers=settings.multipliers,
        n_new=settings.n_new,
    )
    rates = matmul_rates(settings.shape)
    counts = Counts(
        n_layers=settings.shape.n_layers,
        d_model=settings.shape.d_model,
        d_vocab=settings.shape.d_vocab,
    )
    say(f"matmul, one thread: {rates.many_rows / 1e9:.1f} G multiply-adds per CPU second")
    results: list[TaskResult] = []
    workers = {key: Worker(key, scratch) for key in settings.contestants}
    grown: list[dict[str, Any]] = []
    for task in settings.tasks:
        entries = time_task(settings, task, scratch, workers)
        whole = settings.plan("steerlens", task)[0]
        results.append(
            TaskResult(
                task=task,
                floor_seconds=floor_seconds(task, work, whole, counts, rates),
                entries=entries,
            )
        )
        write(settings, results, work, rates, grown)
    alone = None
    if settings.alone and "steerlens" in workers:
        alone = time_alone(
            workers["steerlens"],
            scratch,
            repeats=settings.repeats,
            prompts=settings.batched_prompts,
            generate_prompts=settings.generate_prompts,
            batch_size=settings.batched_prompts,
            multipliers=settings.multipliers,
            say=say,
        )
        write(settings, results, work, rates, grown, alone)
    if settings.growth and "steerlens" in workers:
        grown = time_growth(settings, model_dir, scratch / "growth", workers["steerlens"])
    for worker in workers.values():
        worker.stop()
    say("\n" + write(settings, results, work, rates, grown, alone))


def time_task(
    settings: Benchmark, task: TaskName, scratch: Path, workers: dict[str, Worker]
) -> list[Entry]:
    """All contestants at one task, repeats in turn, so that all share the machine's moods."""
    entries, answers = {}, {}
    for key, worker in workers.items():
        count, batch_size = settings.plan(key, task)
        if not count:
            continue
        entries[key] = Entry(contestant=key, count=count, batch_size=batch_size)
        say(f"{LETTERS[task]}: {key} warms up")
        request = _request(settings, key, task, scratch, warm_up=True)
        answer = _ask(worker, request, entries[key])
        if answer is not None and task == "directions":
            answers[key] = answer[1]
    for repeat in range(settings.repeats):
        order = [*entries][repeat % len(entries) :] + [*entries][: repeat % len(entries)]
        for key in order:
            entry = entries[key]
            if entry.failure:
                continue
            request = _request(settings, key, task, scratch, warm_up=False)
            answer = _ask(workers[key], request, entry)
            if answer is None:
                continue
            reply, result = answer
            entry.cpu_seconds.append(reply.cpu_seconds)
            entry.wall_seconds.append(reply.wall_seconds)
            if reply.extra_bytes is not None:
                entry.extra_bytes = max(entry.extra_bytes or 0, reply.extra_bytes)
            answers.setdefault(key, result)
            say(f"{LETTERS[task]}: {key} took {reply.cpu_seconds:.3g} s for {entry.count}")
    _judge(settings, task, entries, answers)
    return [*entries.values()]


def _request(
    settings: Benchmark, key: str, task: TaskName, scratch: Path, *, warm_up: bool
) -> Request:
    count, batch_size = settings.plan(key, task)
    request = Request(
        work=str(scratch / "work.json"),
        task=task,
        count=count,
        batch_size=batch_size,
        out=str(scratch / f"{key}.safetensors"),
    )
    if not warm_up:
        return request
    # The warm-up of A is also what is compared: everyone does the same pairs.
    few = settings.check_pairs if task == "directions" else 1
    return replace(request, count=few, multipliers=(0.0, 1.0), n_new=2)


def _ask(worker: Worker, request: Request, entry: Entry) -> tuple[Any, Tensor] | None:
    try:
        return worker.ask(request)
    except ContestantFailedError as error:
        entry.failure = f"failed: {error}"
        say(f"{worker.key} failed: {error}")
        return None


def _judge(
    settings: Benchmark, task: TaskName, entries: dict[str, Entry], answers: dict[str, Tensor]
) -> None:
    reference = next((key for key in REFERENCES if key in answers), None)
    zero = settings.multipliers.index(0.0)
    for key, answer in answers.items():
        if task == "directions" and CONTESTANTS[key].other_estimator:
            entries[key].verdict = "other estimator"
        elif reference is None:
            entries[key].verdict = "no reference ran"
        elif key == reference:
            entries[key].verdict = "reference"
        else:
            entries[key].verdict = agreement(task, answer, answers[reference], zero)


def time_growth(
    settings: Benchmark, model_dir: Path, scratch: Path, worker: Worker
) -> list[dict[str, Any]]:
    """steerlens against one size at a time, the others kept: few pairs and prompts, once each."""
    pairs, prompts = max(4, settings.pairs // 4), max(4, settings.prompts // 12)
    strengths = len(settings.multipliers)
    cells = [
        *({"pairs": n, "tasks": ("directions",)} for n in (pairs, 2 * pairs, 4 * pairs)),
        *({"prompts": n} for n in (prompts, 2 * prompts, 4 * prompts)),
        *({"multipliers": n} for n in (3, strengths, 2 * strengths + 1)),
        *(
            {"tokens": n, "tasks": ("directions", "sweep_all", "sweep_last")}
            for n in (settings.tokens // 2, settings.tokens, 2 * settings.tokens)
        ),
        *(
            {"tokens": n, "tasks": ("sweep_last",)}
            for n in (4 * settings.tokens, 8 * settings.tokens)
            if n * 5 // 4 <= settings.shape.n_ctx
        ),
    ]
    rows = []
    for i, cell in enumerate(cells):
        n = int(cell.get("multipliers", strengths))
        make_work(
            model_dir,
            settings.shape,
            scratch,
            pairs=int(cell.get("pairs", pairs)),
            prompts=int(cell.get("prompts", prompts)),
            tokens=int(cell.get("tokens", settings.tokens)),
            ragged=settings.ragged,
            multipliers=tuple(float(k - n // 2) for k in range(n)),
            n_new=settings.n_new,
            seed=100 + i,
        )
        for task in cell.get("tasks", ("sweep_all", "sweep_last")):
            entry = Entry(
                contestant="steerlens",
                count=int(cell.get("pairs", pairs))
                if task == "directions"
                else int(cell.get("prompts", prompts)),
                batch_size=settings.batched_prompts,
            )
            request = Request(
                work=str(scratch / "work.json"),
                task=task,
                count=entry.count,
                batch_size=entry.batch_size,
                out=str(scratch / "answer.safetensors"),
            )
            answer = _ask(worker, request, entry)
            if answer is None:
                return rows
            varied = next(name for name in cell if name != "tasks")
            rows.append(
                {
                    "task": LETTERS[task],
                    "varied": varied,
                    "value": cell[varied],
                    "count": entry.count,
                    "cpu_seconds": answer[0].cpu_seconds,
                    "extra_bytes": answer[0].extra_bytes,
                }
            )
    return rows


def growth_markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "## Growth of steerlens",
        "",
        "| task | varied | value | CPU s | times the first of its group | extra MB |",
        "|---|---|---|---|---|---|",
    ]
    first: dict[tuple[str, str], float] = {}
    for row in sorted(rows, key=lambda row: (row["task"], row["varied"], row["value"])):
        start = first.setdefault((row["task"], row["varied"]), row["cpu_seconds"])
        extra = "–" if row["extra_bytes"] is None else f"{row['extra_bytes'] / 1e6:.0f}"
        lines.append(
            f"| {row['task']} | {row['varied']} | {row['value']} | {row['cpu_seconds']:.3g} "
            f"| {row['cpu_seconds'] / start:.2f} | {extra} |"
        )
    return "\n".join(lines) + "\n"


def matmul_rates(shape: Shape) -> Rates:
    done = subprocess.run(
        [sys.executable, str(HERE / "floor.py"), str(shape.d_model), str(shape.d_vocab)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    return Rates(**json.loads(done.stdout))


def write(
    settings: Benchmark,
    results: list[TaskResult],
    work: Work,
    rates: Rates,
    grown: list[dict[str, Any]],
    alone: Alone | None = None,
) -> str:
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    told = {
        "model": settings.shape,
        "tokens": settings.tokens,
        "ragged": settings.ragged,
        "multipliers": len(settings.multipliers),
        "repeats": settings.repeats,
        "threads": 1,
        "machine": platform.processor() or platform.machine(),
        "G multiply-adds/s (many rows, 16 rows, unembedding)": [
            round(rate / 1e9, 1) for rate in vars(rates).values()
        ],
    }
    text = markdown(results, work, told)
    if alone is not None:
        text += "\n" + alone.markdown()
    if grown:
        text += "\n" + growth_markdown(grown)
    record = {
        "settings": asdict(settings),
        "rates": vars(rates),
        "tasks": [result.to_json() for result in results],
        "alone": None if alone is None else asdict(alone),
        "growth": grown,
    }
    (folder / f"{settings.name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (folder / f"{settings.name}.md").write_text(text)
    return text


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
