"""Null maps: what the best of all cells reaches where there is nothing to find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analyses.steerability.fitted_family import FittedFamily
from steerlens.data import ContrastSet
from steerlens.directions.methods import Random
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.protocols import Directed, Intervention
from steerlens.store.cells import Cells

DEFAULT, FEWEST = 20, 19
"""Null maps where no number is asked for, and the fewest that give a threshold at level 0.95."""


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
    other = next((row for row, edit in arms.items() if not isinstance(edit, Directed)), None)
    possible = fitted or other is None
    if nulls is None:
        return DEFAULT if possible else 0
    if nulls < 0 or 0 < nulls < FEWEST:
        raise ValueError(
            f"{nulls} null maps cannot give a threshold at level 0.95. Use at least {FEWEST}, or 0 "
            "for a map without p-values."
        )
    if nulls and other is not None and not possible:
        raise ValueError(
            f"nulls={nulls}, but {other!r} ({type(arms[other]).__name__}) is not an edit along one "
            "direction, so a random direction cannot take its place. Use nulls=0 for a map without "
            "p-values."
        )
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
    edits = list(source.values())
    return NullMaps(
        None,
        [
            [along_random(edit, seed + 1 + k * len(edits) + i) for i, edit in enumerate(edits)]
            for k in range(count)
        ],
    )


def along_random(edit: Intervention, seed: int) -> Directed:
    """The same edit along a random direction of the same length."""
    assert isinstance(edit, Directed)
    direction = edit.direction
    vector = Random(seed)(direction.vector[None], torch.zeros_like(direction.vector)[None])
    return edit.along(replace(direction, vector=vector, method=repr(Random(seed))))


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
