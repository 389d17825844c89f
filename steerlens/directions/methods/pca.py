"""The main axis of the differences within pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import as_bool


@dataclass(frozen=True)
class PCA:
    """First principal component of the pair differences, scaled to the mean projection.

    By default the differences are not centred, since centring removes their common part; the sign
    is that of the mean difference. The length is the projection of the mean difference on the axis,
    so that multipliers are comparable with DiffMean's.

    Source: RepE, arXiv:2310.01405 (which centres, and draws the sign of each difference at
    random); `centred=True` gives that axis.
    """

    centred: bool = False
    paired: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "centred", as_bool("centred", self.centred))

    def __call__(
        self, positive: Float[Tensor, "pair d_model"], negative: Float[Tensor, "pair d_model"]
    ) -> Float[Tensor, " d_model"]:
        difference = positive - negative
        mean = difference.mean(0)
        if self.centred and len(difference) < 2:
            raise ValueError(
                "PCA(centred=True) needs at least two pairs; pass more, or DiffMean()."
            )
        cloud = difference - mean if self.centred else difference
        axis = torch.linalg.svd(cloud.double(), full_matrices=False).Vh[0].to(mean.dtype)
        return axis * (axis @ mean)
