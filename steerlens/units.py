"""What multiplier 1 means, and which multipliers can be swept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

StrengthUnit = Literal["resid_norm", "direction", "projection_std"]
"""A length that `Add` knows by name."""
MapUnit = Literal["resid_norm", "direction", "projection_std", "equal_kl"]
"""A unit of a map: a length that `Add` knows, or as long as costs the budget."""

MEANING: dict[str, str] = {
    "resid_norm": "the median norm of the residual stream at that layer",
    "direction": "the direction as it was fitted",
    "projection_std": "one standard deviation of the fitted activations along the direction",
    "equal_kl": "as much as costs the budget at that layer",
}
"""What multiplier 1 adds, for each unit."""

MULTIPLIERS = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)
"""The strengths of a map, where none are given."""
BUDGET = 0.1
"""Nats of KL per token that steering may cost: the limit with which arXiv:2406.11717 selects
directions."""


def require_unit(unit: object, allowed: object = StrengthUnit) -> None:
    """Raises ValueError if a unit is not one of a `Literal` of units."""
    known = get_args(allowed)
    if unit not in known:
        raise ValueError(f"unit={unit!r} is not a unit of strength. Use one of {', '.join(known)}.")


def require_multipliers(multipliers: Sequence[float], *, positive: bool = True) -> None:
    """Raises ValueError unless the strengths can be compared with the unsteered model.

    Args:
        positive: Whether one strength must be above 0.
    """
    values = tuple(float(m) for m in multipliers)
    if not all(math.isfinite(m) for m in values):
        raise ValueError(f"multipliers={values} are not all finite numbers.")
    if 0.0 not in values:
        raise ValueError(
            f"multipliers={values} has no 0.0, which is the unsteered model that all others are "
            "compared with. Add 0.0."
        )
    if len(set(values)) != len(values):
        raise ValueError(f"multipliers={values} holds a strength twice. Give each once.")
    if len(values) < 2 or (positive and max(values) <= 0):
        raise ValueError(
            f"multipliers={values} has no strength {'above' if positive else 'other than'} 0.0, so "
            "nothing is steered. Add one."
        )
