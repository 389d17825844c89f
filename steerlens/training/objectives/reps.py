"""Reference-free preference steering: steer towards one answer, suppress it to the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from steerlens.arguments import ArgumentError, as_positive
from steerlens.training.objectives.objective import BOTH, NEGATIVE, POSITIVE, SteeredPairs


@dataclass(frozen=True)
class RePS:
    """RePS: steering makes the positive answer likelier, suppressing makes the negative one so.

    With y_p and y_n the answers, |y| their tokens, and log p sums over tokens:

        β₊ = max(log p(y_n) - log p(y_p), 1)       β₋ = max(log p(y_p) - log p(y_n), 1)
        Δ₊ = β₊ log p_steer(y_p) / |y_p| - log p_steer(y_n) / |y_n|
        Δ₋ = β₋ log p_null(y_n) / |y_n| - log p_null(y_p) / |y_p|
        L  = - log σ(Δ₊) - log σ(Δ₋)

    β is of the unsteered model and carries no gradient. A vector is suppressed by taking its
    positive projection out of the stream, an adapter by the opposite multiplier.

    Source: arXiv:2505.20809, eq. 3 to 6, and the loss `scaled_simpo` of `stanfordnlp/axbench`. β is
    a difference of sums that scales a mean per token, so it grows with the length of the answers:
    where answers have tens of tokens losses of 10 to 40 nats are usual, and their gradient is that
    of Δ₊ alone. `cap` bounds it (not in the paper).
    """

    mode: Literal["both", "steer", "suppress"] = "both"
    """Which of the two terms are taken."""
    cap: float | None = None
    """The largest β₊ and β₋; None as published."""
    strengths: tuple[float, ...] = (1.0,)
    """Multipliers while steering; the two answers of a pair draw their own. The authors use 2, 4,
    …, 20 for vectors that start short; here multiplier 1 is the trained vector itself."""

    def __post_init__(self) -> None:
        if self.mode not in ("both", "steer", "suppress"):
            raise ArgumentError(f"mode={self.mode!r:.80} must be 'both', 'steer' or 'suppress'.")
        if self.cap is not None:
            object.__setattr__(self, "cap", as_positive("cap", self.cap))
            if self.cap < 1:
                raise ArgumentError(
                    f"cap={self.cap:g} is below 1, which β never is. Give 1 or more."
                )

    @property
    def sides(self) -> tuple[int, ...]:
        return BOTH

    def __call__(self, pairs: SteeredPairs) -> Float[Tensor, " pair"]:
        odds = pairs.unsteered()[:, POSITIVE] - pairs.unsteered()[:, NEGATIVE]
        loss = torch.zeros_like(odds)
        for null, wins, loses in ((False, POSITIVE, NEGATIVE), (True, NEGATIVE, POSITIVE)):
            if self.mode == ("steer" if null else "suppress"):
                continue
            beta = (odds if null else -odds).clamp(min=1.0, max=self.cap)
            log_probs = pairs.log_probs((pairs.strengths(), pairs.strengths()), null=null)
            per_token = log_probs / pairs.lengths()
            loss = loss - logsigmoid(beta * per_token[:, wins] - per_token[:, loses])
        return loss
