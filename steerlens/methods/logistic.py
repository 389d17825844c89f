"""The normal of a logistic regression's boundary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from torch import Tensor


@dataclass(frozen=True)
class Logistic:
    """Direction of an L2-regularised logistic regression, scaled to the gap between the means.

    The regression runs on activations scaled by one common factor (not feature by feature, which
    would bend the direction), and the result points from negative to positive. The length is the
    difference of the two means along it, so that multipliers compare with DiffMean's.

    Source: the linear probes of AxBench, arXiv:2501.17148; fitted by scikit-learn.
    """

    c: float = 1.0
    """Inverse strength of the regularisation."""
    max_iter: int = 1000

    def __call__(
        self, positive: Float[Tensor, "pair d_model"], negative: Float[Tensor, "pair d_model"]
    ) -> Float[Tensor, " d_model"]:
        x = torch.cat([positive, negative]).double().cpu()
        x = x - x.mean(0)
        scale = x.std().clamp(min=1e-30)
        y = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
        fitted = LogisticRegression(C=self.c, max_iter=self.max_iter).fit((x / scale).numpy(), y)
        normal = torch.from_numpy(fitted.coef_[0]).to(positive)
        unit = normal / normal.norm().clamp(min=1e-30)
        return unit * (unit @ (positive.mean(0) - negative.mean(0)))
