"""The mean and the shrunken covariance of the stream on ordinary text, at one site."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from steerlens.arguments import ArgumentError


@dataclass(frozen=True, eq=False)
class StreamShape:
    """A Gaussian account of a stream: its mean and its covariance.

    `of` fits both to states; the covariance is shrunken towards a multiple of the identity.
    """

    mean: Float[Tensor, " d_model"]
    covariance: Float[Tensor, "d_model d_model"]
    shrinkage: float
    """The part of the multiple of the identity, from 0 to 1."""

    @staticmethod
    def of(states: Float[Tensor, "token d_model"]) -> StreamShape:
        """The shape of some states.

        Raises:
            ValueError: If there are fewer than 16 states, or they are not finite.

        Source of the shrinkage: Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4, as in
        scikit-learn.
        """
        if len(states) < FEWEST or not bool(states.isfinite().all()):
            raise ArgumentError(
                f"{len(states)} states, finite: {bool(states.isfinite().all())}. A covariance needs "
                f"at least {FEWEST} finite ones: give more or longer texts."
            )
        rows = states.double()
        covariance, shrinkage = ledoit_wolf(rows.numpy(force=True))
        return StreamShape(rows.mean(0).cpu(), torch.as_tensor(covariance), float(shrinkage))

    def squared_distance(self, states: Float[Tensor, "*state d_model"]) -> Float[Tensor, "*state"]:
        """Squared Mahalanobis distance from the mean; of the stream's own states about d_model."""
        off = states.double() - self.mean
        return (off * self._whitened(off)).sum(-1)

    def change(
        self, states: Float[Tensor, "token d_model"], step: Float[Tensor, " d_model"]
    ) -> float:
        """The mean squared distance of states with a vector added, minus that without it.

        It is stepᵀ S⁻¹ step + 2 stepᵀ S⁻¹ (the states' mean - the mean).
        """
        whitened = self._whitened(step.double())
        off = states.double().mean(0) - self.mean
        return float(whitened @ step.double() + 2 * whitened @ off)

    def component(self, number: int) -> Float[Tensor, " d_model"]:
        """A unit principal component: 1 for the one of the most variance, -1 for that of the least.

        Raises:
            ValueError: If there is no such component.
        """
        d = len(self.mean)
        if not 1 <= abs(number) <= d:
            raise ArgumentError(
                f"component {number} is not one of the {d}. Use 1 to {d}, or -1 to -{d}."
            )
        vectors = torch.linalg.eigh(self.covariance).eigenvectors  # variance increases
        return vectors[:, -number if number > 0 else -number - 1]

    def _whitened(self, off: Float[Tensor, "*state d_model"]) -> Float[Tensor, "*state d_model"]:
        """S⁻¹ times vectors."""
        flat = off.reshape(-1, off.shape[-1]).T
        return torch.cholesky_solve(flat, torch.linalg.cholesky(self.covariance)).T.reshape(
            off.shape
        )


FEWEST = 16
"""States that a covariance needs at least."""
