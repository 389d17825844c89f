"""Edits of the residual stream along one direction: add, ablate, clamp."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import as_float
from steerlens.directions import Direction, DirectionError
from steerlens.interventions.changes import Change, StreamEdit
from steerlens.models.model import Model
from steerlens.protocols import Hookable, Strength
from steerlens.sites import Positions, Site
from steerlens.units import StrengthUnit, require_unit

E = TypeVar("E", bound="AlongDirection")


class AlongDirection(ABC):
    """What edits along one direction share: where they act, and how they are attached to a model."""

    direction: Direction
    positions: Positions

    @property
    def site(self) -> Site:
        return self.direction.site

    @abstractmethod
    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]: ...

    def require_fits(self, model: Hookable) -> None:
        """Raises DirectionError if the direction does not fit the model."""
        model.require(self.direction)

    def along(self: E, direction: Direction) -> E:
        """The same edit along another direction."""
        return replace(self, direction=direction)  # type: ignore[type-var]

    def changes(self, model: Model) -> tuple[Change, ...]:
        """The one edit, as all that it changes."""
        return (StreamEdit(self.site, self, self.positions),)

    @property
    def first_block(self) -> int:
        """The first block that it changes."""
        return StreamEdit(self.site, self, self.positions).block

    @property
    def per_row(self) -> bool:
        """True: a batch may have one multiplier per row."""
        return True

    def attach(self, model: Hookable, multiplier: Strength) -> AbstractContextManager[None]:
        """Steers the model until the `with` ends.

        Args:
            multiplier: One strength, or one per row of the batches that will be run.

        Raises:
            DirectionError: If the direction does not fit the model.
        """
        if not isinstance(model, Hookable):
            raise TypeError(
                "Steering is attached to a steerlens Model, which knows where prompts end and "
                f"what is padding; got {type(model).__name__}. Wrap it once, model = "
                "Model(hooked), and run it through the Model inside the `with`."
            )
        self.require_fits(model)
        return model.hooked(self.site, self, self.positions, multiplier)


@dataclass(frozen=True, eq=False)
class Add(AlongDirection):
    """Adds the direction to the residual stream: h' = h + multiplier · unit · direction.

    Source: ActAdd, arXiv:2308.10248; CAA, arXiv:2312.06681. Departure: the default strength unit
    is a fraction of the median residual norm at the site, so that layers compare.
    """

    direction: Direction
    positions: Positions = Positions.from_prompt_end()
    unit: StrengthUnit | float = "resid_norm"
    """What multiplier 1 means: "resid_norm", the stream's median norm at the site; "direction",
    the direction as fitted; "projection_std", one standard deviation of the fitted activations; or
    a number, the length that is added (e.g. of `equal_kl`)."""

    def __post_init__(self) -> None:
        if not isinstance(self.unit, str):
            length = as_float("unit", self.unit)
            if length <= 0:
                raise DirectionError(
                    f"unit={length} is not a length that multiplier 1 could add. Give a positive "
                    "number; for the opposite direction write -direction."
                )
            object.__setattr__(self, "unit", length)
            return
        require_unit(self.unit)
        if self._stated is None:
            raise DirectionError(
                f"unit={self.unit!r} needs {self.unit}, which this direction does not state. "
                "Fit it with steerlens.activations(model, …), or use unit='direction'."
            )

    @property
    def _stated(self) -> float | None:
        """The length that the unit names, if the direction states it."""
        stated: dict[Any, float | None] = {
            "resid_norm": self.direction.resid_norm,
            "projection_std": self.direction.projection_std,
            "direction": self.direction.norm,
        }
        return stated[self.unit]

    @property
    def length(self) -> float:
        """The length of what multiplier 1 adds, in the units of the stream."""
        length = self._stated if isinstance(self.unit, str) else self.unit
        assert length is not None  # refused when it was made
        return length

    @property
    def step(self) -> Float[Tensor, " d_model"]:
        """What multiplier 1 adds."""
        if self.unit == "direction":
            return self.direction.vector
        return self.direction.unit().vector * self.length

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        return resid + per_row(strength, resid) * like_stream(self.step, resid)


@dataclass(frozen=True, eq=False)
class Ablate(AlongDirection):
    """Removes the direction from the stream: h' = h - multiplier · û ûᵀ h. At 1 nothing is left.

    Source: arXiv:2406.11717, at one site. The paper ablates at every layer and every token: attach
    one per site, with ``positions=Positions.all(special=True)``. Without `special=True` BOS and the
    markers of a chat template keep the direction, and later tokens read it from there.
    """

    direction: Direction
    positions: Positions = Positions.from_prompt_end()

    def __post_init__(self) -> None:
        self.direction.require_operation("ablate")

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        u = like_stream(self.direction.unit().vector, resid)
        return resid - per_row(strength, resid) * (resid @ u)[..., None] * u


@dataclass(frozen=True, eq=False)
class Clamp(AlongDirection):
    """Moves the projection towards a value: h' = h + multiplier · (value - ûᵀh) û. At 1 it is there.

    `value` is in units of the residual stream.
    """

    direction: Direction
    value: float
    positions: Positions = Positions.from_prompt_end()

    def __post_init__(self) -> None:
        self.direction.require_operation("clamp")
        object.__setattr__(self, "value", as_float("value", self.value))

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        u = like_stream(self.direction.unit().vector, resid)
        return resid + per_row(strength, resid) * (self.value - resid @ u)[..., None] * u


def per_row(strength: Strength, resid: Tensor) -> Tensor | float:
    """A strength that multiplies a stream [batch, pos, d_model], row by row."""
    if not isinstance(strength, Tensor):
        return float(strength)
    return like_stream(strength, resid)[:, None, None]


def like_stream(tensor: Tensor, resid: Tensor) -> Tensor:
    """A tensor on the device of a stream and in its precision.

    A GPU goes on computing while it is copied there, so that an edit in every block costs no pause.
    """
    return tensor.to(resid, non_blocking=resid.device.type not in ("cpu", "mps"))
