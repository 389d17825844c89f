"""The shapes that a stranger's code can fill. Nothing here has a body.

A *method* (directions.methods.method) turns paired activations into a direction; an *intervention*
changes a model until the `with` ends. Whatever has these shapes can be swept, mapped, scored, stored
and plotted.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.directions import Direction
from steerlens.sites import Positions, Site

Strength = float | Float[Tensor, " batch"] | Float[Tensor, ""]
"""A multiplier: one number for all rows of a batch, which a tensor without dimensions is too, or one
per row."""


@runtime_checkable
class Edit(Protocol):
    """What happens to a residual stream at the chosen tokens. At strength 0 it is the identity."""

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]: ...


@runtime_checkable
class TextEdit(Protocol):
    """An edit that looks at all chosen tokens of a text at once, as some forms do in training.

    It is given whole texts and never a part of one, and what it does to a text is the same whatever
    other columns, such as padding, are in the batch.
    """

    def of_texts(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        strength: Strength,
        chosen: Bool[Tensor, "batch pos"],
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream after the edit; only what it gives at the chosen tokens is taken."""
        ...


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

    After the `with`, also after an error in it, nothing is left behind. This is all that an
    analysis needs; of an intervention that says no more it assumes that any block may be changed
    and that a batch has one multiplier for all rows.
    """

    def attach(self, model: Hookable, multiplier: Strength) -> AbstractContextManager[None]: ...


@runtime_checkable
class Fitted(Protocol):
    """An intervention that knows which models it fits."""

    def require_fits(self, model: Any) -> None:
        """Raises ValueError, before any work is done, if the model is not one of them."""
        ...


@runtime_checkable
class Stated(Intervention, Protocol):
    """An intervention that states what an analysis can make use of."""

    @property
    def first_block(self) -> int:
        """The first block whose input or weights it changes; all blocks below see the unsteered
        stream. A block counts from 0, and the number of layers means: after the last block."""
        ...

    @property
    def per_row(self) -> bool:
        """Whether `attach` takes one multiplier per row of a batch."""
        ...


@runtime_checkable
class ResidualEdit(Intervention, Protocol):
    """An intervention at one residual-stream site, which `sweep` can compute from shared work.

    The edit of one token must depend on that token's own vector alone. It takes one multiplier per
    row, and changes nothing below its site.
    """

    @property
    def site(self) -> Site: ...

    @property
    def positions(self) -> Positions: ...

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]: ...


@runtime_checkable
class Directed(ResidualEdit, Protocol):
    """A residual edit along one direction, so that a random direction can take its place."""

    @property
    def direction(self) -> Direction: ...

    def along(self, direction: Direction) -> Directed:
        """The same edit, as long and at the same tokens, along another direction."""
        ...


def takes_rows(intervention: Intervention) -> bool:
    """Whether an intervention takes one multiplier per row of a batch."""
    if isinstance(intervention, ResidualEdit):
        return True
    return isinstance(intervention, Stated) and intervention.per_row


def first_block(intervention: Intervention) -> int:
    """The first block that an intervention changes; 0 where it does not say."""
    if isinstance(intervention, ResidualEdit):
        entry = intervention.site.entry
        return intervention.site.layer if entry is None else entry
    return intervention.first_block if isinstance(intervention, Stated) else 0


@runtime_checkable
class Scorer(Protocol):
    """A judge of generated texts: one number per text, in whatever unit it says it has."""

    def __call__(self, prompts: list[str], continuations: list[str]) -> list[float]: ...
