"""What a table over many runs says of a map, as numbers."""

from __future__ import annotations

import torch

from steerlens import stats
from steerlens.analyses.steerability.map_numbers import MapNumbers
from steerlens.analyses.steerability.recommendation import Recommendation
from steerlens.analyses.steerability.runners_up import strongest
from steerlens.results import Cell
from steerlens.stats import Interval


def headline_numbers(numbers: MapNumbers, found: Recommendation) -> dict[str, float]:
    """Gain in nats and cost in nats of KL per token at the chosen cell, and where that is.

    Held out where they were measured so (`held_out` is then 1). Where no cell was chosen, they are
    of the cell within the budget that gains most, on the choosing examples, and `above_null` is 0;
    its interval accounts for the search over all cells.
    """
    held = numbers.confirmation
    if found.cell is None:
        cell = strongest(numbers)
        gain, cost = _searched(numbers, cell), float(numbers.cost[numbers.index(cell)])
        held = None
    elif held is not None:
        cell, gain, cost = found.cell, held.gain, held.cost.value
    else:
        assert found.gain is not None and found.cost is not None
        cell, gain, cost = found.cell, found.gain, found.cost
    out = {
        "gain": gain.value,
        "gain_low": gain.low,
        "gain_high": gain.high,
        "cost": cost,
        "above_null": float(found.cell is not None),
        "held_out": float(held is not None),
        "layer": float("nan") if cell.site is None else float(cell.site.layer),
        "multiplier": cell.multiplier,
        "p": numbers.p_value,
    }
    if found.written is not None:
        share = found.written.share
        out |= {"written": share.value, "written_low": share.low, "written_high": share.high}
    return out


def _searched(numbers: MapNumbers, cell: Cell) -> Interval:
    """The gain at a cell that was found by searching all with a multiplier above 0."""
    i, j = numbers.index(cell)
    asked = numbers.multipliers > 0
    searched = stats.simultaneous_interval(numbers.oriented[:, asked].nan_to_num(), numbers.groups)
    k = int(torch.count_nonzero(asked[:j]))
    return Interval(*(float(part[i, k]) for part in searched))
