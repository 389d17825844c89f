"""Which cells of a map deserve a look at what is written there."""

from __future__ import annotations

import torch

from steerlens.analyses.steerability.map_numbers import MapNumbers
from steerlens.analyses.steerability.recommendation import recommend
from steerlens.results import Cell

COUNT = 2
"""Runners-up beside the recommended cell."""


def strongest(numbers: MapNumbers) -> Cell:
    """The cell that gains most within the budget, whether or not that is more than chance.

    Of cells with a multiplier above 0; the cheapest of them where none is within the budget.
    """
    asked = (numbers.multipliers > 0).expand_as(numbers.cost)
    allowed = numbers.within_budget & asked
    value = numbers.oriented.mean(-1) if bool(allowed.any()) else -numbers.cost
    kept = allowed if bool(allowed.any()) else asked
    i, j = divmod(int(value.masked_fill(~kept, -torch.inf).argmax()), value.shape[1])
    return numbers.cell(i, j)


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
