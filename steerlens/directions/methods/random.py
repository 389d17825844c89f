"""The control: a random direction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import as_int


@dataclass(frozen=True)
class Random:
    """A random direction of the same length as the difference of means.

    It is isotropic, and therefore nearly orthogonal to any given direction in a wide stream. An
    effect that it has at the same strength is an effect of the perturbation, not of the concept.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", as_int("seed", self.seed))

    def __call__(
        self, positive: Float[Tensor, "pair d_model"], negative: Float[Tensor, "pair d_model"]
    ) -> Float[Tensor, " d_model"]:
        # Not the seed itself: data made with the same seed may hold this very vector.
        generator = torch.Generator().manual_seed(0x5EED_0000 + self.seed)
        vector = torch.randn(positive.shape[-1], generator=generator).to(positive)
        return vector * ((positive.mean(0) - negative.mean(0)).norm() / vector.norm())
