"""The shapes that a stranger's code can fill. Nothing here has a body.

A *method* turns paired activations into a direction; an *intervention* changes a model for the
length of a `with`; whatever has these shapes can be swept, mapped, scored, stored and plotted.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from steerlens.directions import Direction
from steerlens.sites import Positions, Site

Strength = float | Float[Tensor, " batch"]
"""A multiplier: one number for all rows of a batch, or one per row."""


@runtime_checkable
class Method(Protocol):
    """Paired activations at one site in, a direction out. Its `repr` is its label.

    `paired` (optional attribute, default False) says that row i of both arguments must belong
    together; such a method is refused for sets without true pairs.
    """

    def __call__(
        self, positive: Float[Tensor, "pair d_model"], negative: Float[Tensor, "pair d_model"]
    ) -> Float[Tensor, " d_model"]: ...


@runtime_checkable
class Edit(Protocol):
    """What happens to a residual stream at the chosen tokens. At strength 0 it is the identity."""

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]: ...


@runtime_checkable
class Hookable(Protocol):
    """What an intervention needs of a model."""

    def hooked(
        self, site: Site, edit: Edit, positions: Positions, multiplier: Strength
    ) -> AbstractContextManager[None]:
        """Applies the edit at the site to the chosen tokens until the `with` ends."""
        ...

    def require(self, direction: Direction) -> None:
        """Raises if the direction does not fit the model."""
        ...


@runtime_checkable
class Intervention(Protocol):
    """A change of a model with a strength. At 0 it is the unsteered model, exactly.

    After the `with`, also after an error in it, nothing is left behind.
    """

    def attach(self, model: Hookable, multiplier: Strength) -> AbstractContextManager[None]: ...


@runtime_checkable
class ResidualEdit(Intervention, Protocol):
    """An intervention at one residual-stream site, which `sweep` can compute from shared work.

    The edit of one token must depend on that token's own vector alone.
    """

    @property
    def site(self) -> Site: ...

    @property
    def positions(self) -> Positions: ...

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]: ...


@runtime_checkable
class Scorer(Protocol):
    """A judge of generated texts: one number per text, in whatever unit it says it has."""

    def __call__(self, prompts: list[str], continuations: list[str]) -> list[float]: ...
