"""What a cell of the map is worth: propensity, preference and utility, from log-probabilities."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.measures.sweep import Swept

CEILING = 1e-6
"""Utility's two answers may have at most 1 - CEILING of the probability; above it is clamped."""

Per = Literal["answer", "token"]
"""An answer's log-probability summed over its tokens, or their mean."""


class Utility(NamedTuple):
    """Log-odds that the model stays on one of the two answers at all."""

    value: Float[Tensor, "*grid example"]
    """In nats."""
    clamped: Bool[Tensor, "*grid example"]
    """Where the two answers' probabilities came to nearly one or more, and were clamped."""


def preference(
    swept: Swept, *, per: Per = "answer"
) -> Float[Tensor, "intervention multiplier example"]:
    """Log-odds of the positive over the negative answer, in nats.

    Args:
        per: "answer" sums over an answer's tokens, so that a longer answer is less likely; "token"
            takes the mean of both, for answers whose lengths differ (then in nats per token).

    Raises:
        ValueError: Per token, if the sweep kept log-odds only and the two answers of some example
            differ in length.

    Source: per answer, the propensity of Tan et al., arXiv:2407.12404, and PrefOdds of Xu et al.,
    arXiv:2602.02343, section 2.2; per token, the latter's rule where lengths differ. The paper
    decides by the lengths, here the caller does, for all examples alike.
    """
    if swept.log_odds_only and per == "token":
        unequal = (swept.lengths[:, 0] != swept.lengths[:, 1]).nonzero()
        if len(unequal):
            i = int(unequal[0])
            raise ValueError(
                f"This sweep kept log-odds only, and the answers of example {i} have "
                f"{' and '.join(map(str, swept.lengths[i].tolist()))} tokens: a difference of sums "
                "says nothing of means over different numbers of tokens. Sweep with "
                'log_odds_only=False, or score per="answer".'
            )
    positive, negative = _answers(swept, per)
    return positive - negative


def utility(swept: Swept, *, per: Per = "answer") -> Utility:
    """Log-odds of giving either answer over anything else, in nats.

    With s = log(P(positive) + P(negative)): s - log(1 - exp(s)).

    Args:
        per: "answer" takes each answer's probability; "token" the geometric mean of its tokens'.
            Two such means may come to more than one, which is clamped and flagged.

    Raises:
        ValueError: If the sweep kept log-odds only.

    Source: UtilOdds of Xu et al., arXiv:2602.02343, section 2.2; per token, its rule where lengths
    differ, here for all examples alike.
    """
    if swept.log_odds_only:
        raise ValueError(
            "This sweep kept log-odds only, so nothing is known of the other tokens. "
            "Sweep with log_odds_only=False."
        )
    total = torch.logaddexp(*_answers(swept, per))
    ceiling = torch.log1p(torch.tensor(-CEILING))
    clamped = total > ceiling
    total = torch.minimum(total, ceiling.to(total))
    return Utility(total - torch.log(-torch.expm1(total)), clamped)


def _answers(swept: Swept, per: Per) -> tuple[Tensor, Tensor]:
    if per not in get_args(Per):
        raise ValueError(f'per={per!r} is neither "answer" (summed) nor "token" (mean).')
    if per == "answer":
        return swept.positive, swept.negative
    return swept.positive / swept.lengths[:, 0], swept.negative / swept.lengths[:, 1]
