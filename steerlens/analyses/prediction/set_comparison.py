"""Does steering several layers at once gain more than the best single layer, at the same budget?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from steerlens import stats
from steerlens.analyses.steerability.confirmation import Confirmation
from steerlens.analyses.steerability.held_out import confirm
from steerlens.analyses.steerability.steerability_map import SteerabilityMap
from steerlens.data import ContrastSet
from steerlens.interventions.arms import Arms, named_arms
from steerlens.models.model import Model
from steerlens.results import Cell
from steerlens.stats import Interval
from steerlens.store.cells import Cells


@dataclass(frozen=True, eq=False)
class SetComparison:
    """The best set of layers and the best single layer on the same held-out questions.

    Each has the largest gain within the budget among its like, on the choosing questions.
    """

    single: Confirmation
    together: Confirmation

    @cached_property
    def difference(self) -> Interval:
        """Mean over questions of the gain of the set less that of the single layer, in nats."""
        return stats.interval_of_mean(self.together.gains - self.single.gains, self.single.groups)

    def __str__(self) -> str:
        return (
            f"{self.together.cell} gains {self.together.gain} nats, {self.single.cell} "
            f"{self.single.gain}; difference {self.difference}"
        )


def compare_sets(
    model: Model,
    found: SteerabilityMap,
    arms: Arms,
    report: ContrastSet,
    texts: Sequence[str],
    *,
    cells: Cells,
) -> SetComparison | None:
    """Measures both on held-out questions; None where one of them has no cell to use.

    Args:
        found: A map whose rows are single sites, and sets, whose site is None.
        arms: Its interventions.
        texts: Ordinary texts that chose nothing.
    """
    edits, held = named_arms(arms), []
    for name, single in (("single", True), ("together", False)):
        cell = _best(found, [i for i, s in enumerate(found.sites) if (s is not None) == single])
        if cell is None:
            return None
        kept = found.confirmation
        if kept is None or kept.cell != cell:
            kept = confirm(model, cell, edits[cell.row], report, texts, cells=cells.part(name))
        held.append(kept)
    return SetComparison(*held)


def _best(found: SteerabilityMap, rows: list[int]) -> Cell | None:
    """The cell of some rows with the largest gain within the budget; chance is not looked at."""
    if not rows:
        return None
    part = replace(
        found,
        rows=tuple(found.rows[i] for i in rows),
        sites=tuple(found.sites[i] for i in rows),
        propensities=found.propensities[rows],
        utilities=found.utilities[rows],
        kl=found.kl[rows],
        shuffled=None,
        random=None,
        planned=None,
        direct=None if found.direct is None else found.direct[rows],
        confirmation=None,
        written=(),
    )
    return part.recommend().cell
