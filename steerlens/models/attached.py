"""Edits that are attached to a model, and which columns of which batch it computes now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.models.prompts import AttachedPrompt, Inserted, Run, mixed
from steerlens.models.wrapped_state import evaluating
from steerlens.protocols import Edit, Strength, TextEdit
from steerlens.sites import Positions, Site, TokenBatch


class SteeringError(ValueError):
    """Steering that did nothing, or could not be applied to what was run."""


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

    def apply(
        self, resid: Float[Tensor, "batch pos d_model"], chosen: Tensor
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream after the edit, at the chosen tokens; the very same tensor at strength 0."""
        self.ever_ran = True
        self.edited = self.edited + chosen.sum()  # read at the end: a GPU need not wait here
        if not isinstance(self.multiplier, Tensor) and self.multiplier == 0:
            return resid
        if isinstance(self.multiplier, Tensor) and len(self.multiplier) != resid.shape[0]:
            raise SteeringError(
                f"{len(self.multiplier)} multipliers for a batch of {resid.shape[0]} rows. "
                "Give one number, or one per row."
            )
        edited = edited_stream(self.edit, resid, self.multiplier, chosen)
        if edited.shape != resid.shape:
            raise SteeringError(
                f"{self.edit!r} turned a stream of shape {tuple(resid.shape)} into "
                f"{tuple(edited.shape)}. An edit must keep the shape."
            )
        return torch.where(chosen[..., None], edited, resid)


@dataclass(frozen=True)
class _Window:
    """The columns that the wrapped model is computing right now."""

    batch: TokenBatch
    """The texts themselves, by which the rules of positions count."""
    start: int
    """The first column, counted with the prompts that stand in the texts."""
    inserted: tuple[Inserted, ...] = ()
    """Prompts that stand in the texts, which are never edited."""

    def chosen(self, positions: Positions, width: int) -> Tensor:
        chosen = positions.mask(self.batch)
        for prompt in self.inserted:
            chosen = prompt.spread(chosen, False)
        return chosen[:, self.start : self.start + width]


