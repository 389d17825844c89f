"""Which cells of a map deserve a look at what is written there."""

from __future__ import annotations

from steerlens.analyses.steerability.map_numbers import MapNumbers
from steerlens.analyses.steerability.recommendation import recommend
from steerlens.results import Cell

COUNT = 2
"""Runners-up beside the recommended cell."""


def worth_reading(numbers: MapNumbers, count: int = COUNT) -> list[Cell]:
    """The recommended cell, its runners-up, and the best cell by the mediated gain.

    A runner-up is the best cell of another row that was allowed too: above the null and within the
    budget. [] where no cell is recommended.

    Args:
        count: How many runners-up.
    """
    found = recommend(numbers)
    if found.cell is None:
        return []
    allowed = numbers.affordable(found.budget) & numbers.exceeds & (numbers.multipliers > 0)
    mean = numbers.oriented.mean(-1)
    others = [cell for cell, _ in found.reasons if bool(allowed[numbers.index(cell)])]
    others.sort(key=lambda cell: -float(mean[numbers.index(cell)]))
    cells = [found.cell, *others[:count]]
    if numbers.parts is not None:
        through = recommend(numbers, by="mediated").cell
        if through is not None and through not in cells:
            cells.append(through)
    return cells
