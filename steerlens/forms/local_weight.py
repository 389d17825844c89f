"""One weight matrix, changed freely."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from steerlens.arguments import as_int
from steerlens.forms.form import Parameters, require_parameters, zeros
from steerlens.interventions.changes import Composed, Dense, WeightChange
from steerlens.interventions.composition import composed
from steerlens.interventions.matrices import Matrix, Target, matrices
from steerlens.models.exchanged import parameter_shapes
from steerlens.models.model import Model


@dataclass(frozen=True)
class LocalWeight:
    """(W + m ΔW) x + (b + m Δb) for one matrix of one block, by default what its MLP writes.

    Source: the local weight update of arXiv:2602.02343, which starts at zero. Departure: it is
    applied at every token, BOS included, as a change of weights is.
    """

    layer: int
    target: Target = "down"
    bias: bool = True
    """Whether the bias of the matrix is changed too, where it has one."""
    rate: float = 1e-3

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", as_int("layer", self.layer, least=0))

    def matrix(self, model: Model) -> Matrix:
        """The matrix that is changed.

        Raises:
            ValueError: If the model does not have it.
        """
        return matrices(model, self.target, (self.layer,))[0]

    def _names(self, model: Model) -> dict[str, str]:
        matrix = self.matrix(model)
        bias = {"bias": matrix.bias} if self.bias and matrix.bias is not None else {}
        return {"weight": matrix.name, **bias}

    def _shapes(self, model: Model) -> dict[str, tuple[int, ...]]:
        shapes = parameter_shapes(model.wrapped)
        return {key: shapes[name] for key, name in self._names(model).items()}

    def begin(self, model: Model, generator: torch.Generator) -> Parameters:
        """A change of zeros."""
        return {key: zeros(shape, model) for key, shape in self._shapes(model).items()}

    def intervention(self, model: Model, params: Parameters) -> Composed:
        """The change of the matrix, and of its bias."""
        require_parameters(self, params, self._shapes(model))
        names = self._names(model)
        changes = [WeightChange(name, Dense(params[key])) for key, name in names.items()]
        return composed(changes, repr(self))

    def after_step(self, params: Parameters) -> None:
        """Nothing must be restored."""
