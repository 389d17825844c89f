"""The shape of a method: paired activations in, a direction out."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Method(Protocol):
    """Paired activations at one site in, a direction out. Its `repr` is its label.

    `paired` (optional attribute, default False) says that row i of both arguments must belong
    together; such a method is refused for sets without true pairs.
    """

    def __call__(
        self, positive: Float[Tensor, "pair d_model"], negative: Float[Tensor, "pair d_model"]
    ) -> Float[Tensor, " d_model"]: ...
