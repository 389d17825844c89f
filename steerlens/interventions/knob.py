"""A multiplier that changes between the tokens of one text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import as_float, as_floats
from steerlens.interventions.arms import require_fit
from steerlens.interventions.changes import (
    Change,
    NudgeChange,
    PromptChange,
    StreamEdit,
    bare,
    varied,
)  # fmt: skip
from steerlens.interventions.composition import attached
from steerlens.interventions.together import changes_of
from steerlens.models.model import Model
from steerlens.protocols import Hookable, Intervention, Strength, first_block
from steerlens.sites import TokenBatch

Turn = Callable[[int, list[int]], float]
"""Given the number of the token that is written next, from 0, and the ids of the text so far: the
factor of the multiplier. It must give the same for the same."""


@dataclass(frozen=True, eq=False)
class _ByToken:
    """The factor at each token: of the token that is predicted there."""

    turn: Sequence[float] | Turn

    def of_tokens(self, batch: TokenBatch, start: int) -> Float[Tensor, "batch some"]:
        columns = torch.arange(start, batch.width, device=batch.tokens.device)
        step = (columns - (batch.prompt_end[:, None] - 1)).clamp(min=0)
        if not callable(self.turn):
            values = torch.tensor(self.turn, dtype=torch.float32, device=step.device)
            return values[step.clamp(max=len(self.turn) - 1)]
        found = torch.empty(step.shape)
        for row, (tokens, real) in enumerate(
            zip(batch.tokens.tolist(), batch.mask.tolist(), strict=True)
        ):
            first, steps = int(batch.prompt_end[row]) - 1, step[row].tolist()
            known: dict[int, float] = {}
            for k, number in enumerate(steps):
                end = max(first, start + k) + 1
                if end not in known:
                    so_far = [t for t, own in zip(tokens[:end], real[:end], strict=True) if own]
                    known[end] = as_float("the factor of a knob", self.turn(number, so_far))
                found[row, k] = known[end]
        return found.to(step.device)


@dataclass(frozen=True, eq=False)
class Knob:
    """An intervention whose multiplier is turned while a text is written.

    At each token the multiplier is multiplied by a factor: of the token that is written next there.
    The key-value cache is kept: what was written keeps the strength under which it was read, and a
    full forward pass gives the same numbers. All tokens of the prompt have the first factor.

    It turns edits of streams, prompts with a dial, and nudges. Weights are one for all tokens whose
    keys and values are kept, and a cache is edited once; both are refused.

    >>> import torch
    >>> from steerlens.directions import Direction
    >>> from steerlens.interventions.residual import Add
    >>> from steerlens.sites import Site
    >>> add = Add(Direction(torch.ones(4), Site(2)), unit=3.0)
    >>> Knob(add, (1.0, 0.5, 0.0)).turn  # full, half, and off from the third token on
    (1.0, 0.5, 0.0)
    >>> off_after_a_full_stop = Knob(add, lambda number, ids: float(5 not in ids))
    """

    intervention: Intervention
    turn: Sequence[float] | Turn
    """A factor for each written token, of which the last one holds on; or a function."""

    def __post_init__(self) -> None:
        if not callable(self.turn):
            object.__setattr__(self, "turn", tuple(as_floats("turn", self.turn)))
            if not self.turn:
                raise ValueError("turn=() turns nothing. Give at least one factor.")

    def changes(self, model: Model) -> tuple[Change, ...]:
        """What it changes, with the factor of each token.

        Raises:
            ValueError: If something in it cannot change between tokens, or is not stated.
        """
        inner = changes_of(self.intervention, model)
        if inner is None:
            raise ValueError(
                f"{self.intervention!r:.200} does not say what it changes, so its multiplier "
                "cannot be turned between tokens. Give it `changes(model)` "
                "(steerlens.interventions.changes)."
            )
        for change in map(bare, inner):
            if not isinstance(change, StreamEdit | PromptChange | NudgeChange):
                raise ValueError(
                    f"{self.intervention!r:.200} makes a {type(change).__name__}, which all tokens of "
                    "a text share: it cannot change between tokens while their keys and values are "
                    "kept. Turn an edit of a stream, or a prompt."
                )
        return varied(inner, _ByToken(self.turn))

    @property
    def first_block(self) -> int:
        """The first block that it changes."""
        return first_block(self.intervention)

    @property
    def per_row(self) -> bool:
        """True: a batch may have one multiplier per row."""
        return True

    def require_fits(self, model: Model) -> None:
        """Raises ValueError if the intervention does not fit the model, or cannot be turned."""
        require_fit(model, self.intervention)
        self.changes(model)

    def attach(self, model: Hookable, multiplier: Strength) -> AbstractContextManager[None]:
        """Steers the model until the `with` ends."""
        if isinstance(model, Model):
            self.require_fits(model)
            return attached(model, self.changes(model), multiplier, repr(self))
        return attached(model, (), multiplier, repr(self))  # refuses it

    def __repr__(self) -> str:
        turn = getattr(self.turn, "__name__", "a function") if callable(self.turn) else self.turn
        return f"Knob({self.intervention!r}, {turn})"
