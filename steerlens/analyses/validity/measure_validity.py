"""How far one intervention may go: preference and utility over many strengths, with fitted curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from steerlens.analyses.validity import ValidityFit, fit_validity
from steerlens.data import ContrastPair, ContrastSet
from steerlens.measures import scores
from steerlens.measures.scores import Per
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.protocols import Intervention


def strengths(furthest: float, count: int = 17) -> tuple[float, ...]:
    """Evenly spread multipliers from -furthest to furthest, with 0 among them.

    >>> strengths(2.0, 5)
    (-2.0, -1.0, 0.0, 1.0, 2.0)
    """
    if count % 2 == 0 or count < 3:
        raise ValueError(f"count={count}: an odd number of at least 3 has 0 in its middle.")
    half = count // 2
    return tuple(furthest * (k / half) for k in range(-half, half + 1))


def decay(
    model: Model,
    intervention: Intervention,
    pairs: Sequence[ContrastPair] | ContrastSet,
    multipliers: Sequence[float],
    *,
    per: Per = "answer",
    progress: bool = True,
    done: Callable[[slice, Tensor], None] | None = None,
    have: Callable[[slice], Tensor | None] | None = None,
) -> ValidityFit:
    """Preference and utility at many strengths of one intervention, and their validity-decay curves.

    Args:
        multipliers: At least 9, four or more of either sign (`strengths` gives some).
        per: Whether answers' log-probabilities are summed or averaged over tokens.
        done: As in `sweep`; so is `have`.

    Raises:
        ValueError: For too few multipliers, or questions that cannot be scored.

    Source: arXiv:2602.02343, sections 2.2 and 2.3; departures are told by `fit_validity`.
    """
    swept = sweep(
        model, pairs, [intervention], multipliers,
        progress=progress, label="decay", done=done, have=have,
    )  # fmt: skip
    utility = scores.utility(swept, per=per)
    return fit_validity(
        torch.tensor(swept.multipliers),
        scores.preference(swept, per=per)[0],
        utility.value[0],
        clamped=utility.clamped[0],
    )
