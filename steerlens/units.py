"""What multiplier 1 means, and which multipliers can be swept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, SupportsFloat, get_args

from steerlens.arguments import ArgumentError, as_floats

StrengthUnit = Literal["resid_norm", "direction", "projection_std"]
"""A length that `Add` knows by name."""
MapUnit = Literal["resid_norm", "direction", "projection_std", "equal_kl"]
"""A unit of a map: a length that `Add` knows, or as long as costs the budget."""

MEANING: dict[str, str] = {
    "resid_norm": "the median norm of the residual stream at that layer",
    "direction": "the length of the direction as it was fitted",
    "projection_std": "one standard deviation of the fitted activations along the direction",
    "equal_kl": "the longest one that is sure to be within the cost budget at that layer",
}
"""The length of the vector that multiplier 1 adds, for each unit."""

MULTIPLIERS = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)
"""The strengths of a map, where none are given."""
BUDGET = 0.1
"""Nats of KL per token that steering may cost: the limit with which arXiv:2406.11717 selects
directions."""


def require_unit(unit: object, allowed: object = StrengthUnit) -> None:
    """Raises ArgumentError if a unit is not one of a `Literal` of units."""
    known = get_args(allowed)
    if unit not in known:
        raise ArgumentError(
            f"unit={unit!r:.80} is not a unit of strength. Use one of {', '.join(known)}."
        )


def require_multipliers(
    multipliers: Iterable[SupportsFloat], *, positive: bool = True
) -> tuple[float, ...]:
    """The strengths as Python's floats, if they can be compared with the unsteered model.

    Args:
        multipliers: A sequence, NumPy array or torch tensor of numbers.
        positive: Whether one strength must be above 0.

    Raises:
        ArgumentError: If one is not a finite number, 0 is missing, or one is given twice.
    """
    values = as_floats("multipliers", multipliers)
    if 0.0 not in values:
        raise ArgumentError(
            f"multipliers={values} has no 0.0, which is the unsteered model that all others are "
            "compared with. Add 0.0."
        )
    if len(set(values)) != len(values):
        raise ArgumentError(f"multipliers={values} holds a strength twice. Give each once.")
    if len(values) < 2 or (positive and max(values) <= 0):
        raise ArgumentError(
            f"multipliers={values} has no strength {'above' if positive else 'other than'} 0.0, so "
            "nothing is steered. Add one."
        )
    return values
