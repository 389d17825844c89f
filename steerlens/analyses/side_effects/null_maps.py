"""Null maps: the interventions with which a map is compared to see what chance gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from steerlens.directions import Direction
from steerlens.directions.methods import Random
from steerlens.interventions.arms import Arms
from steerlens.interventions.residual import Add
from steerlens.protocols import Directed, Intervention

DEFAULT = 20
"""Null maps where no number is asked for."""
FEWEST = 19
"""Null maps that a threshold at level 0.95 needs."""
RANDOM = "random directions"


class NullMaps(NamedTuple):
    """Interventions of each null map, one for each row of the map."""

    maps: list[list[Intervention]]
    what: str
    """What they are; or, if there are none, why: "because …"."""

    @property
    def interventions(self) -> list[Intervention]:
        """Those of all maps, map after map."""
        return [edit for one in self.maps for edit in one]


def null_maps(
    nulls: int | Sequence[Arms] | None, arms: Mapping[str, Intervention], seed: int
) -> NullMaps:
    """The null maps that were asked for.

    Args:
        nulls: How many maps of random directions; or null maps; or None for 20 maps of random
            directions where every intervention is along a direction, and else for none.

    Raises:
        ValueError: If a random direction cannot take the place of an intervention, a given map does
            not have an intervention for each row, or there are too few maps for a threshold.
    """
    other = next((row for row, edit in arms.items() if not isinstance(edit, Directed)), None)
    if nulls is None and other is not None:
        return NullMaps([], f"because {other!r} is not along one direction")
    if nulls is not None and not isinstance(nulls, int):
        maps, what = [_one_map(one, tuple(arms)) for one in nulls], "given null maps"
    else:
        count = DEFAULT if nulls is None else nulls
        if count > 0 and other is not None:
            raise ValueError(
                f"{other!r} ({type(arms[other]).__name__}) is not an edit along one direction, so a "
                "random direction cannot take its place. Give null maps of your own (nulls=[[…], …], "
                "each with one intervention per row), or nulls=0 for a map without p-values."
            )
        maps = [_random_map(arms, seed + 1 + k * len(arms)) for k in range(max(count, 0))]
        what = RANDOM
        if count < 0:
            raise ValueError(f"nulls={count} is negative. Use 0 for a map without p-values.")
    if 0 < len(maps) < FEWEST:
        raise ValueError(
            f"{len(maps)} null maps cannot give a threshold at level 0.95. Use at least {FEWEST}, or "
            "0 for a map without p-values."
        )
    return NullMaps(maps, what if maps else "because none were asked for")


def _one_map(given: Arms, rows: tuple[str, ...]) -> list[Intervention]:
    """A null map of the caller's own."""
    names = tuple(given) if isinstance(given, Mapping) else rows
    edits = [given[row] for row in rows if row in given] if isinstance(given, Mapping) else given
    if len(edits) != len(rows) or set(names) != set(rows):
        raise ValueError(
            f"A null map has {len(edits)} interventions for the {len(rows)} rows "
            f"({', '.join(rows)}). Give each null map one intervention per row."
        )
    return [Add(edit) if isinstance(edit, Direction) else edit for edit in edits]


def _random_map(arms: Mapping[str, Intervention], seed: int) -> list[Intervention]:
    """The same interventions along random directions of the same lengths."""
    return [
        random_like(edit, seed + i)
        for i, edit in enumerate(arms.values())
        if isinstance(edit, Directed)
    ]


def random_like(edit: Directed, seed: int) -> Directed:
    """The same edit along a random direction of the same length."""
    direction = edit.direction
    vector = Random(seed)(direction.vector[None], torch.zeros_like(direction.vector)[None])
    return edit.along(replace(direction, vector=vector, method=repr(Random(seed))))
