"""steerlens against itself: what steering adds to generation, and what the screen is worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from contest import Worker
from task import AloneName, Request, TaskName
from torch import Tensor

from steerlens import stats
from steerlens.stats import Interval


@dataclass(frozen=True, kw_only=True)
class Alone:
    """CPU seconds of every repeat, and how the screen ranks layers."""

    steered: list[float]
    """One generation run."""
    unsteered: list[float]
    """The same without steering."""
    screen: list[float]
    """One prompt, all layers and positions."""
    sweep: list[float]
    """The exact sweep of the same prompt."""
    local: Interval
    """Spearman of the screen with exact slopes at 0, over layers, with its 95% interval."""
    overall: Interval
    """The same with slopes over all multipliers of the sweep."""

    @property
    def ratios(self) -> list[float]:
        """Steered over unsteered generation, repeat by repeat."""
        return [a / b for a, b in zip(self.steered, self.unsteered, strict=True)]

    def markdown(self) -> str:
        ratios = self.ratios
        spread = f"{min(ratios):.3g} - {max(ratios):.3g}"
        cheaper = median(self.sweep) / median(self.screen)
        return "\n".join([
            "## steerlens against itself",
            "",
            f"- Steered over unsteered generation, by the same code: {median(ratios):.3g}x "
            f"({spread} over {len(ratios)} repeats, in turn).",
            f"- Screen of all layers and positions: {median(self.screen):.3g} CPU s per prompt, "
            f"{cheaper:.3g}x less than the exact sweep at all positions. Rank correlation over "
            f"layers with exact slopes at 0: {self.local}; with slopes over all "
            f"multipliers: {self.overall}.",
            "",
        ])  # fmt: skip


def time_alone(
    worker: Worker,
    scratch: Path,
    *,
    repeats: int,
    prompts: int,
    generate_prompts: int,
    batch_size: int,
    multipliers: tuple[float, ...],
    say: Callable[[str], None],
) -> Alone:
    """Times it all in turn; the exact slopes at 0 come from a sweep at tiny strengths."""

    def request(
        task: TaskName | AloneName, count: int, strengths: tuple[float, ...] | None = None
    ) -> Request:
        return Request(
            work=str(scratch / "work.json"), task=task, count=count, batch_size=batch_size,
            out=str(scratch / "alone.safetensors"), multipliers=strengths,
        )  # fmt: skip

    seconds: dict[str, list[float]] = {n: [] for n in ("generate", "unsteered", "screen", "sweep")}
    worker.ask(request("unsteered", 1))
    worker.ask(request("screen", 1))
    slopes = exact = torch.empty(0)
    for repeat in range(repeats):
        for task in (("generate", "unsteered"), ("unsteered", "generate"))[repeat % 2]:
            reply, _ = worker.ask(request(task, generate_prompts))
            seconds[task].append(reply.cpu_seconds)
        reply, slopes = worker.ask(request("screen", prompts))
        seconds["screen"].append(reply.cpu_seconds / prompts)
        reply, exact = worker.ask(request("sweep_all", prompts, multipliers))
        seconds["sweep"].append(reply.cpu_seconds / prompts)
        say(f"alone: repeat {repeat + 1} of {repeats} done")
    tiny = 1e-2
    _, near = worker.ask(request("sweep_all", prompts, (-tiny, 0.0, tiny)))

    def ranked(swept: Tensor, strengths: tuple[float, ...]) -> Interval:
        """The screen's layers against those of the exact slopes, [layer, multiplier, prompt]."""
        each = stats.steerability_slope(torch.tensor(strengths), swept.transpose(1, 2))
        return stats.rank_correlation(slopes.mean(-1), each.mean(-1))

    return Alone(
        steered=seconds["generate"],
        unsteered=seconds["unsteered"],
        screen=seconds["screen"],
        sweep=seconds["sweep"],
        local=ranked(near, (-tiny, 0.0, tiny)),
        overall=ranked(exact, multipliers),
    )
