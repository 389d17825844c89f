"""Nearness to a distribution that is known at every token."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.training.objectives.objective import POSITIVE, SteeredPairs


@runtime_checkable
class TargetDistribution(Protocol):
    """A next-token distribution that is wanted. Its repr says which one."""

    def __call__(self, prompt: str, answer: str) -> Float[Tensor, "token d_vocab"]:
        """For each token of the answer, the wanted probabilities at its place.

        They are given the prompt and the answer's tokens before it; every row sums to 1.
        """
        ...


@dataclass(frozen=True)
class MatchDistribution:
    """KL divergence from a target distribution, along the positive answers, in nats per token.

    L = sum_t KL(p*(. | x, y_<t) ‖ p_m(. | x, y_<t)) / number of tokens t of the batch

    On answers drawn from p* its expectation is what `LM` approaches, without the noise of the draw.

    Source: distillation, arXiv:1503.02531, at temperature 1.
    """

    target: TargetDistribution
    """p*: of an oracle, of a prompted model, of another model."""
    strengths: tuple[float, ...] = (1.0,)
    """Multipliers during training; one is drawn for each pair."""

    @property
    def sides(self) -> tuple[int, ...]:
        return (POSITIVE,)

    def __call__(self, pairs: SteeredPairs) -> Float[Tensor, " pair"]:
        found = pairs.distributions(pairs.strengths(), POSITIVE)
        kl = kl_from(found.wanted, found.log_probs)
        lengths = pairs.lengths()[:, POSITIVE]
        own = torch.zeros(len(lengths), dtype=kl.dtype, device=kl.device)
        return own.index_add(0, found.pair, kl) * len(lengths) / lengths.sum()


def kl_from(
    wanted: Float[Tensor, "token d_vocab"], log_probs: Float[Tensor, "token d_vocab"]
) -> Float[Tensor, " token"]:
    """KL(wanted ‖ p) of each token, in nats; words of probability 0 count nothing."""
    return torch.xlogy(wanted, wanted).sum(-1) - (wanted * log_probs).sum(-1)


def digest_of(wanted: Float[Tensor, "token d_vocab"]) -> str:
    """A short hash of the target's numbers."""
    return hashlib.sha256(wanted.cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
