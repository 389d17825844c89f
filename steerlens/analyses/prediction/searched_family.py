"""The rows of a search: single sites and sets of sites, and null maps that are found likewise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from steerlens.analyses.prediction.layer_search import LayerSearch
from steerlens.analyses.prediction.layer_sets import LayerSet, named
from steerlens.analyses.steerability.fitted_family import FittedFamily
from steerlens.directions import Activations
from steerlens.directions.methods.method import Method
from steerlens.interventions.arms import layer_family
from steerlens.interventions.residual import Add
from steerlens.interventions.together import Together
from steerlens.measures.equal_cost import LengthsWithinBudget, strengths_within_budget
from steerlens.models.model import Model
from steerlens.protocols import Intervention
from steerlens.sites import Positions
from steerlens.store.cells import Cells
from steerlens.units import MapUnit


@dataclass(frozen=True, eq=False)
class SearchedFamily(FittedFamily):
    """Directions at all sites, and the rows that a search chose among them.

    The search looks at the choosing questions. So each null map is searched in the same way: with its
    own directions, among all sites.
    """

    found: tuple[LayerSet, ...]
    """The rows of the map."""
    strengths: tuple[float, ...]
    """By which the weights of each row are multiplied, so that multiplier 1 is just within the
    budget; 1 for a single site, whose length is so."""
    search: LayerSearch

    @property
    def arms(self) -> dict[str, Intervention]:  # type: ignore[override]
        """The rows: `Add` for one site, `Together` for several."""
        edits = list(layer_family(self.directions, self.positions, self.lengths).values())
        names = named(self.found, [str(d.site) for d in self.directions])
        return dict(zip(names, self._rows(edits, self.found), strict=True))

    @property
    def facts(self) -> dict[str, Any]:
        """What a result states about them."""
        weights = {
            name: tuple(strength * w for w in one.weights)
            for name, one, strength in zip(self.arms, self.found, self.strengths, strict=True)
            if len(one.index) > 1
        }
        singles = tuple(self.lengths[one.index[0]] for one in self.found)
        own = {"weights": weights} if weights else {"lengths": singles}
        return {**{k: v for k, v in super().facts.items() if k != "lengths"}, **own}

    def rows_of(  # type: ignore[override]
        self, maps: Sequence[Sequence[Add]], name: str
    ) -> list[list[Intervention]]:
        """The rows of null maps, searched as the real one."""
        lengths = torch.tensor(self.lengths).clamp(min=1e-30)
        steps = torch.stack([torch.stack([e.step.float().cpu() for e in edits]) for edits in maps])
        found = self.search.of_maps(steps / lengths[:, None], name)
        return [
            self._rows(edits, self._as_many(own)) for edits, own in zip(maps, found, strict=True)
        ]

    def _as_many(self, own: Sequence[LayerSet]) -> list[LayerSet]:
        """As many rows of each size as the real map has."""
        rows: list[LayerSet] = []
        for size in sorted({len(one.index) for one in self.found}):
            real = [one for one in self.found if len(one.index) == size]
            first = [one for one in own if len(one.index) == size]
            rows += (first + real[len(first) :])[: len(real)]
        return rows

    def _rows(self, edits: Sequence[Add], rows: Sequence[LayerSet]) -> list[Intervention]:
        """The edits of each row; a set that is not among the real rows gets their usual strength."""
        known = {one.index: s for one, s in zip(self.found, self.strengths, strict=True)}
        several = [s for index, s in known.items() if len(index) > 1]
        found: list[Intervention] = []
        for one in rows:
            parts = tuple(edits[i] for i in one.index)
            if len(parts) == 1:
                found.append(parts[0])
                continue
            strength = known.get(one.index) or median(several)
            found.append(Together(parts, tuple(strength * w for w in one.weights)))
        return found


def searched_family(
    model: Model,
    read: Activations,
    method: Method,
    positions: Positions,
    unit: MapUnit,
    within: LengthsWithinBudget,
    texts: Sequence[str],
    search: LayerSearch,
    cells: Cells,
) -> SearchedFamily:
    """The rows that the search proposes for the real directions, at their exact lengths.

    `within` finds the lengths of the search's directions that are within the budget on these texts.
    Sites without a row of their own, which null maps and sets may use, have the length that the
    trial or a quadratic cost gives, changed as that of the rows was.
    """
    directions, found = search.directions, search.found
    near = search.lengths if search.trial is None else search.trial.lengths
    singles = [one.index[0] for one in found if len(one.index) == 1]

    def calibrated() -> dict[str, Tensor]:
        exact = torch.tensor(within(singles, near[singles].tolist()), dtype=torch.float64)
        lengths = near.double() * (exact / near[singles]).median()
        lengths[singles] = exact
        return {"lengths": lengths}

    if unit == "equal_kl":
        lengths = tuple(cells.part("lengths").compute(0, calibrated)["lengths"].tolist())
    else:
        lengths = tuple(float(Add(d, positions, unit).step.norm()) for d in directions)
    several = [one for one in found if len(one.index) > 1]
    edits = [Add(d, positions, n) for d, n in zip(directions, lengths, strict=True)]

    def strengths() -> dict[str, Tensor]:
        arms = [Together(tuple(edits[i] for i in one.index), one.weights) for one in several]
        first = [1.0] * len(arms)
        own = strengths_within_budget(
            model, arms, texts, budget=within.budget, groups=within.groups, first=first,
            progress=cells.progress,
        )  # fmt: skip
        return {"strengths": torch.tensor(own, dtype=torch.float64)}

    each = [1.0] * len(singles)
    if several:
        each += cells.part("strengths").compute(0, strengths)["strengths"].tolist()
    return SearchedFamily(
        read, method, directions, positions, unit, lengths, tuple(found), tuple(each), search
    )
