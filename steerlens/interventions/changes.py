"""What an intervention changes, stated: edits of the stream or the cache, weights, text in front.

An intervention that states its changes (`Composed`) is computed by each analysis in the fastest way
that is exact. Every change is that of multiplier 1, and is differentiable in the tensors it holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from steerlens.models.cache_edits import PerLayer
from steerlens.models.factors import Factor
from steerlens.models.model import Model
from steerlens.models.nudges import Nudging
from steerlens.protocols import Edit, Intervention, Strength
from steerlens.sites import Positions, Site

_BLOCK = re.compile(r"blocks\.(\d+)\.")
_AFTER_THE_BLOCKS = ("ln_final.", "unembed.")


@dataclass(frozen=True, eq=False)
class StreamEdit:
    """An edit of a stream at the chosen tokens, of any rank: h' = edit(h, multiplier).

    The edit of one token depends on that token's own vector alone.
    """

    site: Site
    edit: Edit
    positions: Positions

    @property
    def block(self) -> int:
        """The first block that it changes."""
        return self.site.layer if self.site.entry is None else self.site.entry

    def scaled(self, factor: float) -> StreamEdit:
        """The same edit, whose multiplier 1 is `factor` of this one's."""
        return replace(self, edit=_ScaledStrength(self.edit, factor))


@dataclass(frozen=True, eq=False)
class _ScaledStrength:
    """An edit whose strength is `factor` times as large."""

    edit: Edit
    factor: float

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        return self.edit(resid, strength * self.factor)


@dataclass(frozen=True, eq=False)
class Dense:
    """What is added to a parameter, entry by entry."""

    delta: Float[Tensor, "..."]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.delta.shape)

    def added(self, weight: Float[Tensor, "..."], multiplier: float) -> Float[Tensor, "..."]:
        """weight + multiplier · delta."""
        return weight + multiplier * self.delta.to(weight)

    def scaled(self, factor: float) -> Dense:
        return Dense(self.delta * factor)


