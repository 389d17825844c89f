"""What any vectors at any sites do to first order: gain and cost from gradients that are read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.data import ContrastSet
from steerlens.measures.answer_gradients import summed_gradients
from steerlens.measures.cost_gradients import cost_gradients
from steerlens.measures.tokenised import questions
from steerlens.models.model import Model
from steerlens.sites import Positions, Site

KINDS = ("slope", "slope at budget", "direct at budget", "mediated at budget")
"""Predictors that these gradients give."""
QUESTIONS = 8
"""Questions of one backward pass."""


@dataclass(frozen=True, eq=False)
class FirstOrder:
    """Gradients of the log-odds and of the cost, summed over the tokens that would be steered."""

    sites: tuple[Site, ...]
    gain: Float[Tensor, "site d_model"]
    """Of the mean log-odds of the questions, at each site."""
    direct: Float[Tensor, " d_model"]
    """The same in the final stream: what a step does while later blocks are held."""
    cost: Float[Tensor, "draw site d_model"]
    """`cost_gradients` of ordinary texts."""
    budget: float

    def slopes(
        self, vectors: Float[Tensor, "site d_model"], by: str = "slope at budget"
    ) -> Float[Tensor, " site"]:
        """Nats of log-odds for each vector added at its site; or the direct or mediated part."""
        whole, direct = (self.gain * vectors).sum(-1), vectors @ self.direct
        return {"direct at budget": direct, "mediated at budget": whole - direct}.get(by, whole)

    def costs(self, vectors: Float[Tensor, "site d_model"]) -> Float[Tensor, "site site"]:
        """C in KL ≈ m' C m / 2 of the vectors times m, added at all sites together."""
        moved = torch.einsum("nsd,sd->ns", self.cost, vectors)
        return moved.T @ moved / len(moved)

    def lengths(self, units: Float[Tensor, "site d_model"]) -> Float[Tensor, " site"]:
        """How long each of some unit vectors is where it costs the budget, to second order."""
        curvature = self.costs(units).diagonal().clamp(min=1e-12)
        return (2 * self.budget / curvature).sqrt()


@torch.inference_mode(False)  # tensors made under it cannot be differentiated
def first_order(
    model: Model,
    asked: ContrastSet,
    texts: Sequence[str],
    sites: Sequence[Site],
    *,
    positions: Positions,
    budget: float,
    seed: int = 0,
) -> FirstOrder:
    """Reads the gradients: one backward pass of the questions, and some of the texts.

    Args:
        asked: Questions with two answers.
        texts: Ordinary texts, for the cost.
        positions: Which tokens would be steered.
        budget: Nats of KL per token.
    """
    known, last = questions(model, asked), Site(model.n_layers - 1)
    total = torch.zeros(len(sites) + 1, model.d_model)
    for start in range(0, len(known), QUESTIONS):
        part = known.rows(slice(start, min(start + QUESTIONS, len(known))))
        total += summed_gradients(model, part, [*sites, last], positions)
    total /= len(known)
    cost = cost_gradients(model, texts, sites, positions=positions, seed=seed)
    return FirstOrder(tuple(sites), total[:-1], total[-1], cost, budget)
