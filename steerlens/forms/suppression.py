"""What suppresses a concept instead of steering towards it, for objectives that train both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.forms.form import Form, Parameters
from steerlens.interventions.changes import Composed
from steerlens.interventions.residual import like_stream, per_row
from steerlens.models.model import Model
from steerlens.protocols import Strength


@runtime_checkable
class Suppressing(Form, Protocol):
    """A form that suppresses by other means than the opposite multiplier."""

    def null(self, model: Model, params: Parameters) -> Composed:
        """What suppresses, fully at multiplier 1; differentiable in the parameters."""
        ...


@dataclass(frozen=True, eq=False)
class TakeOut:
    """h' = h - strength · ReLU(h · v) v / ‖v‖²: at 1 no projection on v is left above 0.

    Source: "null" of arXiv:2505.20809, without its bias. A vector of zeros takes out nothing.
    """

    vector: Float[Tensor, " d_model"]

    @property
    def d_model(self) -> int:
        return self.vector.shape[0]

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        v = like_stream(self.vector, resid)
        along = torch.relu(resid @ v) / v.square().sum().clamp(min=1e-12)
        return resid - per_row(strength, resid) * along[..., None] * v
