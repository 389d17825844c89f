"""Which two or three layers to steer at once, and how much at each: the best to first order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float, Int
from torch import Tensor

LARGEST = 3
"""Layers of a set at most: there are 4060 sets of three of thirty layers."""
RIDGE = 1e-3
"""Added to the cost of each layer alone, which is 1, so that two layers with the same effect have a
best split."""

LEAST_PART = 0.1
"""The smallest weight of a set as a part of its largest: with less, it is a smaller set in all but
name."""


@dataclass(frozen=True)
class LayerSet:
    """Some sites, and how strongly each is steered."""

    index: tuple[int, ...]
    """The places of the sites, in order."""
    weights: tuple[float, ...]
    """The multiplier of each, where 1 costs the budget at that site alone; above 0."""
    gain: float
    """Nats at the budget of all together, to first order."""


def best_sets(
    gains: Float[Tensor, " site"],
    costs: Float[Tensor, "site site"],
    *,
    size: int,
    count: int,
) -> list[LayerSet]:
    """The sets with the largest gain at the budget, to first order, best first.

    To first order gains add up, and costs are a quadratic form. So the gain b'm of a set is largest,
    where m' K m is 1, at m = K⁻¹ b / √(b' K⁻¹ b), and is √(b' K⁻¹ b) there. A set whose best split
    has a weight of 0 or less is left out: a smaller set is better than any split of it. So is one with
    a weight below a tenth of its largest.

    Args:
        gains: b: of each site alone at the budget.
        costs: K: that of all sites together, where each alone costs 1.
        size: How many sites a set has.
        count: How many sets at most.
    """
    places = list(combinations(range(len(gains)), size))
    if not places:
        return []
    index = torch.tensor(places)
    b = gains.double()[index]
    k = costs.double()[index[:, :, None], index[:, None, :]]
    k = k + RIDGE * torch.eye(size, dtype=k.dtype)
    weights = torch.linalg.solve(k, b[..., None])[..., 0]
    reached = (weights * b).sum(-1).clamp(min=0).sqrt()
    even = weights.min(-1).values > LEAST_PART * weights.max(-1).values
    allowed = (weights > 0).all(-1) & even & (reached > 0)
    order = reached.masked_fill(~allowed, -torch.inf).argsort(descending=True, stable=True)
    found = []
    for i in order[:count].tolist():
        if bool(allowed[i]):
            split = (weights[i] / reached[i]).tolist()
            found.append(LayerSet(places[i], tuple(split), float(reached[i])))
    return found


def best_first(scores: Float[Tensor, "*map site"]) -> Int[Tensor, "*map site"]:
    """The places of the sites, the one with the largest score first; NaN comes last."""
    return scores.nan_to_num(-torch.inf).argsort(dim=-1, descending=True, stable=True)


def proposals(
    gains: Float[Tensor, " site"],
    scores: Float[Tensor, " site"],
    costs: Float[Tensor, "site site"],
    *,
    count: int,
    largest: int,
) -> list[LayerSet]:
    """The rows of a search: the first single sites, in their order, and the first sets of each size.

    Args:
        scores: By which single sites are put in order; NaN comes last.
        count: How many of each size.
        largest: Sites of a set at most.
    """
    first = best_first(scores)[:count]
    rows = [LayerSet((i,), (1.0,), float(gains[i])) for i in sorted(first.tolist())]
    for size in range(2, largest + 1):
        rows += best_sets(gains, costs, size=size, count=count)
    return rows


def named(sets: Sequence[LayerSet], names: Sequence[str]) -> list[str]:
    """A name for each set, e.g. "L4" and "L4 + L9"."""
    return [" + ".join(names[i] for i in one.index) for one in sets]
