"""Null maps: what the best of all cells reaches where there is nothing to find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analyses.direction_nulls import (
    DEFAULT,
    random_maps,
    refusal,
    require_enough_nulls,
    without_direction,
)
from steerlens.analyses.steerability.fitted_family import FittedFamily
from steerlens.data import ContrastSet
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.protocols import Intervention
from steerlens.store.cells import Cells


class NullMaps(NamedTuple):
    """The interventions of every null map, one for each row; None for a null that is not made."""

    shuffled: list[list[Intervention]] | None
    """Directions fitted to shuffled labels."""
    random: list[list[Intervention]] | None
    """Random directions."""


def require_nulls(nulls: int | None, arms: Mapping[str, Intervention], fitted: bool) -> int:
    """How many null maps of each kind there will be.

    Args:
        nulls: What was asked for; None for 20 where they cost no training, and else for none.
        fitted: Whether the arms are a fitted family.

    Raises:
        ValueError: If these are too few for a threshold, or a random direction cannot take the
            place of some intervention.
    """
    other = without_direction(arms)
    possible = fitted or other is None
    if nulls is None:
        return DEFAULT if possible else 0
    require_enough_nulls(nulls)
    if nulls and other is not None and not possible:
        raise refusal(arms, other, "Use nulls=0 for a map without p-values.")
    return nulls


def null_maps(source: FittedFamily | Mapping[str, Intervention], count: int, seed: int) -> NullMaps:
    """The interventions of the null maps.

    A fitted family has both nulls. Of other interventions only the direction can be replaced, so
    they have the direction null alone.

    Args:
        source: The fitted family, or interventions that are all `Directed`.
        count: How many maps of each kind.
    """
    if not count:
        return NullMaps(None, None)
    if isinstance(source, FittedFamily):
        rows = len(source.directions)
        return NullMaps(
            [list(source.shuffled(seed + 1 + k)) for k in range(count)],
            [list(source.random(seed + 1 + k * rows)) for k in range(count)],
        )
    return NullMaps(None, random_maps(source, count, seed))


def null_gains(
    model: Model,
    choose: ContrastSet,
    maps: Sequence[Sequence[Intervention]] | None,
    multipliers: Sequence[float],
    cells: Cells,
) -> Float[Tensor, "null row multiplier"] | None:
    """Mean oriented gain of every cell of every null map; None if there are none."""
    if maps is None:
        return None
    edits = [edit for one in maps for edit in one]
    swept = sweep(model, choose, edits, multipliers, log_odds_only=True, cells=cells)
    odds = swept.log_odds.unflatten(0, (len(maps), -1))
    zero = list(multipliers).index(0.0)
    sign = torch.tensor(multipliers, dtype=torch.float32).sign()
    return (odds - odds[:, :, zero, None]).mean(-1) * sign
