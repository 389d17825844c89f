"""The difference of means: the simplest direction, and a strong baseline."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class DiffMean:
    """Mean of the positive side minus mean of the negative side.

    Source: CAA, arXiv:2312.06681; "DiffMean" in AxBench, arXiv:2501.17148, which normalises it.
    Here the length is kept: it is the distance between the two means.

    >>> import torch
    >>> DiffMean()(torch.tensor([[2.0, 0.0], [4.0, 0.0]]), torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
    tensor([ 2., -1.])
    """

    def __call__(
        self, positive: Float[Tensor, "pair d_model"], negative: Float[Tensor, "pair d_model"]
    ) -> Float[Tensor, " d_model"]:
        return positive.mean(0) - negative.mean(0)
