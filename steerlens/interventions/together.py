"""Several interventions as one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

from steerlens.interventions.arms import require_fit
from steerlens.interventions.changes import Change, Composed, StreamEdit
from steerlens.models.attached import strength_of
from steerlens.models.model import Model
from steerlens.protocols import (
    Hookable,
    Intervention,
    ResidualEdit,
    Strength,
    first_block,
    takes_rows,
)


@dataclass(frozen=True)
class Together:
    """Applies several interventions at once, in the given order, under one multiplier.

    `weights` scales the multiplier for each, e.g. ``Together((add, ablate), (1.0, 0.5))``.
    """

    interventions: tuple[Intervention, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.interventions:
            raise ValueError("Together(()) holds no intervention. Pass at least one.")
        if self.weights is not None and len(self.weights) != len(self.interventions):
            raise ValueError(
                f"{len(self.weights)} weights for {len(self.interventions)} interventions. "
                "Give one per intervention, or none."
            )

    @property
    def first_block(self) -> int:
        """The first block that any of them changes."""
        return min(map(first_block, self.interventions))

    @property
    def per_row(self) -> bool:
        """Whether all of them take one multiplier per row of a batch."""
        return all(map(takes_rows, self.interventions))

    def require_fits(self, model: Model) -> None:
        """Raises ValueError if one of them does not fit the model."""
        for intervention in self.interventions:
            require_fit(model, intervention)

    def attach(self, model: Hookable, multiplier: Strength) -> AbstractContextManager[None]:
        return self._attached(model, multiplier)

    @contextmanager
    def _attached(self, model: Hookable, multiplier: Strength) -> Iterator[None]:
        weights = self.weights or (1.0,) * len(self.interventions)
        multiplier = strength_of(multiplier)
        with ExitStack() as stack:
            for intervention, weight in zip(self.interventions, weights, strict=True):
                stack.enter_context(intervention.attach(model, multiplier * weight))
            yield


def changes_of(intervention: Intervention, model: Model) -> tuple[Change, ...] | None:
    """All that an intervention changes in a model; None where it does not say.

    A residual edit is one change, and `Together` makes the changes of its parts, in their order.
    """
    if isinstance(intervention, ResidualEdit):
        return (StreamEdit(intervention.site, intervention, intervention.positions),)
    if isinstance(intervention, Composed):
        return intervention.changes(model)
    if not isinstance(intervention, Together):
        return None
    found: list[Change] = []
    weights = intervention.weights or (1.0,) * len(intervention.interventions)
    for part, weight in zip(intervention.interventions, weights, strict=True):
        inner = changes_of(part, model)
        if inner is None:
            return None
        found += inner if weight == 1.0 else [change.scaled(weight) for change in inner]
    return tuple(found)
