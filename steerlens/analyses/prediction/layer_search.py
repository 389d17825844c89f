"""From what is known without steering to the rows of a map, for real and null directions alike."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analyses.prediction.first_order_look import FirstOrder
from steerlens.analyses.prediction.layer_sets import LayerSet, proposals
from steerlens.directions import Direction


@dataclass(frozen=True, eq=False)
class LayerSearch:
    """Orders sites and sets of sites by what their vectors do to first order."""

    known: FirstOrder
    directions: tuple[Direction, ...]
    """The real directions, one for each site."""
    by: str
    """One of `first_order_look.KINDS`."""
    count: int
    """How many single sites, and how many sets of each size."""
    largest: int
    """Sites of a set at most."""

    @cached_property
    def units(self) -> Float[Tensor, "site d_model"]:
        """The real directions as unit vectors."""
        return torch.stack([d.unit().vector.float().cpu() for d in self.directions])

    @cached_property
    def lengths(self) -> Float[Tensor, " site"]:
        """How long the real vectors are that cost the budget, to second order."""
        return self.known.lengths(self.units)

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

    def __call__(self, units: Float[Tensor, "site d_model"]) -> list[LayerSet]:
        """The rows of a map of some vectors, where the real ones have length 1."""
        by = "slope at budget" if self.by == "slope" else self.by
        gains = self.known.slopes(units * self.lengths[:, None], by)
        return proposals(
            gains, self.scores(units), self.costs, count=self.count, largest=self.largest
        )