class AttachedEdits:
    """The edits attached to one wrapped model, in order; a sequence of `Attached`.

    Prompts are attached too. The length counts both.
    """

    def __init__(self, wrapped: Any, name: str) -> None:
        self._wrapped, self._name = wrapped, name
        self._edits: list[Attached] = []
        self.prompts: list[AttachedPrompt] = []
        """Prompts in front of all texts, in the order in which they were attached."""
        self._window: _Window | None = None

    def __iter__(self) -> Iterator[Attached]:
        return iter(tuple(self._edits))

    def __len__(self) -> int:
        return len(self._edits) + len(self.prompts)

    @property
    def hooks(self) -> Counter[str]:
        """How many hooks the attached edits have at each hook point."""
        return Counter(attached.site.hook for attached in self._edits)

    @property
    def foreign_hooks(self) -> list[str]:
        """Hook points that carry forward hooks besides those of the attached edits."""
        known, points = self.hooks, self._wrapped.hook_dict.items()
        return [name for name, point in points if len(point.fwd_hooks) > known[name]]

    @contextmanager
    def attach(
        self, site: Site, edit: Edit, positions: Positions, multiplier: Strength
    ) -> Iterator[None]:
        """Applies an edit at a site until the `with` ends.

        Raises:
            ValueError: If the multiplier is NaN or infinite.
            SteeringError: At the end of the `with`, if no forward pass ran the edit.
        """
        require_strength(multiplier)
        attached = Attached(site, edit, positions, multiplier)

        def fire(resid: Tensor, hook: Any) -> Tensor:
            if self._window is None:
                raise SteeringError(
                    "The wrapped model was run directly while steering is attached, so it is not "
                    "known where its prompts end and which tokens are padding. Run it through the "
                    "Model: model.logits(…), model.cache(…), model.generate(…)."
                )
            chosen = self._window.chosen(positions, resid.shape[1])
            # All heads of a token are one vector, [batch, pos, head * d_head].
            return attached.apply(resid.flatten(2), chosen).view_as(resid)

        self._edits.append(attached)
        try:
            with self._wrapped.hooks(fwd_hooks=[(site.hook, fire)]):
                attached.handle = next(reversed(self._handles(attached)), None)
                yield
        finally:
            self._edits.remove(attached)
        if not attached.ever_ran:
            raise SteeringError(
                f"Steering at {site} never fired: no forward pass of {self._name!r} reached that "
                "layer inside the `with`. Run the model inside it."
            )

    @contextmanager
    def prompted(self, prompt: AttachedPrompt) -> Iterator[None]:
        """Puts a prompt in front of all texts until the `with` ends.

        Raises:
            SteeringError: At the end of the `with`, if no forward pass ran.
        """
        self.prompts.append(prompt)
        try:
            yield
        finally:
            self.prompts.remove(prompt)
        if not prompt.ever_ran:
            raise SteeringError(
                f"A prompt was attached to {self._name!r} and no text was run inside the `with`. "
                "Run the model inside it, through the Model."
            )

    @contextmanager
    def running(self, batch: TokenBatch, stop_at: int | None = None) -> Iterator[None]:
        """One run over a batch, after which every edit must have edited some token.

        The wrapped model is in evaluation mode for as long.

        Args:
            stop_at: The run ends before this block; edits above it need not have run.

        Raises:
            SteeringError: If an edit that the run reached has edited no token, or its hook was
                removed.
        """
        for attached in self._edits:
            attached.edited = 0
            hooks = self._handles(attached)
            if attached.handle and not any(handle is attached.handle for handle in hooks):
                raise SteeringError(
                    f"The hook that steers {self._name!r} at {attached.site} was removed inside "
                    "the `with` (reset_hooks, perhaps), so the model would run without it. Leave "
                    "the `with` to end steering, and do not reset hooks inside it."
                )
        try:
            with evaluating(self._wrapped):
                yield
        finally:
            self._window = None
        for attached in self._edits:
            if stop_at is not None and attached.site.layer >= stop_at:
                attached.ever_ran = True
            elif int(attached.edited) == 0:
                raise SteeringError(
                    f"{attached.positions} chose no token of these texts, so steering at "
                    f"{attached.site} did nothing. Positions.generated() needs tokens after the "
                    "prompt."
                )

    def _handles(self, attached: Attached) -> list[Any]:
        return self._wrapped.hook_dict[attached.site.hook].fwd_hooks

    def computing(
        self, batch: TokenBatch, start: int = 0, inserted: tuple[Inserted, ...] = ()
    ) -> None:
        """States which columns of the batch come next: those from `start` on.

        Args:
            inserted: Prompts that stand in the texts, in the order in which they were put there.
        """
        self._window = _Window(batch, start, inserted)

    def chosen(self, positions: Positions, width: int) -> Tensor:
        """Which tokens a rule chooses among the `width` columns that come next."""
        assert self._window is not None
        return self._window.chosen(positions, width)

    def mixed(self, batch: TokenBatch, run: Run, start: int = 0) -> list[Tensor]:
        """What a run gives for a batch, mixed over the attached prompts by their dials.

        Args:
            run: Computes streams [batch, pos, d_model] of all columns from its second argument on
                of the texts in its first, in which the prompts of its third stand.
            start: The first column that is computed; those before it were computed before.
        """
        if not self.prompts:
            return run(batch, start, ())
        found = mixed(batch, tuple(self.prompts), self._counted(batch, run), start)
        self.computing(batch, start)
        return found

    def _counted(self, batch: TokenBatch, run: Run) -> Run:
        """The same run, with the rules of positions counted in the texts without the prompts."""

        def counted(texts: TokenBatch, start: int, inserted: tuple[Inserted, ...]) -> list[Tensor]:
            self.computing(batch, start, inserted)
            return run(texts, start, inserted)

        return counted


def edited_stream(
    edit: Edit,
    resid: Float[Tensor, "batch pos d_model"],
    multiplier: Strength,
    chosen: Bool[Tensor, "batch pos"],
) -> Float[Tensor, "batch pos d_model"]:
    """What an edit makes of a stream; it counts at the chosen tokens alone."""
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


def require_strength(multiplier: Strength) -> None:
    """Raises TypeError or ValueError unless it is one finite number, or one per row of a batch."""
    per_row = isinstance(multiplier, Tensor)
    if not (multiplier.ndim == 1 if per_row else isinstance(multiplier, Real)):
        raise TypeError(
            f"multiplier={multiplier!r} is not a strength. Give one number, or a tensor with one "
            "number per row of the batch."
        )
    if not bool(torch.as_tensor(multiplier).isfinite().all()):
        raise ValueError(
            f"multiplier={multiplier} would fill the stream with NaN. Give finite strengths."
        )
