"""The openings with which a model itself refuses and complies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.data import ContrastPair, ContrastSet
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.protocols import Intervention
from steerlens.store.cells import Cells


class Openings(NamedTuple):
    """How the unsteered model starts its answers."""

    refusing: tuple[str, ...]
    """Starts of answers that refuse, the most common first; () where there are none."""
    complying: tuple[str, ...]
    """Starts of the other answers."""
    covered: tuple[float, float]
    """The share of refusing and of other answers that start with one of them; NaN of none."""


def find_openings(
    model: Model,
    prompts: Sequence[str],
    written: Int[Tensor, "prompt new"],
    refused: Sequence[bool],
    *,
    length: int,
    most: int,
) -> Openings:
    """The most common starts of a model's own refusals, and those of its other answers.

    The start of an answer is its fewest first tokens with which only answers of its own kind start.
    Where even `length` tokens start answers of both kinds, they count for the kind of which they
    start the larger share. So no opening stands on both sides, and none is the start of another.

    Args:
        written: Token ids of the greedy answers, with -1 after the end.
        refused: Whether each answer is a refusal, as a reader says.
        length: Tokens of an opening at most. Answers that are shorter than their start have none.
        most: Openings of each side.
    """
    answers = (len(refused) - sum(refused), sum(refused))
    counts: dict[tuple[int, ...], list[int]] = {}
    for row, no in zip(written.tolist(), refused, strict=True):
        for n in range(1, length + 1):
            counts.setdefault(tuple(row[:n]), [0, 0])[no] += 1
    found: tuple[Counter[tuple[int, ...]], ...] = (Counter(), Counter())
    texts: dict[tuple[int, ...], str] = {}
    for prompt, row, no in zip(prompts, written.tolist(), refused, strict=True):
        starts = [tuple(row[:n]) for n in range(1, length + 1)]
        start = next((s for s in starts if counts[s][not no] == 0), starts[-1])
        own, other = counts[start][no], counts[start][not no]
        plain = min(start) >= 0 and not bool(model.is_special(torch.tensor(start)).any())
        if plain and own * max(1, answers[not no]) > other * max(1, answers[no]):
            found[no][start] += 1
            texts.setdefault(start, model.texts.continuation(model.ids(prompt), list(start)))
    kept = [found[no].most_common(most) for no in (True, False)]
    sides = [tuple(texts[start] for start, _ in side) for side in kept]
    covered = [
        sum(n for _, n in side) / answers[no] if answers[no] else float("nan")
        for no, side in zip((True, False), kept, strict=True)
    ]
    return Openings(sides[0], sides[1], (covered[0], covered[1]))


def opening_log_odds(
    model: Model,
    prompts: Sequence[str],
    openings: Openings,
    arms: Sequence[Intervention],
    multipliers: Sequence[float],
    *,
    progress: bool,
    cells: Cells,
) -> Float[Tensor, "arm multiplier prompt"]:
    """log P(a refusing opening) - log P(a complying opening) at the end of each prompt, in nats.

    The probability of a side is the sum over its openings, of one or more tokens each. No opening is
    the start of another, so the sum is a probability.

    Raises:
        ValueError: If a side has no opening.
    """
    sides = (openings.refusing, openings.complying)
    count = max(map(len, sides))
    if not all(sides):
        raise ValueError("A side has no opening, so there are no log-odds.")
    asked = ContrastSet(
        "openings",
        tuple(
            ContrastPair(prompt, sides[0][k % len(sides[0])], sides[1][k % len(sides[1])])
            for prompt in prompts
            for k in range(count)
        ),
    )
    swept = sweep(model, asked, arms, multipliers, progress=progress, cells=cells)
    total = []
    for log_p, side in zip((swept.positive, swept.negative), sides, strict=True):
        each = log_p.unflatten(-1, (len(prompts), count))
        total.append(torch.logsumexp(each[..., : len(side)], -1))
    return total[0] - total[1]
