"""From what is known without steering to the rows of a map, for real and null directions alike."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analyses.prediction.budget_trial import BudgetTrial
from steerlens.analyses.prediction.first_order_look import FirstOrder
from steerlens.analyses.prediction.layer_sets import LayerSet, proposals
from steerlens.directions import Direction
from steerlens.measures.equal_cost import MOST


@dataclass(frozen=True, eq=False)
class LayerSearch:
    """Orders sites and sets of sites by what their vectors do to first order.

    With a trial, the first single sites are put in order again, by the gain that was measured.
    """

    known: FirstOrder
    directions: tuple[Direction, ...]
    """The real directions, one for each site."""
    by: str
    """One of `first_order_look.KINDS`."""
    count: int
    """How many single sites, and how many sets of each size."""
    largest: int
    """Sites of a set at most."""
    trial: BudgetTrial | None = None
    """What measures the gain of the first single sites."""

    @cached_property
    def units(self) -> Float[Tensor, "site d_model"]:
        """The real directions as unit vectors."""
        return torch.stack([d.unit().vector.float().cpu() for d in self.directions])

    @cached_property
    def lengths(self) -> Float[Tensor, " site"]:
        """How long the real vectors are that cost the budget, to second order.

        They are within the lengths that a search for a cost looks at: a vector without a cost would be
        of any length.
        """
        norms = torch.tensor([d.resid_norm or torch.inf for d in self.directions])
        return self.known.lengths(self.units).minimum(MOST * norms)

    @cached_property
    def costs(self) -> Float[Tensor, "site site"]:
        """Of the real vectors at these lengths, in budgets: 1 for each alone."""
        return self.known.costs(self.units * self.lengths[:, None]) / (2 * self.known.budget)

    def scores(self, units: Float[Tensor, "site d_model"]) -> Float[Tensor, " site"]:
        """The predictor of some vectors, where the real ones have length 1."""
        if self.by == "slope":
            norms = torch.tensor([d.resid_norm or torch.nan for d in self.directions])
            return self.known.slopes(units * norms[:, None])
        return self.known.slopes(units * self.lengths[:, None], self.by)

    @cached_property
    def tried(self) -> Float[Tensor, " site"]:
        """The gain of the real vectors that were tried, in nats; NaN at all other sites."""
        if self.trial is None:
            return torch.full((len(self.units),), torch.nan)
        return self.trial.gains(self.units[None], self.scores(self.units)[None], "real")[0]

    @cached_property
    def found(self) -> list[LayerSet]:
        """The rows of the map of the real vectors."""
        order = self.scores(self.units) if self.trial is None else self.tried
        return self._rows(self.units, order)

    def of_maps(
        self, maps: Float[Tensor, "map site d_model"], name: str = ""
    ) -> list[list[LayerSet]]:
        """The rows of maps of other vectors, where the real ones have length 1.

        Args:
            name: Of these maps, by which their trial is kept.
        """
        order = torch.stack([self.scores(units) for units in maps])
        if self.trial is not None:
            order = self.trial.gains(maps, order, name)
        return [self._rows(units, own) for units, own in zip(maps, order, strict=True)]

    def _rows(
        self, units: Float[Tensor, "site d_model"], order: Float[Tensor, " site"]
    ) -> list[LayerSet]:
        by = "slope at budget" if self.by == "slope" else self.by
        gains = self.known.slopes(units * self.lengths[:, None], by)
        return proposals(gains, order, self.costs, count=self.count, largest=self.largest)
