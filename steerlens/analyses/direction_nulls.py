"""Null maps of random directions: what any direction of the same length does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from steerlens.directions.methods import Random
from steerlens.protocols import Directed, Intervention

DEFAULT = 20
"""Null maps where no number is asked for."""
FEWEST = 19
"""Null maps that a threshold at level 0.95 needs."""


def require_enough_nulls(count: int) -> None:
    """Raises ValueError if so many null maps give neither a threshold nor a map without one."""
    if count < 0 or 0 < count < FEWEST:
        raise ValueError(
            f"{count} null maps cannot give a threshold at level 0.95. Use at least {FEWEST}, or 0 "
            "for a map without p-values."
        )


def without_direction(arms: Mapping[str, Intervention]) -> str | None:
    """The first intervention that is not an edit along one direction; None if all are."""
    return next((row for row, edit in arms.items() if not isinstance(edit, Directed)), None)


def refusal(arms: Mapping[str, Intervention], row: str, advice: str) -> ValueError:
    """The error for null maps of an intervention that is not along one direction."""
    return ValueError(
        f"{row!r} ({type(arms[row]).__name__}) is not an edit along one direction, so a random "
        f"direction cannot take its place. {advice}"
    )


def random_maps(
    arms: Mapping[str, Intervention], count: int, seed: int
) -> list[list[Intervention]]:
    """The same interventions along random directions: for each map one for each row.

    Args:
        arms: Interventions that are all `Directed`.
    """
    edits = list(arms.values())
    return [
        [along_random(edit, seed + 1 + k * len(edits) + i) for i, edit in enumerate(edits)]
        for k in range(count)
    ]


def along_random(edit: Intervention, seed: int) -> Directed:
    """The same edit along a random direction of the same length.

    Raises:
        TypeError: If the intervention is not an edit along one direction.
    """
    if not isinstance(edit, Directed):
        raise TypeError(f"{edit!r:.80} is not an edit along one direction.")
    direction = edit.direction
    vector = Random(seed)(direction.vector[None], torch.zeros_like(direction.vector)[None])
    return edit.along(replace(direction, vector=vector, method=repr(Random(seed))))
