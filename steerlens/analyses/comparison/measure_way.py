"""Measures one made way on the data of one concept: every number that a comparison is made of."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from steerlens.analyses.comparison.way_task import WayTask
from steerlens.analyses.nearness.measure_nearness import target_share
from steerlens.analyses.writing.judging import judge_texts
from steerlens.analyses.writing.text_batches import Job, batch_rows, written_tokens
from steerlens.data.contrast_set import ContrastSet
from steerlens.interventions.changes import Dense, LowRank, WeightChange
from steerlens.interventions.scaled import scaled
from steerlens.interventions.together import changes_of
from steerlens.measures import scores
from steerlens.measures.divergence import divergence
from steerlens.measures.equal_cost import NEAR, strengths_of_cost
from steerlens.measures.generation import generated_tokens
from steerlens.measures.sweep import sweep
from steerlens.measures.switch_off import switched_off
from steerlens.models.model import Model
from steerlens.protocols import Intervention
from steerlens.training.trained_intervention import TrainedIntervention

Numbers = dict[str, Tensor]
"""What a measure found, by name: the tensors that a unit of work keeps."""
TIMINGS = 3
"""Forward passes with and without a way, in turn, for what it takes per token."""
TIMED_TEXTS = 8
TIMED_PROMPTS, TIMED_TOKENS = 4, 8
"""Of each run that times written tokens."""
AFTER = ("kept", "recomputed", "in_cache")
"""What is measured after a way was switched off."""


def multiplier_at(model: Model, arm: Intervention, texts: Sequence[str], budget: float) -> float:
    """The multiplier at which a way costs the budget on ordinary texts, to 2%; NaN where none does.

    It is looked for from a 64th to 64 times the way's own multiplier 1.
    """

    def cost(chosen: list[int], multipliers: list[float]) -> list[float]:
        edit = scaled(arm, multipliers[0])
        return divergence(model, texts, [edit], (0.0, 1.0), progress=False)[:, 1].mean(-1).tolist()

    return strengths_of_cost(cost, [4.0], budget, NEAR)[0]


def at_factors(
    model: Model, arm: Intervention, task: WayTask, multiplier: float, factors: Sequence[float]
) -> Numbers:
    """Cost, log-odds and utility at multiples of a multiplier, 0 among them.

    Returns:
        "kl" [factor, text], "odds" and "utility" [factor, question].
    """
    edit = scaled(arm, multiplier)
    swept = sweep(model, task.report, [edit], factors, progress=False)
    return {
        "kl": divergence(model, task.neutral, [edit], factors, progress=False)[0],
        "odds": swept.log_odds[0],
        "utility": scores.utility(swept).value[0],
    }


def on_others(model: Model, arm: Intervention, task: WayTask, multiplier: float) -> Numbers:
    """Gains in log-odds on questions about other concepts, by "other/<name>" [question]."""
    edit = scaled(arm, multiplier)
    found = {}
    for name, asked in task.others.items():
        odds = sweep(model, asked, [edit], (0.0, 1.0), log_odds_only=True, progress=False).log_odds[
            0
        ]
        found[f"other/{name}"] = odds[1] - odds[0]
    return found


def towards_target(
    model: Model, arm: Intervention, task: WayTask, multipliers: Sequence[float], at: float
) -> Numbers:
    """KL from the target at the way's own multipliers, and at the one that costs the budget.

    Returns:
        "choosing" and "reached" [multiplier, text] at `multipliers`; "reached_at" [text] at `at`,
        NaN if that is NaN; "unsteered" [text].
    """
    if task.target is None or task.choosing is None or task.reached is None:
        return {}

    def kl(texts: ContrastSet, strengths: tuple[float, ...]) -> tuple[Tensor, Tensor]:
        assert task.target is not None
        found = target_share(
            model, {"way": arm}, task.target, texts, strengths, progress=False
        )  # fmt: skip
        return found.kl[0], found.unsteered

    own = tuple(multipliers)
    more = () if at != at or at in own else (at,)
    chosen, _ = kl(task.choosing, own)
    reached, unsteered = kl(task.reached, (*own, *more))
    if at in own:
        at_budget = reached[own.index(at)]
    else:
        at_budget = reached[-1] if more else torch.full_like(unsteered, torch.nan)
    return {
        "choosing": chosen,
        "reached": reached[: len(own)],
        "reached_at": at_budget,
        "unsteered": unsteered,
    }


def written(model: Model, arm: Intervention | None, task: WayTask, multiplier: float) -> Numbers:
    """Texts under a way, and what the readers make of them.

    Args:
        arm: None for the unsteered model.

    Returns:
        "tokens" [prompt, new], and "written/<reader>" [prompt].
    """
    if not task.prompts:
        return {}
    return _read(model, arm, task, list(task.prompts), multiplier)


def written_in_context(model: Model, task: WayTask) -> Numbers:
    """The same of the unsteered model after the contexts, if there are any."""
    if not task.prompts or not task.contexts:
        return {}
    count = len(task.contexts)
    placed = [task.contexts[i % count] + prompt for i, prompt in enumerate(task.prompts)]
    return _read(model, None, task, placed, 0.0)


def afterwards(model: Model, arm: Intervention, task: WayTask, multiplier: float) -> Numbers:
    """What a way leaves in texts when it is switched off after `new_tokens` tokens of them.

    They go on with as many tokens of ordinary texts.

    Returns:
        "kept", "recomputed" and "in_cache" [prompt, token], NaN if the multiplier is; {} where nothing
        is written, or texts do not fit.
    """
    new = task.new_tokens
    if not goes_on(model, task):
        return {}
    if multiplier != multiplier:
        return {name: torch.full((len(task.prompts), new), torch.nan) for name in AFTER}
    found = switched_off(
        model, arm, task.prompts, multiplier, then=_ordinary(model, task), steered=new, after=new,
        temperature=task.temperature,
    )  # fmt: skip
    return {name: getattr(found, name) for name in AFTER}


def goes_on(model: Model, task: WayTask) -> bool:
    """Whether there are texts, and the context has room for twice as many tokens of them."""
    if not task.prompts or not model.forward.caches:
        return False
    return model.tokens(list(task.prompts)).width + 2 * task.new_tokens <= model.n_ctx


def _ordinary(model: Model, task: WayTask) -> list[str]:
    """Ordinary texts of enough tokens, one for each prompt."""
    found = []
    for i in range(len(task.prompts)):
        text, k = "", i
        while len(model.ids(text or " ")) <= task.new_tokens + len(model.texts.lead):
            text += " " + task.neutral[k % len(task.neutral)]
            k += 1
        found.append(text)
    return found


def _read(
    model: Model, arm: Intervention | None, task: WayTask, prompts: list[str], multiplier: float
) -> Numbers:
    options = {
        "max_new_tokens": task.new_tokens,
        "temperature": task.temperature,
        "seed": 0,
    }
    rows = batch_rows(model, prompts, task.new_tokens)
    job = Job("", arm, (multiplier,), prompts)
    tokens = written_tokens(model, [job], rows, options)[0][0]
    texts = tuple(continued(model, prompts, tokens))
    found: Numbers = {"tokens": tokens}
    for name, reader in task.readers.items():
        found[f"written/{name}"] = judge_texts(reader, prompts, (texts,))[0]
    return found


def continued(model: Model, prompts: Sequence[str], tokens: Tensor) -> list[str]:
    """Written tokens as texts, each as it follows its prompt."""
    return [
        model.texts.continuation(model.ids(prompt), [t for t in row if t >= 0])
        for prompt, row in zip(prompts, tokens.tolist(), strict=True)
    ]


@torch.no_grad()
def left_behind(model: Model, arm: Intervention, task: WayTask, multiplier: float) -> Numbers:
    """What of a way is left after it was removed.

    Returns:
        "left": how many logits and weights differ in any bit after the `with` from before it;
        "merged": the share of the changed weights that differ after adding the change in place and
        subtracting it again, NaN for a way that changes none; each of shape [1].
    """
    batch = model.tokens(list(task.neutral[:TIMED_TEXTS]))
    before, weights = model.logits(batch), _checksums(model)
    with arm.attach(model, multiplier):
        model.logits(batch)
    after = model.logits(batch)
    differing = int((_bits(before) != _bits(after)).sum())
    differing += int((weights != _checksums(model)).sum())
    return {
        "left": torch.tensor([float(differing)]),
        "merged": torch.tensor([_not_restored(model, arm, multiplier)]),
    }


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def _checksums(model: Model) -> Tensor:
    """A number for each parameter that changes with any of its bits, almost surely."""
    found = []
    for parameter in model.wrapped.parameters():
        bits = _bits(parameter.detach()).flatten()
        found.append(bits.long().sum() ^ bits[::3].long().sum() << 20)
    return torch.stack(found)


def _not_restored(model: Model, arm: Intervention, multiplier: float) -> float:
    """The share of changed weights that `+=` and `-=` do not restore to the last bit."""
    parameters = dict(model.wrapped.named_parameters())
    differing, total = 0, 0
    for change in changes_of(arm, model) or ():
        if isinstance(change, WeightChange):
            weight = parameters[change.name].detach()
            delta: Dense | LowRank = change.delta
            there = delta.added(weight, multiplier)
            back = delta.added(there, -multiplier)
            differing += int((_bits(back) != _bits(weight)).sum())
            total += weight.numel()
    return differing / total if total else float("nan")


@torch.no_grad()
def per_token(model: Model, arm: Intervention, task: WayTask, multiplier: float) -> Numbers:
    """Processor time of a forward pass under a way, as a multiple of one without it.

    Returns:
        "overhead" [1]: the median over `TIMINGS` pairs of passes, less 1.
    """
    batch = model.tokens(list(task.neutral[:TIMED_TEXTS]))
    ratios = []
    for k in range(TIMINGS + 1):
        plain = _seconds(model, batch)
        with arm.attach(model, multiplier):
            model.logits(batch) if k == 0 else None  # what is made once is not per token
            ratios.append(_seconds(model, batch) / plain)
    return {"overhead": torch.tensor([statistics.median(ratios[1:]) - 1])}


def _seconds(model: Model, batch) -> float:
    started = time.process_time()
    model.logits(batch)
    return time.process_time() - started


@torch.no_grad()
def per_written_token(model: Model, arm: Intervention, task: WayTask, multiplier: float) -> Numbers:
    """The same of a token that is written, with the keys and values before it kept.

    What is done once for a prompt does not count.

    Returns:
        "token" [1]: by the least of `TIMINGS` runs with and without the way, less 1; {} where
        nothing is written.
    """
    prompts, new = list(task.prompts[:TIMED_PROMPTS]), min(TIMED_TOKENS, task.new_tokens - 1)
    if not prompts:
        return {}

    def seconds(count: int) -> float:
        started = time.process_time()
        generated_tokens(model, prompts, max_new_tokens=count, stop_at_eos=False)
        return time.process_time() - started

    def least() -> float:
        seconds(1)  # what is made once
        return min(seconds(1 + new) for _ in range(TIMINGS)) - min(
            seconds(1) for _ in range(TIMINGS)
        )

    plain = least()
    with arm.attach(model, multiplier):
        return {"token": torch.tensor([least() / plain - 1])}


def size_of(arm: Intervention) -> tuple[int, int]:
    """Numbers that were trained or fitted, and the bytes that they take in float32.

    A prompt has no numbers and takes the bytes of its text.
    """
    text = getattr(arm, "text", "")
    if isinstance(text, str) and text:
        return 0, len(text.encode())
    count = _numbers_in(arm.params if isinstance(arm, TrainedIntervention) else arm)
    return count, 4 * count


def _numbers_in(held: Any) -> int:
    """Entries of all tensors of real numbers that an intervention holds, in its parts too."""
    if isinstance(held, Tensor):
        return held.numel() if held.is_floating_point() else 0
    if isinstance(held, Mapping):
        return sum(map(_numbers_in, held.values()))
    if isinstance(held, tuple | list):
        return sum(map(_numbers_in, held))
    if is_dataclass(held) and not isinstance(held, type):
        return sum(_numbers_in(getattr(held, field.name)) for field in fields(held))
    return 0
