"""What a cell of the map is worth: propensity, preference and utility, from log-probabilities."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.sweeping import Swept

CEILING = 1e-6
"""Utility's two answers may have at most 1 - CEILING of the probability; above it is clamped."""


class Utility(NamedTuple):
    """Log-odds that the model stays on one of the two answers at all."""

    value: Float[Tensor, "*grid example"]
    """In nats."""
    clamped: Bool[Tensor, "*grid example"]
    """Where the two answers' probabilities came to nearly one or more, and were clamped."""


def preference(swept: Swept) -> Float[Tensor, "intervention multiplier example"]:
    """Log-odds of the positive over the negative answer, in nats.

    The propensity of Tan et al. (arXiv:2407.12404, summed log-probabilities) and PrefOdds of Xu
    et al. (arXiv:2602.02343, section 2.2, for answers of equal length).
    """
    return swept.log_odds


def utility(swept: Swept) -> Utility:
    """Log-odds of giving either answer over anything else, in nats.

    With s = log(P(positive) + P(negative)): s - log(1 - exp(s)).

    Raises:
        ValueError: If the sweep kept log-odds only.

    Source: UtilOdds of Xu et al., arXiv:2602.02343, section 2.2, on summed log-probabilities; the
    paper takes per-token means where lengths differ.
    """
    if swept.log_odds_only:
        raise ValueError(
            "This sweep kept log-odds only, so nothing is known of the other tokens. "
            "Sweep with log_odds_only=False."
        )
    total = torch.logaddexp(swept.positive, swept.negative)
    ceiling = torch.log1p(torch.tensor(-CEILING))
    clamped = total > ceiling
    total = torch.minimum(total, ceiling.to(total))
    return Utility(total - torch.log(-torch.expm1(total)), clamped)
