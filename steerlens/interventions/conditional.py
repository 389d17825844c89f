"""Steering under a condition: only texts, or only tokens, that have it are changed (CAST)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.arguments import as_float
from steerlens.directions import Direction, DirectionError
from steerlens.interventions.arms import require_fit
from steerlens.interventions.changes import (
    Change,
    StreamEdit,
    WeightChange,
    bare,
    varied,
)  # fmt: skip
from steerlens.interventions.composition import attached
from steerlens.interventions.residual import like_stream
from steerlens.interventions.together import changes_of
from steerlens.models.factors import Reader
from steerlens.models.model import Model
from steerlens.protocols import Edit, Hookable, Intervention, Strength, first_block, takes_rows
from steerlens.sites import Positions, TokenBatch

Similarity = Literal["tanh", "cosine", "projection"]


@dataclass(frozen=True, eq=False)
class Condition:
    """Whether a prompt has something: a score along a direction beyond a threshold.

    The score is of h, the mean of the stream over the prompt's chosen tokens as it is without edits
    and prompts:

    - "tanh": cos(h, tanh(ĉ ĉᵀ h)), as published. It is the same for h and -h, so it cannot tell the
      two ends of a direction apart where these lie on both sides of 0, and it depends on the scale of
      the stream: far from 0 tanh keeps signs alone.
    - "cosine": ĉᵀh / ‖h‖.
    - "projection": ĉᵀh, in units of the stream.

    `steerlens.operators.find_condition` finds direction, site and threshold on prompts that have it
    and prompts that do not.

    Source: CAST, arXiv:2409.05907. Departures: BOS and other special tokens are left out of the mean
    unless the positions include them; the score is of the unsteered model, so that a condition above
    the steered layer is not moved by its own steering.
    """

    direction: Direction
    threshold: float
    above: bool = True
    """Whether it holds above the threshold, or below."""
    similarity: Similarity = "tanh"
    positions: Positions = Positions.all()

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", as_float("threshold", self.threshold))
        if self.similarity not in ("tanh", "cosine", "projection"):
            raise DirectionError(
                f"similarity={self.similarity!r:.80} is not known. Use 'tanh', 'cosine' or "
                "'projection'."
            )

    def scores(self, stream: Float[Tensor, "*text d_model"]) -> Float[Tensor, "*text"]:
        """The score of vectors: of mean streams, or of single tokens."""
        return similarity_to(self.direction, stream, self.similarity)

    def holds(self, scores: Float[Tensor, "*text"]) -> Bool[Tensor, "*text"]:
        """Which scores are beyond the threshold, on the side that is meant."""
        return scores > self.threshold if self.above else scores < self.threshold

    def __repr__(self) -> str:
        side = ">" if self.above else "<"
        return f"Condition({self.similarity} at {self.direction.site} {side} {self.threshold:.3g})"


def similarity_to(
    direction: Direction, stream: Float[Tensor, "*text d_model"], similarity: Similarity
) -> Float[Tensor, "*text"]:
    """How much of a direction vectors have, as `Condition` says."""
    stream = stream.float()
    c = like_stream(direction.unit().vector, stream)
    along = stream @ c
    if similarity == "projection":
        return along
    if similarity == "cosine":
        return along / stream.norm(dim=-1).clamp(min=1e-30)
    return torch.cosine_similarity(stream, torch.tanh(along[..., None] * c), dim=-1)


def prompt_means(
    stream: Float[Tensor, "batch pos d_model"], batch: TokenBatch, positions: Positions
) -> Float[Tensor, "batch d_model"]:
    """The mean of a stream over each prompt's chosen tokens.

    Raises:
        ValueError: If a prompt has none.
    """
    columns = torch.arange(batch.width, device=batch.tokens.device)
    chosen = positions.mask(batch) & (columns < batch.prompt_end[:, None])
    if bool((counts := chosen.sum(-1)).eq(0).any()):
        raise ValueError(
            f"{positions} chooses no token of prompt {int((counts == 0).nonzero()[0])}, so its "
            "condition cannot be read. Use Positions.all(special=True)."
        )
    total = torch.where(chosen[..., None], stream.float(), 0.0).sum(1)
    return total / counts[:, None]


@dataclass(frozen=True, eq=False)
class _OpenWhere:
    """1 for texts whose prompt has one of the conditions, else 0."""

    conditions: tuple[Condition, ...]

    def of_texts(self, batch: TokenBatch, read: Reader) -> Float[Tensor, " batch"]:
        prompts = _prompts(batch)
        sites = sorted({condition.direction.site for condition in self.conditions})
        streams = read(prompts, sites)
        open_ = torch.zeros(len(batch), dtype=torch.bool, device=batch.tokens.device)
        for condition in self.conditions:
            stream = streams[condition.direction.site]
            means = prompt_means(stream, prompts, condition.positions)
            open_ |= condition.holds(condition.scores(means))
        return open_.float()


def _prompts(batch: TokenBatch) -> TokenBatch:
    """The columns up to the last end of a prompt."""
    return batch.columns(0, int(batch.prompt_end.max()))


@dataclass(frozen=True, eq=False)
class _WhereTokens:
    """An edit at tokens whose own vector has one of the conditions."""

    edit: Edit
    conditions: tuple[Condition, ...]

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        each = [condition.holds(condition.scores(resid)) for condition in self.conditions]
        open_ = torch.stack(each).any(0)
        return torch.where(open_[..., None], self.edit(resid, strength), resid)


@dataclass(frozen=True, eq=False)
class When:
    """Applies an intervention where a condition holds.

    By text: the condition is read once, on the prompt of each text when a run starts, and holds for
    all that is written. It takes one more pass over the prompts, up to the condition's block. Texts
    without it are the unsteered model, to the last bit. Anything that states its changes can stand
    under it: edits, prompts, caches, and changes of weights inside blocks, for which the texts of a
    batch are run apart.

    With `each_token` an edit is applied at the tokens whose own vector, at the site of the edit, has
    the condition.

    Several conditions: any of them. Both of two: ``When(one, When(other, intervention))``.

    Source: CAST, arXiv:2409.05907, where the condition is by text.
    """

    condition: Condition | tuple[Condition, ...]
    intervention: Intervention
    each_token: bool = False

    def __post_init__(self) -> None:
        if not self.conditions:
            raise ValueError("When((), …) never holds. Give at least one condition.")

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The conditions, any of which opens the gate."""
        return self.condition if isinstance(self.condition, tuple) else (self.condition,)

    def changes(self, model: Model) -> tuple[Change, ...]:
        """What it changes where the condition holds.

        Raises:
            ValueError: If the intervention does not say what it changes, or cannot be changed so.
        """
        inner = changes_of(self.intervention, model)
        if inner is None:
            raise ValueError(
                f"{self.intervention!r:.200} does not say what it changes, so it cannot be made "
                "conditional. Give it `changes(model)` (steerlens.interventions.changes)."
            )
        if self.each_token:
            return tuple(self._by_token(change) for change in inner)
        for change in map(bare, inner):
            if isinstance(change, WeightChange) and change.block is None:
                raise ValueError(
                    f"{self.intervention!r:.200} changes {change.name}, behind the last block, which "
                    "reads the states of all texts together. Leave it out of what is conditional."
                )
        return varied(inner, _OpenWhere(self.conditions))

    def _by_token(self, change: Change) -> Change:
        if not isinstance(change, StreamEdit) or any(
            condition.direction.site != change.site for condition in self.conditions
        ):
            where = ", ".join(str(condition.direction.site) for condition in self.conditions)
            raise ValueError(
                f"With each_token a condition is read from the very vector that is edited, and this "
                f"one is at {where} and {self.intervention!r:.200} is not an edit there. Fit the "
                "condition at the site of the edit, or leave out each_token."
            )
        return replace(change, edit=_WhereTokens(change.edit, self.conditions))

    @property
    def first_block(self) -> int:
        """The first block that it changes."""
        return first_block(self.intervention)

    @property
    def per_row(self) -> bool:
        """Whether it takes one multiplier per row of a batch."""
        return takes_rows(self.intervention)

    def require_fits(self, model: Model) -> None:
        """Raises ValueError if the conditions or the intervention do not fit the model."""
        require_fit(model, self.intervention)
        for condition in self.conditions:
            model.require(condition.direction)
        self.changes(model)

    def attach(self, model: Hookable, multiplier: Strength) -> AbstractContextManager[None]:
        """Steers where the condition holds, until the `with` ends."""
        if isinstance(model, Model):
            self.require_fits(model)
            return attached(model, self.changes(model), multiplier, repr(self))
        return attached(model, (), multiplier, repr(self))  # refuses it

    def __repr__(self) -> str:
        by = ", each_token" if self.each_token else ""
        return f"When({self.condition!r}, {self.intervention!r}{by})"
