"""When a text is broken, and when an effect is lost: events, by limits from other texts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import as_float, as_int
from steerlens.stats.grouped import FEWEST

Ends = tuple[list[float], list[bool]]
"""For every text that can be said anything of: a number of tokens, and whether the event was there
(else the text was only followed until there)."""
RUN = 4
"""Windows in a row over which an effect must be gone on average."""
LEVEL = 0.95


@dataclass(frozen=True)
class Limits:
    """What a window may reach before its text counts as broken."""

    surprisal: float
    """Nats per token under the unsteered model, at most."""
    repetition: float
    """Share of repeated n-grams, at most."""
    texts: int = 0
    """How many unsteered texts of other prompts set them; 0 for given limits."""

    def __post_init__(self) -> None:
        for name in ("surprisal", "repetition"):
            value = as_float(f"Limits: {name}", getattr(self, name), finite=False)
            object.__setattr__(self, name, value)
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"Limits: {name}={value} is no limit. Give a number from 0 on.")
        object.__setattr__(self, "texts", as_int("Limits: texts", self.texts, least=0))


def limits_of(
    surprisal: Float[Tensor, "text window"], repetition: Float[Tensor, "text window"]
) -> Limits:
    """Limits that 95% of unsteered texts never exceed in any of their windows, each by itself.

    Of n texts it is the k-th smallest of their largest windows, with k = ⌈0.95 (n + 1)⌉, and the
    largest where n is below 19: another unsteered text exceeds it with a probability of at most 5%,
    or 1/(n + 1).

    Args:
        surprisal: Of unsteered texts; NaN for windows that are not full.

    Raises:
        ValueError: If fewer than 8 texts fill a window.
    """
    rows = surprisal.isfinite().any(-1)
    n = int(rows.sum())
    if n < FEWEST:
        raise ValueError(
            f"{n} of the texts that set the limits fill a window, and {FEWEST} are needed. Give more "
            "prompts for limits=, or a smaller window."
        )
    rank = min(n, math.ceil(LEVEL * (n + 1)))
    ends = [
        float(values[rows].nan_to_num(-torch.inf).amax(-1).sort().values[rank - 1])
        for values in (surprisal, repetition)
    ]
    return Limits(ends[0], ends[1], n)


def broken_ends(
    surprisal: Float[Tensor, "text window"],
    repetition: Float[Tensor, "text window"],
    limits: Limits,
    window: int,
) -> Ends:
    """When each text is broken: after the first window that exceeds a limit.

    A text that never does is followed until its last full window. Texts without one are left out.
    """
    over = (surprisal > limits.surprisal) | (repetition > limits.repetition)
    times, ended = [], []
    for row, own in zip(over, surprisal.isfinite().sum(-1).tolist(), strict=True):
        hits = row[:own].nonzero()
        if own:
            times.append(float(window * (int(hits[0]) + 1 if len(hits) else own)))
            ended.append(bool(len(hits)))
    return times, ended


def lost_ends(effect: Float[Tensor, "text window"], window: int) -> Ends:
    """When the effect on each text is lost: with the first window of four without it.

    One window says little, so an effect is lost where the mean over a window and the three after it
    is not above 0. Four windows are needed to say so: a text is followed until the fourth window from
    its end, and texts with fewer than four are left out.

    Args:
        effect: Steered minus unsteered, in the asked direction; NaN where one of both has no window.
    """
    times, ended = [], []
    for row in effect:
        own = int(row.isfinite().sum())
        if own < RUN:
            continue
        gone = (row[:own].unfold(0, RUN, 1).mean(-1) <= 0).nonzero()
        times.append(float(window * (int(gone[0]) + 1 if len(gone) else own - RUN + 1)))
        ended.append(bool(len(gone)))
    return times, ended
