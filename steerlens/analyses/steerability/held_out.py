"""The chosen cell, measured once more on held-out examples."""

from __future__ import annotations

from collections.abc import Sequence

from steerlens.analyses.steerability.confirmation import Confirmation
from steerlens.data import ContrastSet
from steerlens.data.near_duplicates import text_groups
from steerlens.measures import scores
from steerlens.measures.direct_gain import direct_gain
from steerlens.measures.divergence import divergence
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.protocols import Intervention
from steerlens.results import Cell
from steerlens.stats import group_numbers
from steerlens.store.cells import Cells


def confirm(
    model: Model,
    cell: Cell,
    intervention: Intervention,
    report: ContrastSet,
    texts: Sequence[str],
    *,
    cells: Cells,
) -> Confirmation:
    """Measures one cell on examples that had no part in choosing it.

    Args:
        intervention: The intervention of the cell's row.
        texts: Ordinary texts for the cost, other than those that chose the cell.
        cells: Where finished parts are kept.
    """
    multipliers = (0.0, cell.multiplier)
    gain_cells, cost_cells, direct_cells = (
        cells.part(name, cell=str(cell))
        for name in ("held_out_gain", "held_out_cost", "held_out_direct")
    )
    swept = sweep(model, report, [intervention], multipliers, cells=gain_cells)
    kl = divergence(model, texts, [intervention], multipliers, cells=cost_cells)
    utility = scores.utility(swept).value[0]
    gain = swept.log_odds[0, 1] - swept.log_odds[0, 0]
    sign = 1 if cell.multiplier > 0 else -1
    direct = direct_gain(model, report, [intervention], multipliers, cells=direct_cells)[0, 1]
    known = bool(direct.isfinite().all())
    return Confirmation(
        cell,
        gain * sign,
        utility[1] - utility[0],
        kl[0, 1],
        direct * sign if known else None,
        groups=group_numbers(report.groups),
        text_groups=group_numbers(text_groups(texts)),
    )
