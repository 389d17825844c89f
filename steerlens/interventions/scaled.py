"""The same intervention in another unit of strength."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from steerlens.interventions.arms import require_fit
from steerlens.interventions.residual import Add
from steerlens.interventions.together import Together
from steerlens.models.attached import strength_of
from steerlens.models.model import Model
from steerlens.protocols import Hookable, Intervention, ResidualEdit, Strength
from steerlens.sites import Positions, Site


def scaled(intervention: Intervention, factor: float) -> Intervention:
    """The same intervention, whose multiplier 1 is `factor` of the one it was made with.

    >>> import torch
    >>> from steerlens.directions import Direction
    >>> add = Add(Direction(torch.ones(4), Site(2)), unit=3.0)
    >>> scaled(add, 0.5).unit
    1.5
    """
    if isinstance(intervention, Add):
        return replace(intervention, unit=factor * intervention.length)
    if isinstance(intervention, ResidualEdit):
        return ScaledEdit(intervention, factor)
    return Together((intervention,), (factor,))


@dataclass(frozen=True, eq=False)
class ScaledEdit:
    """A residual edit whose multiplier is `factor` times as strong."""

    edit: ResidualEdit
    factor: float

    @property
    def site(self) -> Site:
        return self.edit.site

    @property
    def positions(self) -> Positions:
        return self.edit.positions

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        return self.edit(resid, strength * self.factor)

    def require_fits(self, model: Model) -> None:
        """Raises ValueError if the edit does not fit the model."""
        require_fit(model, self.edit)

    def attach(self, model: Hookable, multiplier: Strength) -> AbstractContextManager[None]:
        """Steers the model until the `with` ends."""
        return self.edit.attach(model, strength_of(multiplier) * self.factor)
