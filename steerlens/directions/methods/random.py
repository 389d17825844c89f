"""The control: a direction that knows nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Random:
    """A random direction of the same length as the difference of means.

    Isotropic, so it is nearly orthogonal to everything in a wide stream. Any effect that it has at
    the same strength is an effect of pushing, not of the concept.
    """

    seed: int = 0

    def __call__(
        self, positive: Float[Tensor, "pair d_model"], negative: Float[Tensor, "pair d_model"]
    ) -> Float[Tensor, " d_model"]:
        # Not the bare seed: whoever made data with the same one may have drawn this very vector.
        generator = torch.Generator().manual_seed(0x5EED_0000 + self.seed)
        vector = torch.randn(positive.shape[-1], generator=generator).to(positive)
        return vector * ((positive.mean(0) - negative.mean(0)).norm() / vector.norm())