@dataclass(frozen=True, eq=False)
class LowRank:
    """What is added to a parameter, as a product: delta = a @ b.

    A parameter that is stored by head has its heads in front, as the product broadcasts: for W_Q
    [head, d_model, d_head] a is [d_model, rank] and b [head, rank, d_head]; for W_O
    [head, d_head, d_model] a is [head, d_head, rank] and b [rank, d_model].

    Raises:
        ValueError: If the rank is 0, or a and b do not have the same.
    """

    a: Float[Tensor, "... rows rank_of_a"]
    b: Float[Tensor, "... rank_of_b columns"]

    def __post_init__(self) -> None:
        if self.rank == 0 or self.b.shape[-2] != self.rank:
            raise ValueError(
                f"The factors have shapes {tuple(self.a.shape)} and {tuple(self.b.shape)}: their "
                "product is no change of some rank. Give a [..., rows, rank] and "
                "b [..., rank, columns], rank 1 or more."
            )

    @property
    def rank(self) -> int:
        return self.a.shape[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        heads = self.a.shape[:-2] or self.b.shape[:-2]
        return (*heads, self.a.shape[-2], self.b.shape[-1])

    def added(self, weight: Float[Tensor, "..."], multiplier: float) -> Float[Tensor, "..."]:
        """weight + multiplier · a b."""
        return weight + (multiplier * self.a.to(weight)) @ self.b.to(weight)

    def scaled(self, factor: float) -> LowRank:
        return LowRank(self.a * factor, self.b)


@dataclass(frozen=True, eq=False)
class WeightChange:
    """A change of one parameter: W' = W + multiplier · delta."""

    name: str
    """As in `model.wrapped.named_parameters()`."""
    delta: Dense | LowRank

    @property
    def block(self) -> int | None:
        """The first block that it changes; None for what comes after the last block."""
        if found := _BLOCK.match(self.name):
            return int(found[1])
        return None if self.name.startswith(_AFTER_THE_BLOCKS) else 0

    def scaled(self, factor: float) -> WeightChange:
        """The same change, whose multiplier 1 is `factor` of this one's."""
        return replace(self, delta=self.delta.scaled(factor))


@dataclass(frozen=True, eq=False)
class PromptChange:
    """Tokens in front of every text, after its BOS, with a dial.

    The final states, which the unembedding reads, are mixed: base + multiplier · (prompted - base).
    At 1 it is exactly the prompt. So logits mix linearly, and the next token's distribution is
    p_base^(1 - multiplier) · p_prompted^multiplier, normalised; where the model caps its logits, the
    cap is applied to the mixture.
    """

    tokens: Int[Tensor, " new"]
    entering: Float[Tensor, "new d_model"] | None = None
    """What enters block 0 in the place of the tokens, for a trained prefix."""
    weight: float | Float[Tensor, ""] = 1.0
    """Scales the multiplier; a tensor for a gate that is trained."""

    @property
    def block(self) -> int:
        """The first block that it changes."""
        return 0

    def scaled(self, factor: float) -> PromptChange:
        """The same prompt, whose multiplier 1 is `factor` of this one's."""
        return replace(self, weight=self.weight * factor)


@dataclass(frozen=True, eq=False)
class CacheEdit:
    """One edit of the keys and values of a prompt's tokens, after they were computed.

    A text is read up to its prompt's last token; then multiplier · vector is added to what is kept of
    the chosen tokens, once; all that follows attends to the edited prefix. Tokens before are as they
    were, and a written token costs nothing more.
    """

    keys: PerLayer
    """By layer: what is added to the keys of every head, as they are before rotation by position."""
    values: PerLayer
    positions: Positions = Positions.span(-2, -1, special=True)
    """Of the tokens that it chooses, those before the prompt's last."""
    weight: float = 1.0
    """Scales the multiplier."""

    def __post_init__(self) -> None:
        if not (self.keys or self.values):
            raise ValueError("A CacheEdit without keys and values changes nothing. Give some.")

    @property
    def block(self) -> int:
        """The first block that it changes."""
        return min({*self.keys, *self.values})

    def scaled(self, factor: float) -> CacheEdit:
        """The same edit, whose multiplier 1 is `factor` of this one's."""
        return replace(self, weight=self.weight * factor)


@dataclass(frozen=True, eq=False)
class NudgeChange:
    """A shift of each chosen token's vector that is found by looking ahead: h' = h + multiplier · s."""

    nudge: Nudging
    weight: float = 1.0
    """Scales the multiplier."""

    @property
    def block(self) -> int:
        """The first block that it changes."""
        site = self.nudge.site
        return site.layer if site.entry is None else site.entry

    def scaled(self, factor: float) -> NudgeChange:
        """The same shift, whose multiplier 1 is `factor` of this one's."""
        return replace(self, weight=self.weight * factor)


BareChange = StreamEdit | WeightChange | PromptChange | CacheEdit | NudgeChange


@dataclass(frozen=True, eq=False)
class Varied:
    """A change whose multiplier is multiplied by factors that depend on the text."""

    change: BareChange
    factors: tuple[Factor, ...]

    @property
    def block(self) -> int | None:
        """The first block that it changes."""
        return self.change.block

    def scaled(self, factor: float) -> Varied:
        """The same change, whose multiplier 1 is `factor` of this one's."""
        return replace(self, change=self.change.scaled(factor))


Change = BareChange | Varied


@runtime_checkable
class Composed(Intervention, Protocol):
    """An intervention that states all that it changes."""

    def changes(self, model: Model) -> tuple[Change, ...]:
        """What multiplier 1 changes, in the order in which it is applied.

        Differentiable in the tensors that the intervention holds.
        """
        ...

    @property
    def first_block(self) -> int:
        """The first block that it changes, as of `Stated`."""
        ...

    @property
    def per_row(self) -> bool:
        """Whether it takes one multiplier per row of a batch: no weights are changed."""
        ...


def first_block_of(changes: tuple[Change, ...]) -> int:
    """The first block that any of the changes touches; 0 where only what follows the blocks is."""
    return min((c.block for c in changes if c.block is not None), default=0)


def rows_of(changes: tuple[Change, ...]) -> bool:
    """Whether the changes take one multiplier per row of a batch."""
    return not any(isinstance(bare(change), WeightChange) for change in changes)


def bare(change: Change) -> BareChange:
    """A change without the factors of its multiplier."""
    return change.change if isinstance(change, Varied) else change


def factors_of(change: Change) -> tuple[Factor, ...]:
    """What the multiplier of a change is multiplied by."""
    return change.factors if isinstance(change, Varied) else ()


def varied(changes: tuple[Change, ...], factor: Factor) -> tuple[Change, ...]:
    """The same changes, whose multiplier is multiplied by one more factor."""
    return tuple(Varied(bare(change), (*factors_of(change), factor)) for change in changes)
