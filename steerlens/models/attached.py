"""Edits that are attached to a model, and which columns of which batch it computes now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.models.wrapped_state import evaluating
from steerlens.protocols import Edit, Strength
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
    edited: int = 0
    ever_ran: bool = False
    """Whether the model was run while it was attached, be it only up to a lower block."""
    handle: Any = None
    """TransformerLens's handle of the hook that applies it."""

    def apply(
        self, resid: Float[Tensor, "batch pos d_model"], chosen: Tensor
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream after the edit, at the chosen tokens; the very same tensor at strength 0."""
        self.ever_ran = True
        self.edited += int(chosen.sum())
        if not isinstance(self.multiplier, Tensor) and self.multiplier == 0:
            return resid
        if isinstance(self.multiplier, Tensor) and len(self.multiplier) != resid.shape[0]:
            raise SteeringError(
                f"{len(self.multiplier)} multipliers for a batch of {resid.shape[0]} rows. "
                "Give one number, or one per row."
            )
        edited = self.edit(resid, self.multiplier)
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
    start: int

    def chosen(self, positions: Positions, width: int) -> Tensor:
        return positions.mask(self.batch)[:, self.start : self.start + width]


class AttachedEdits:
    """The edits attached to one wrapped model, in order; a sequence of `Attached`."""

    def __init__(self, wrapped: Any, name: str) -> None:
        self._wrapped, self._name = wrapped, name
        self._edits: list[Attached] = []
        self._window: _Window | None = None

    def __iter__(self) -> Iterator[Attached]:
        return iter(tuple(self._edits))

    def __len__(self) -> int:
        return len(self._edits)

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
        _require_strength(multiplier)
        attached = Attached(site, edit, positions, multiplier)

        def fire(resid: Tensor, hook: Any) -> Tensor:
            if self._window is None:
                raise SteeringError(
                    "The wrapped model was run directly while steering is attached, so it is not "
                    "known where its prompts end and which tokens are padding. Run it through the "
                    "Model: model.logits(…), model.cache(…), model.generate(…)."
                )
            return attached.apply(resid, self._window.chosen(positions, resid.shape[1]))

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
            elif attached.edited == 0:
                raise SteeringError(
                    f"{attached.positions} chose no token of these texts, so steering at "
                    f"{attached.site} did nothing. Positions.generated() needs tokens after the "
                    "prompt."
                )

    def _handles(self, attached: Attached) -> list[Any]:
        return self._wrapped.hook_dict[attached.site.hook].fwd_hooks

    def computing(self, batch: TokenBatch, start: int = 0) -> None:
        """States which columns of the batch come next: those from `start` on."""
        self._window = _Window(batch, start)


def _require_strength(multiplier: Strength) -> None:
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
