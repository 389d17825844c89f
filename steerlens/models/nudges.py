"""Shifts of a token's vector that are found by looking ahead, while a text is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from steerlens.models.attached_edit import by_row
from steerlens.models.factors import Factor
from steerlens.protocols import Strength
from steerlens.sites import Positions, Site


@dataclass(frozen=True, eq=False)
class Ahead:
    """What the model makes of a vector at one token of every text."""

    logits: Float[Tensor, "row d_vocab"]
    """Of the token that follows."""
    streams: Mapping[int, Float[Tensor, "row d_model"]]
    """What enters each block above, by its number; the number of layers stands for what leaves the
    last one."""


Look = Callable[[Float[Tensor, "row d_model"]], Ahead]
"""Looks ahead from vectors at the site; gradients flow through it, from the site up only."""


@runtime_checkable
class Nudging(Protocol):
    """Finds by how much a token's vector is moved."""

    @property
    def site(self) -> Site: ...

    @property
    def positions(self) -> Positions: ...

    def shift(
        self, vectors: Float[Tensor, "row d_model"], look: Look, texts: list[list[int]]
    ) -> Float[Tensor, "row d_model"]:
        """What multiplier 1 adds.

        Args:
            texts: Token ids of each text up to the token itself.
        """
        ...


@dataclass(eq=False)
class AttachedNudge:
    """One nudge attached to the model."""

    nudge: Nudging
    entry: int
    """The block that its stream enters."""
    multiplier: Strength
    factors: tuple[Factor, ...] = ()
    edited: int = 0
    ever_ran: bool = False
    closed: bool = False
    """Whether a condition holds for no text of the current run."""

    @property
    def is_off(self) -> bool:
        """Whether no row is changed."""
        m = self.multiplier
        if self.closed:
            return True
        return not bool(m.any()) if isinstance(m, Tensor) else m == 0

    def apply(
        self,
        vectors: Float[Tensor, "row d_model"],
        chosen: Tensor,
        factor: Tensor | None,
        look: Look,
        texts: list[list[int]],
    ) -> Float[Tensor, "row d_model"]:
        """The vectors of one token of every text, moved where it is chosen."""
        self.ever_ran = True
        self.edited += int(chosen.sum())
        strength = by_row(self.multiplier, len(vectors)).to(vectors)
        if factor is not None:
            strength = strength * factor[:, -1].to(strength)
        moved = chosen & (strength != 0)
        if not bool(moved.any()):
            return vectors
        rows = moved.nonzero()[:, 0]

        def look_of_some(some: Float[Tensor, "some d_model"]) -> Ahead:
            found = look(vectors.index_copy(0, rows, some))
            return Ahead(found.logits[rows], {k: s[rows] for k, s in found.streams.items()})

        own = self.nudge.shift(vectors[rows], look_of_some, [texts[i] for i in rows.tolist()])
        return vectors.index_copy(0, rows, vectors[rows] + strength[rows, None] * own)
