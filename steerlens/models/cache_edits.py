"""Edits of cached keys and values: one for each text, between its prompt's prefix and the rest.

A run is cut before the prompt's last token. The tokens before it are computed as they are; then their
kept keys and values are changed, once; and what follows attends to the changed ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.models.attached_edit import SteeringError
from steerlens.models.factors import Factor
from steerlens.protocols import Strength
from steerlens.sites import Positions, TokenBatch

PerLayer = Mapping[int, Float[Tensor, "kv_head d_head"]]
"""Vectors for the heads of some layers."""


@dataclass(eq=False)
class AttachedCache:
    """One edit of keys and values attached to the model."""

    keys: PerLayer
    """What strength 1 adds to the keys, as they are before any rotation by position."""
    values: PerLayer
    positions: Positions
    """Of the tokens that they choose, those before the prompt's last are edited."""
    multiplier: Strength
    factors: tuple[Factor, ...] = ()
    edited: bool = False
    """Whether the current run has reached the edit."""
    ever_ran: bool = False

    @property
    def layers(self) -> set[int]:
        """The layers whose keys or values are changed."""
        return {*self.keys, *self.values}

    @property
    def is_off(self) -> bool:
        """Whether no row is changed."""
        m = self.multiplier
        return not bool(m.any()) if isinstance(m, Tensor) else m == 0


@dataclass(frozen=True, eq=False)
class CacheChange:
    """What is added to the kept keys and values of a batch's prefix."""

    edits: Sequence[tuple[AttachedCache, Bool[Tensor, "batch _"], Float[Tensor, " batch"]]]
    """Each with the tokens that it chooses, and the strength of every row."""
    column: int
    """The first column after the prefix."""
    go_on: Callable[[], None]
    """States that the columns from there on come next."""

    def of_keys(self, layer: int) -> Float[Tensor, "batch pos kv_head d_head"] | None:
        """What is added to the keys of a layer, before rotation; None for nothing."""
        return self._sum(layer, [edit.keys for edit, _, _ in self.edits])

    def of_values(self, layer: int) -> Float[Tensor, "batch pos kv_head d_head"] | None:
        """What is added to the values of a layer; None for nothing."""
        return self._sum(layer, [edit.values for edit, _, _ in self.edits])

    def _sum(self, layer: int, each: Sequence[PerLayer]) -> Tensor | None:
        found = None
        for (_, chosen, strength), vectors in zip(self.edits, each, strict=True):
            if layer in vectors:
                vector = vectors[layer].to(strength)
                added = (chosen * strength[:, None])[..., None, None] * vector
                found = added if found is None else found + added
        return found

    def done(self) -> None:
        """Notes that it was made, and that the rest comes next."""
        for edit, _, _ in self.edits:
            edit.edited = edit.ever_ran = True
        self.go_on()


def require_some(positions: Positions, chosen: Bool[Tensor, "batch _"]) -> None:
    """Raises SteeringError if no token of some prompt's prefix is chosen."""
    if bool((empty := ~chosen.any(-1)).any()):
        raise SteeringError(
            f"{positions} chooses no token before the last one of prompt "
            f"{int(empty.nonzero()[0])}, and only those have keys and values to edit when the last "
            "one is read. Use longer prompts, or Positions.all(special=True)."
        )


def aligned(batch: TokenBatch) -> tuple[TokenBatch, Int[Tensor, " batch"]]:
    """The texts with all prompts ending in one column, and by how much each was moved."""
    shift = batch.prompt_end.max() - batch.prompt_end
    if not bool(shift.any()):
        return batch, shift
    width = batch.width + int(shift.max())
    source = torch.arange(width, device=batch.tokens.device) - shift[:, None]
    inside = (source >= 0) & (source < batch.width)

    def moved(values: Tensor) -> Tensor:
        return values.gather(1, source.clamp(0, batch.width - 1)).masked_fill(~inside, 0)

    found = replace(
        batch,
        tokens=moved(batch.tokens),
        mask=moved(batch.mask),
        special=moved(batch.special),
        prompt_end=batch.prompt_end + shift,
        answer=None if batch.answer is None else batch.answer + shift,
    )
    return found, shift


def put_back(
    stream: Float[Tensor, "batch _ d_model"], shift: Int[Tensor, " batch"], width: int
) -> Float[Tensor, "batch pos d_model"]:
    """A stream of moved texts, in the columns where they were."""
    if not bool(shift.any()):
        return stream
    at = torch.arange(width, device=stream.device) + shift[:, None]
    return stream.gather(1, at[..., None].expand(-1, -1, stream.shape[-1]))
