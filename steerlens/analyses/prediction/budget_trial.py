"""A trial of the sites with the largest predictor: their gain at the length that costs the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.analyses.prediction.layer_sets import best_first
from steerlens.data import ContrastSet
from steerlens.directions import Direction
from steerlens.interventions.residual import Add
from steerlens.measures.divergence import divergence
from steerlens.measures.equal_cost import MOST, LengthsWithinBudget, lengths_of_equal_kl
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.sites import Positions
from steerlens.store.cells import Cells

TEXTS = 8
"""Ordinary texts on which vectors of a trial are made to cost the same."""
NEAR = 0.1
"""How far from each other these costs may be, as a share."""


@dataclass(frozen=True, eq=False)
class BudgetTrial:
    """Tries sites at one strength, where first order only says what a small step would do."""

    model: Model
    asked: ContrastSet
    """The choosing questions, all of which are asked."""
    directions: tuple[Direction, ...]
    """The real directions, one for each site."""
    positions: Positions
    lengths: Float[Tensor, " site"]
    """About how long the real vectors are that cost the budget."""
    count: int
    """How many sites are tried."""
    cells: Cells
    """Where what trials measure is kept."""

    @torch.no_grad()
    def gains(
        self,
        maps: Float[Tensor, "map site d_model"],
        scores: Float[Tensor, "map site"],
        name: str,
    ) -> Float[Tensor, "map site"]:
        """Mean gain of each map's first sites at these lengths, in nats; NaN at all others.

        Args:
            maps: A vector for each site, where the real ones have length 1.
            scores: The predictor; the sites with the largest are tried.
            name: Of these maps, by which their log-odds are kept.
        """
        first = first_sites(scores, self.count)
        edits = [
            Add(
                replace(self.directions[i], vector=vectors[i] * self.lengths[i]),
                self.positions,
                "direction",
            )
            for vectors, tried in zip(maps, first.tolist(), strict=True)
            for i in tried
        ]
        kept = self.cells.part(f"trial-{name}", sites=repr(first.tolist()))
        odds = sweep(
            self.model, self.asked, edits, (0.0, 1.0), log_odds_only=True, cells=kept
        ).log_odds
        gains = (odds[:, 1] - odds[:, 0]).mean(-1).unflatten(0, first.shape)
        return torch.full_like(scores, torch.nan).scatter(1, first, gains.to(scores))


def first_sites(scores: Float[Tensor, "map site"], count: int) -> Int[Tensor, "map count"]:
    """The sites of each map with the largest scores, in the order of the model; NaN comes last."""
    return best_first(scores)[:, :count].sort(dim=-1).values


def budget_trial(
    model: Model,
    asked: ContrastSet,
    directions: Sequence[Direction],
    positions: Positions,
    scores: Float[Tensor, " site"],
    lengths: Float[Tensor, " site"],
    texts: Sequence[str],
    within: LengthsWithinBudget,
    *,
    count: int,
    cells: Cells,
) -> BudgetTrial:
    """Finds how long the vectors of a trial are, of the real directions.

    The site that comes first has the length that is within the budget on all texts, as in a map. The
    vectors of the other first sites cost the same as this one on a few texts, to a tenth. All other
    sites, which null maps may put first, have the length that a quadratic cost gives, changed as
    that of the first sites was.

    Args:
        scores: The predictor; the sites with the largest are tried.
        lengths: How long the vectors are that cost the budget, to second order.
        texts: Ordinary texts that choose.
        within: Finds the lengths of the directions that are within the budget on all texts.
        cells: Where the lengths are kept.
    """
    lead = int(best_first(scores)[0])
    first = first_sites(scores[None], count)[0].tolist()
    options: Any = {"positions": positions, "progress": cells.progress}

    def found() -> dict[str, Tensor]:
        (exact,) = within([lead], [float(lengths[lead])])
        edit, few = Add(directions[lead], positions, exact), texts[:TEXTS]
        level = divergence(model, few, [edit], (1.0,), progress=False).double().mean().item()
        guesses = lengths[first].double() * (exact / float(lengths[lead]))
        own = lengths_of_equal_kl(
            model, [directions[i] for i in first], few, kl=level or within.budget, tolerance=NEAR,
            first=guesses.tolist(), **options,
        )  # fmt: skip
        own = torch.where(own.isnan(), guesses.to(own), own)
        near = lengths * (own / lengths[first]).median()
        near[first] = own.to(near)
        return {"lengths": near.minimum(MOST * torch.tensor(within.units))}

    kept = cells.part("trial", sites=repr((lead, first)), budget=repr(within.budget))
    near = kept.compute(0, found)["lengths"]
    return BudgetTrial(model, asked, tuple(directions), positions, near, count, cells)
