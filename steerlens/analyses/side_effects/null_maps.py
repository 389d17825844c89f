"""Null maps: the interventions with which gains on other concepts are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, SupportsIndex

from steerlens.analyses.direction_nulls import (
    DEFAULT,
    random_maps,
    refusal,
    require_enough_nulls,
    without_direction,
)
from steerlens.arguments import as_int
from steerlens.directions import Direction
from steerlens.interventions.arms import Arms
from steerlens.interventions.residual import Add
from steerlens.protocols import Intervention


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
    nulls: SupportsIndex | Sequence[Arms] | None, arms: Mapping[str, Intervention], seed: int
) -> NullMaps:
    """The null maps that were asked for.

    Args:
        nulls: How many maps of random directions; or null maps; or None for 20 maps of random
            directions where every intervention is along a direction, and else for none.

    Raises:
        ValueError: If a random direction cannot take the place of an intervention, a given map does
            not have an intervention for each row, or there are too few maps for a threshold.
    """
    if isinstance(nulls, Sequence):
        require_enough_nulls(len(nulls))
        return _named([_one_map(one, tuple(arms)) for one in nulls], "given null maps")
    other = without_direction(arms)
    if nulls is None and other is not None:
        return NullMaps([], f"because {other!r} is not along one direction")
    count = DEFAULT if nulls is None else as_int("nulls", nulls)
    require_enough_nulls(count)
    if count and other is not None:
        raise refusal(
            arms, other,
            "Give null maps of your own (nulls=[[…], …], each with one intervention per row), or "
            "nulls=0 for a map without p-values.",
        )  # fmt: skip
    return _named(random_maps(arms, count, seed), "random directions")


def _named(maps: list[list[Intervention]], what: str) -> NullMaps:
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
