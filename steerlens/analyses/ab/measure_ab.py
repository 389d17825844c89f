"""Two configurations write after the same prompts until it is plain which one scores more."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import SupportsFloat, SupportsIndex

import torch
from torch import Tensor

from steerlens import stats
from steerlens.analyses.ab.ab_result import ABTest, unit_means
from steerlens.analyses.writing.judging import judge_name, judge_texts
from steerlens.arguments import ArgumentError, as_float, as_int, as_texts
from steerlens.data.near_duplicates import text_groups
from steerlens.interventions.arms import require_fits
from steerlens.measures.generation import generate
from steerlens.measures.surprisal import require_unsteered
from steerlens.models.model import Model, as_model
from steerlens.progress_bar import progress_bar
from steerlens.protocols import Intervention, Scorer
from steerlens.stats import group_numbers


@torch.no_grad()
def ab_test(
    model: Model,
    arms: Mapping[str, Intervention | None],
    prompts: Sequence[str],
    judge: Scorer,
    *,
    level: SupportsFloat = 0.95,
    batch: SupportsIndex = 8,
    early: bool = True,
    max_new_tokens: SupportsIndex = 24,
    temperature: SupportsFloat = 1.0,
    seed: SupportsIndex = 0,
    progress: bool = True,
) -> ABTest:
    """Compares what two configurations write after the same prompts, and stops when it is plain.

    Both write a text after each prompt, with random draws of their own, and the judge scores both.
    The test is paired and sequential: after every batch of prompts the e-value of the differences
    is held against 1 / (1 - level), so that looking often costs nothing. Between equal
    configurations it finds a difference in at most 1 - level of all tests.

    Prompts that are near-duplicates are one unit, seen together. They come in a random order.

    Args:
        arms: Two names, each with an intervention at multiplier 1, or None for the unsteered model,
            e.g. ``{"new": scaled(lora, 0.5), "old": None}``.
        judge: A score for each text, more being better, e.g. a `WordReader`. See `writing`.
        level: 1 minus the share of tests of equal configurations that may find a difference.
        batch: Prompts between two looks.
        early: False to write after all prompts whatever the evidence says.
        temperature: At 0 a configuration writes the same text each time, and the prompts are all
            that is random.

    Raises:
        ArgumentError: If there are not two configurations, fewer than 8 prompts that differ, or the
            level is no share.
        ValueError: If an intervention does not fit the model, or a prompt leaves no room.
        SteeringError: If steering is attached to the model.
        JudgeError: If the judge does not give one finite number per text.

    Source: see `steerlens.stats.log_evidence`.
    """
    model = as_model(model)
    given = as_texts("prompts", prompts)
    share, size = as_float("level", level), as_int("batch", batch, least=1)
    new, first = as_int("max_new_tokens", max_new_tokens, least=1), as_int("seed", seed)
    heat = as_float("temperature", temperature)
    if len(arms) != 2:
        raise ArgumentError(
            f"arms has {len(arms)} configurations ({', '.join(map(str, arms))}), and a test compares "
            "two. Give two names, each with an intervention or None."
        )
    if not 0.5 <= share < 1:
        raise ArgumentError(f"level={share} must be from 0.5 to below 1, e.g. 0.95.")
    groups = text_groups(given)
    if len(set(groups)) < stats.FEWEST:
        raise ArgumentError(
            f"There are {len(set(groups))} prompts that are no near-duplicates of each other, and "
            f"no evidence could come of so few. Give at least {stats.FEWEST}, better 50."
        )
    require_unsteered(model)
    require_fits(model, {name: arm for name, arm in arms.items() if arm is not None})
    order = _order(groups, first)
    scores: list[Tensor] = []
    texts: tuple[list[str], list[str]] = ([], [])
    stopped = False
    with progress_bar(progress, total=len(given), desc="A/B", unit="prompt") as bar:
        for some in _batches(order, groups, size):
            asked = [given[i] for i in some]
            written = []
            for k, arm in enumerate(arms.values()):
                with nullcontext() if arm is None else arm.attach(model, 1.0):
                    made = generate(
                        model, asked, max_new_tokens=new, temperature=heat, seed=first,
                        draws=[2 * i + k for i in some],
                    )  # fmt: skip
                texts[k].extend(made)
                written.append(tuple(made))
            scores.append(judge_texts(judge, asked, tuple(written)))
            bar.update(len(some))
            seen = torch.cat(scores, 1)
            units = unit_means(seen[0] - seen[1], [groups[i] for i in order[: seen.shape[1]]])
            if early and float(stats.log_evidence(units).amax()) >= -math.log(1 - share):
                stopped = seen.shape[1] < len(given)
                break
    both = torch.cat(scores, 1)
    names = tuple(map(str, arms))
    work = [list(given), names, new, heat, first, size]
    return ABTest(
        arms=(names[0], names[1]),
        prompts=tuple(given[i] for i in order[: both.shape[1]]),
        texts=(tuple(texts[0]), tuple(texts[1])),
        scores=both,
        groups=tuple(groups[i] for i in order[: both.shape[1]]),
        stopped=stopped,
        made_by={
            **model.facts,
            "question": "Which of two configurations writes texts that score more?",
            "configurations": [repr(arm) for arm in arms.values()],
            "judge": judge_name(judge),
            "level": share,
            "batch": size,
            "given": len(given),
            "max_new_tokens": new,
            "temperature": heat,
            "seed": first,
            "work": hashlib.sha256(json.dumps(work).encode()).hexdigest()[:16],
        },
    )


def _order(groups: Sequence[str], seed: int) -> list[int]:
    """Prompts in a random order, those of one group one after the other."""
    numbers = group_numbers(groups)
    count = int(numbers.max()) + 1
    place = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return sorted(range(len(groups)), key=lambda i: (int(place[numbers[i]]), i))


def _batches(order: list[int], groups: Sequence[str], size: int) -> list[list[int]]:
    """Batches of at least `size` prompts that part no group."""
    found: list[list[int]] = [[]]
    for k, i in enumerate(order):
        fresh = k == 0 or groups[order[k - 1]] != groups[i]
        if fresh and len(found[-1]) >= size:
            found.append([])
        found[-1].append(i)
    return found
