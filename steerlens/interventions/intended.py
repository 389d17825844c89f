"""The intervention that a direction's maker meant."""

from __future__ import annotations

from typing import Any

from steerlens.directions import Direction
from steerlens.interventions import Ablate, Add, Clamp


def intended(direction: Direction) -> Add | Ablate | Clamp:
    """The operation, positions and strength unit that a direction states, as an intervention.

    What is not stated is as in the intervention's own defaults.

    >>> import torch
    >>> from steerlens.sites import Positions, Site
    >>> direction = Direction(
    ...     torch.ones(4), Site(2), strength_unit="direction", apply_at=Positions.all()
    ... )
    >>> intended(direction).unit, intended(direction).positions
    ('direction', Positions.all())
    """
    where: dict[str, Any] = {}
    if direction.apply_at is not None:
        where["positions"] = direction.apply_at
    if direction.operation == "ablate":
        return Ablate(direction, **where)
    if direction.operation == "clamp":
        assert direction.value is not None  # a Direction that clamps has one
        return Clamp(direction, direction.value, **where)
    if direction.strength_unit is not None:
        where["unit"] = direction.strength_unit
    return Add(direction, **where)
