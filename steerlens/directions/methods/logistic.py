"""The normal of a logistic regression's boundary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import ArgumentError, as_float, as_int


@dataclass(frozen=True)
class Logistic:
    """Direction of an L2-regularised logistic regression, scaled to the gap between the means.

    The regression runs on activations scaled by one common factor (scaling each feature would
    change the direction), and the result points from negative to positive. The length is the
    difference of the two means along it, so that multipliers are comparable with DiffMean's.

    Raises:
        ArgumentError: If `c` is not a positive number, or `max_iter` not a positive whole number.

    Source: the linear probes of AxBench, arXiv:2501.17148; fitted by scikit-learn.
    """

    c: float = 1.0
    """Inverse strength of the regularisation."""
    max_iter: int = 1000

    def __post_init__(self) -> None:
        object.__setattr__(self, "c", as_float("c", self.c))
        object.__setattr__(self, "max_iter", as_int("max_iter", self.max_iter, least=1))
        if self.c <= 0:
            raise ArgumentError(f"c={self.c} is not positive. Write e.g. Logistic(c=1.0).")

    def __call__(
        self, positive: Float[Tensor, "pair d_model"], negative: Float[Tensor, "pair d_model"]
    ) -> Float[Tensor, " d_model"]:
        # Imported here: it takes a quarter of the time of importing a model.
        from sklearn.linear_model import LogisticRegression

        x = torch.cat([positive, negative]).double().cpu()
        x = x - x.mean(0)
        x = x / x.std().clamp(min=1e-30)
        y = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
        # The solution is in the span of the data, which has fewer dimensions if there are few texts.
        # LAPACK takes half the time for a tall matrix.
        basis = torch.linalg.svd(x.T, full_matrices=False).U if len(x) < x.shape[1] else None
        features = (x if basis is None else x @ basis).numpy()
        # Newton's method is many times faster here if its Hessian is small.
        solver = "newton-cholesky" if features.shape[1] <= 1024 else "lbfgs"
        model = LogisticRegression(C=self.c, max_iter=self.max_iter, solver=solver)
        normal = torch.from_numpy(model.fit(features, y).coef_[0])
        normal = (normal if basis is None else basis @ normal).to(positive)
        unit = normal / normal.norm().clamp(min=1e-30)
        return unit * (unit @ (positive.mean(0) - negative.mean(0)))
