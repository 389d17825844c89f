"""One edit that is attached to a model, and the columns that the model computes now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.arguments import as_float, as_floats
from steerlens.models.factors import Factor, TokenFactor
from steerlens.models.prompts import Inserted
from steerlens.protocols import Edit, Strength, TextEdit
from steerlens.sites import Positions, Site, TokenBatch


class SteeringError(ValueError):
    """Steering that did nothing, or could not be applied to what was run."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """Which tokens are edited, with what all edits of the same tokens share."""

    mask: Bool[Tensor, "batch pos"]
    count: int | Int[Tensor, ""]
    """How many there are."""
    is_all: bool = False
    """Whether there is no other token, as far as is known without waiting for a GPU."""

    @classmethod
    def of(cls, mask: Bool[Tensor, "batch pos"]) -> Chosen:
        """The tokens of a mask."""
        if mask.device.type != "cpu":
            return cls(mask, mask.sum())
        count = int(mask.sum())
        return cls(mask, count, count == mask.numel())


@dataclass(eq=False)
class Attached:
    """One edit attached to the model, and how many tokens it edited in the current run."""

    site: Site
    edit: Edit
    positions: Positions
    multiplier: Strength
    edited: int | Tensor = 0
    ever_ran: bool = False
    """Whether the model was run while it was attached, be it only up to a lower block."""
    handle: Any = None
    """TransformerLens's handle of the hook that applies it."""
    factors: tuple[Factor, ...] = ()
    """What the multiplier is multiplied by."""

    def apply(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        chosen: Tensor | Chosen,
        factor: Float[Tensor, "batch _"] | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream after the edit, at the chosen tokens; the very same tensor at strength 0.

        Args:
            factor: What the multiplier is multiplied by at each of the last tokens, or at all.
        """
        if isinstance(chosen, Tensor):
            chosen = Chosen.of(chosen)
        self.ever_ran = True
        self.edited = self.edited + chosen.count  # read at the end: a GPU need not wait here
        if not isinstance(self.multiplier, Tensor) and self.multiplier == 0:
            return resid
        require_rows(self.multiplier, resid.shape[0])
        mask = chosen.mask
        if factor is None:
            edited = edited_stream(self.edit, resid, self.multiplier, mask)
        else:
            edited, mask = self._varied(resid, mask, factor)
        if edited.shape != resid.shape:
            raise SteeringError(
                f"{self.edit!r} turned a stream of shape {tuple(resid.shape)} into "
                f"{tuple(edited.shape)}. An edit must keep the shape."
            )
        if factor is None and chosen.is_all:
            return edited
        return torch.where(mask[..., None], edited, resid)

    def _varied(
        self, resid: Tensor, chosen: Tensor, factor: Tensor
    ) -> tuple[Tensor, Bool[Tensor, "batch pos"]]:
        """The edited stream under a strength for each text or token, and where it counts."""
        m = self.multiplier
        factor = factor[:, -resid.shape[1] :].to(resid.device)
        own = factor * (m.to(factor)[:, None] if isinstance(m, Tensor) else float(m))
        chosen = chosen & (own != 0)
        if own.shape[1] == 1:
            return edited_stream(self.edit, resid, own[:, 0], chosen), chosen
        # The edit of a token depends on that token alone, so that tokens can be rows.
        each = resid.reshape(-1, 1, resid.shape[-1])
        return self.edit(each, own.reshape(-1)).view_as(resid), chosen


@dataclass(frozen=True, eq=False)
class Window:
    """The columns that the wrapped model is computing right now."""

    batch: TokenBatch
    """The texts themselves, by which the rules of positions count."""
    start: int
    """The first column, counted with the prompts that stand in the texts."""
    inserted: tuple[Inserted, ...] = ()
    """Prompts that stand in the texts, which are never edited."""
    known: dict[int, Tensor] = field(default_factory=dict)
    """What the factors by token are, by the id of each."""

    def chosen(self, positions: Positions, width: int) -> Tensor:
        chosen = positions.mask(self.batch)
        for prompt in self.inserted:
            chosen = prompt.spread(chosen, False)
        return chosen[:, self.start : self.start + width]

    def factor(self, factor: TokenFactor, width: int) -> Float[Tensor, "batch pos"]:
        if id(factor) not in self.known:
            start = max(0, self.start - sum(prompt.width for prompt in self.inserted))
            own = factor.of_tokens(self.batch, start)
            whole = own.new_zeros(len(own), self.batch.width)
            whole[:, start:] = own
            for prompt in self.inserted:
                whole = prompt.spread(whole, 0)
            self.known[id(factor)] = whole
        return self.known[id(factor)][:, self.start : self.start + width]


def edited_stream(
    edit: Edit,
    resid: Float[Tensor, "batch pos d_model"],
    multiplier: Strength,
    chosen: Bool[Tensor, "batch pos"],
) -> Tensor:
    """What an edit makes of a stream; it counts at the chosen tokens alone.

    The shape is the edit's own, which may be wrong.
    """
    if isinstance(edit, TextEdit):
        return edit.of_texts(resid, multiplier, chosen)
    return edit(resid, multiplier)


def edits_by_block(edits: Iterable[Attached]) -> dict[int, list[Attached]]:
    """The edits of what enters each block, in the order in which the hooks fire.

    That is the block's number, and the number of layers for what leaves the last. `resid_post` of a
    block comes before `resid_pre` of the next.
    """
    found: dict[int, list[Attached]] = {}
    edits = list(edits)
    for stream in ("resid_post", "resid_pre"):
        for attached in edits:
            if attached.site.entry is not None and attached.site.stream == stream:
                found.setdefault(attached.site.entry, []).append(attached)
    return found


def require_rows(multiplier: Strength, rows: int) -> None:
    """Raises SteeringError if there is one multiplier per row, and another number of rows."""
    if isinstance(multiplier, Tensor) and len(multiplier) != rows:
        raise SteeringError(
            f"{len(multiplier)} multipliers for a batch of {rows} rows. Give one number, or one per "
            "row."
        )


def by_row(multiplier: Strength, rows: int) -> Float[Tensor, " row"]:
    """The multiplier of every row.

    Raises:
        SteeringError: If there is one per row, and another number of rows.
    """
    require_rows(multiplier, rows)
    if isinstance(multiplier, Tensor):
        return multiplier
    return torch.full((rows,), float(multiplier))


def _real(numbers: Tensor) -> bool:
    return numbers.dtype != torch.bool and not numbers.is_complex()


def strength_of(multiplier: Strength) -> Strength:
    """One finite number, or one per row of a batch; a tensor without dimensions is one number.

    Numbers of every library become a float, and a vector of NumPy a tensor.

    Raises:
        TypeError: If it is neither.
        ValueError: If a number is NaN or infinite.
    """
    if isinstance(multiplier, np.ndarray) and multiplier.ndim == 1:
        multiplier = torch.tensor(as_floats("multiplier", multiplier), dtype=torch.float32)
    array = isinstance(multiplier, Tensor | np.ndarray) and multiplier.ndim > 0
    trained = isinstance(multiplier, Tensor) and multiplier.requires_grad
    if not (array or trained):
        multiplier = as_float("multiplier", multiplier, finite=False)
    elif not (isinstance(multiplier, Tensor) and multiplier.ndim == 1 and _real(multiplier)):
        raise TypeError(
            f"multiplier={multiplier!r} is not a strength. Give one number, or a tensor with one "
            "number per row of the batch."
        )
    if not bool(torch.as_tensor(multiplier).isfinite().all()):
        raise ValueError(
            f"multiplier={multiplier} would fill the stream with NaN. Give finite strengths."
        )
    return multiplier
