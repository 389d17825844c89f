"""Utility of both answers, and a margin between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import ArgumentError, as_float
from steerlens.training.objectives.objective import (
    BOTH,
    NEGATIVE,
    POSITIVE,
    SteeredPairs,
    by_tokens,
)


@dataclass(frozen=True)
class Split:
    """SPLIT: raises the likelihood of both answers, and holds a margin between them.

    L = λ_p L_p + λ_n L_n + γ max(0, θ - (L_n - L_p))

    L_p and L_n are negative log-likelihoods in nats per token, each of its own steered run.

    Source: arXiv:2602.02343; settings of `zjunlp/EasyEdit` for vectors on AxBench with Gemma-2-9B.
    Departure: the margin can be held for each pair (`margin="pair"`); the authors' code takes it of
    the means of the batch, which depends on the size of the batch.
    """

    weight_positive: float = 1.0
    """λ_p"""
    weight_negative: float = 0.6
    """λ_n"""
    weight_margin: float = 4.0
    """γ"""
    threshold: float = 0.5
    """θ, in nats per token."""
    margin: Literal["batch", "pair"] = "batch"
    """Of what the hinge takes the two losses: means over the batch, or each pair's own."""
    strengths: tuple[float, ...] = (1.0,)
    """Multipliers during training; the two runs of a pair draw their own."""

    def __post_init__(self) -> None:
        for name in ("weight_positive", "weight_negative", "weight_margin", "threshold"):
            number = as_float(name, getattr(self, name))
            object.__setattr__(self, name, number)
            if number < 0:
                raise ArgumentError(f"{name}={number:g} is below 0. Give 0 or more.")
        if self.margin not in ("batch", "pair"):
            raise ArgumentError(f"margin={self.margin!r:.80} must be 'batch' or 'pair'.")

    @property
    def sides(self) -> tuple[int, ...]:
        return BOTH

    def __call__(self, pairs: SteeredPairs) -> Float[Tensor, " pair"]:
        log_probs = pairs.log_probs((pairs.strengths(), pairs.strengths()))
        lengths = pairs.lengths()
        loss_p, loss_n = (by_tokens(log_probs[:, side], lengths[:, side]) for side in BOTH)
        if self.margin == "batch":
            gap = loss_n.mean() - loss_p.mean()
        else:
            per_token = -log_probs / lengths
            gap = per_token[:, NEGATIVE] - per_token[:, POSITIVE]
        return (
            self.weight_positive * loss_p
            + self.weight_negative * loss_n
            + self.weight_margin * torch.relu(self.threshold - gap)
        )
