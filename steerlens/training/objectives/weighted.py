"""Preference objectives with weights for pairs and noise on the strength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import ArgumentError, as_bool, as_float
from steerlens.training.objectives.objective import (
    BOTH,
    NEGATIVE,
    POSITIVE,
    Distributions,
    Objective,
    SteeredPairs,
)

LEAST, MOST = 0.1, 5.0
"""Bounds of a pair's weight."""


@dataclass(frozen=True)
class WeightedPairs:
    """A preference objective whose pairs are weighted by how hard they are, with noisy strengths.

        Δ  = (log p(y_p) / |y_p| - log p(y_n) / |y_n|), of the unsteered model, or now
        wʰ = σ(-Δ_unsteered / median |Δ_unsteered|)      hard: the unsteered model prefers y_n
        wʳ = σ(-Δ_now / median |Δ_now|)                  not learnt yet; no gradient
        w  = (wʰ wʳ)^κ, divided by its mean over the batch, between .1 and 5
        m  = drawn multiplier · (1 + ρ ε), ε standard normal

    A negative κ weights easy pairs up. Pairs with flipped labels look hard, so a positive κ weights
    them up: look at the labels first, or use κ < 0. At κ = 0 and ρ = 0 it is the objective itself.
    An objective that does not score both answers has no wʳ.

    Source: the transferable part of HaNoRec (arXiv:2511.18740), which weights pairs by hardness and
    responsiveness and perturbs logits with Gaussian noise. Departures: the formulas above were written
    for this project, without access to those of the paper; the noise is on the strength instead of
    the logits, which is nearer to what is trained (arXiv:2506.06686).
    """

    objective: Objective
    kappa: float = 1.0
    """κ: how sharply weights follow hardness."""
    hardness: bool = True
    """Whether wʰ counts."""
    responsiveness: bool = True
    """Whether wʳ counts."""
    noise: float = 0.0
    """ρ: the spread of the multiplier, as a share of it."""

    def __post_init__(self) -> None:
        if not isinstance(self.objective, Objective):
            raise ArgumentError(
                f"objective={self.objective!r:.80} is not an objective. Use e.g. DPO()."
            )
        if tuple(self.objective.sides) != BOTH:
            raise ArgumentError(
                f"{self.objective!r} reads the positive answers alone, so there is no preference by "
                "which pairs could be weighted. Use a preference objective, e.g. DPO()."
            )
        for name in ("kappa", "noise"):
            object.__setattr__(self, name, as_float(name, getattr(self, name)))
        for name in ("hardness", "responsiveness"):
            object.__setattr__(self, name, as_bool(name, getattr(self, name)))
        if self.noise < 0:
            raise ArgumentError(f"noise={self.noise:g} is no spread. Give 0 or more.")

    @property
    def sides(self) -> tuple[int, ...]:
        return BOTH

    @property
    def strengths(self) -> tuple[float, ...]:
        return self.objective.strengths

    def __call__(self, pairs: SteeredPairs) -> Float[Tensor, " pair"]:
        seen = _Seen(pairs, self.noise)
        losses = self.objective(seen)
        if self.kappa == 0:
            return losses
        margins = []
        if self.hardness:
            margins.append(_margin(pairs.unsteered(), pairs))
        if self.responsiveness and seen.now is not None:
            margins.append(_margin(seen.now, pairs))
        return losses * weights_of(margins, self.kappa) if margins else losses


def weights_of(margins: Sequence[Float[Tensor, " pair"]], kappa: float) -> Float[Tensor, " pair"]:
    """Weights of mean 1, before they are clipped: larger where the margins are smaller."""
    logs = torch.zeros_like(margins[0])
    for margin in margins:
        scale = margin.abs().median().clamp(min=1e-6)
        logs = logs + torch.nn.functional.logsigmoid(-margin / scale)
    found = torch.exp(kappa * (logs - logs.max()))
    return (found / found.mean()).clamp(LEAST, MOST)


def _margin(log_probs: Float[Tensor, "pair side=2"], pairs: SteeredPairs) -> Float[Tensor, " pair"]:
    per_token = log_probs.detach() / pairs.lengths()
    return per_token[:, POSITIVE] - per_token[:, NEGATIVE]


class _Seen:
    """The batch with noisy strengths; it keeps the log-probabilities that the objective asked for."""

    def __init__(self, pairs: SteeredPairs, noise: float) -> None:
        self._pairs, self._noise = pairs, noise
        self.now: Tensor | None = None
        """Of both answers, steered towards the positive one."""
        self._turned = False

    def lengths(self) -> Tensor:
        return self._pairs.lengths()

    def unsteered(self) -> Tensor:
        return self._pairs.unsteered()

    def strengths(self) -> Tensor:
        drawn = self._pairs.strengths()
        return drawn if self._noise == 0 else drawn * (1 + self._noise * self._pairs.normal())

    def signs(self) -> Tensor:
        found = self._pairs.signs()
        self._turned = bool((found < 0).any())
        return found

    def normal(self) -> Tensor:
        return self._pairs.normal()

    def log_probs(
        self, strengths: Any, sides: Sequence[int] = BOTH, *, null: bool = False
    ) -> Tensor:
        found = self._pairs.log_probs(strengths, sides, null=null)
        # A run that steers away from the positive answer says nothing of what was learnt.
        if not null and not self._turned and tuple(sides) == BOTH and self.now is None:
            self.now = found.detach()
        return found

    def distributions(self, strengths: Tensor, side: int) -> Distributions:
        return self._pairs.distributions(strengths, side)
