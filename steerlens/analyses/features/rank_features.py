"""Which features, or directions, change the propensity most when they are added or subtracted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.interventions.residual import Add
from steerlens.measures.screen import screen
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model, as_model
from steerlens.saes.sae import SAE
from steerlens.sites import Positions, Site
from steerlens.store.cells import Cells

MULTIPLIER = 0.5
"""How much is added to see an effect, in median norms of the stream."""
SCREENED = 64
"""How many features are measured exactly, of all those that are compared to first order."""


def alive(sae: SAE) -> list[int]:
    """Features that fired where the SAE was measured, and have a decoder row to add."""
    has_row = sae.W_dec.norm(dim=-1) > 0
    if sae.max_activation is not None:
        has_row &= sae.max_activation != 0
    return has_row.nonzero()[:, 0].tolist()


class Effects(NamedTuple):
    """What adding and subtracting features does to the propensity."""

    features: tuple[int, ...]
    gains: Float[Tensor, "feature sign example"]
    """Nats gained when the feature is subtracted (0) and when it is added (1)."""
    screened: int
    """How many features were compared to first order before these were measured."""

    @property
    def order(self) -> list[int]:
        """The features, those with the largest effect of either sign first."""
        size = self.gains.mean(-1).amax(-1)
        return [self.features[i] for i in size.argsort(descending=True).tolist()]

    def towards(self, feature: int) -> int:
        """1 if adding it gives more of the concept than subtracting it, else -1."""
        down, up = self.gains[self.features.index(feature)].mean(-1).tolist()
        return 1 if up >= down else -1


def rank_by_effect(
    model: Model,
    sae: SAE,
    pairs: Sequence[ContrastPair] | ContrastSet,
    features: Sequence[int] | None = None,
    *,
    multiplier: float = MULTIPLIER,
    screened: int | None = SCREENED,
    positions: Positions | None = None,
    gradient: Float[Tensor, " d_model"] | None = None,
    progress: bool = True,
) -> Effects:
    """What adding and subtracting features does to the propensity.

    All features are compared to first order, by one backward pass. Those with the largest slopes
    are then measured exactly by a sweep, with vectors of equal length.

    Args:
        features: By default all that are alive.
        multiplier: Length of what is added, in median residual norms.
        screened: How many are measured exactly; None for all.
        positions: Which tokens are steered; by default from the prompt's end on.
        gradient: `gradients` at the site, where it is known already.

    Raises:
        SAEError: If the SAE was not made for the model's stream, or states no median norm.

    Source: causal ranking as in arXiv:2505.20063. Departure: that ranks by a score of the output,
    this by the propensity itself.
    """
    model = as_model(model)
    sae.require_fits(model)
    sae.facts.require_resid_norm()
    asked = list(alive(sae) if features is None else features)
    found = _screened_effects(
        model, _unit_rows(sae, asked), lambda i: sae.direction(asked[i]),
        sae.site, pairs, multiplier, screened, positions, gradient, progress,
    )  # fmt: skip
    return found._replace(features=tuple(asked[i] for i in found.features))


def strongest_directions(
    model: Model,
    directions: Sequence[Direction],
    pairs: Sequence[ContrastPair] | ContrastSet,
    k: int,
    *,
    multiplier: float = MULTIPLIER,
    screened: int = SCREENED,
    positions: Positions | None = None,
    gradient: Float[Tensor, " d_model"] | None = None,
    progress: bool = True,
) -> list[Direction]:
    """The k directions of one site that change the propensity most, found as by `rank_by_effect`."""
    found = _screened_effects(
        model, torch.stack([d.unit().vector for d in directions]), directions.__getitem__,
        directions[0].site, pairs, multiplier, screened, positions, gradient, progress,
    )  # fmt: skip
    return [directions[i] for i in found.order[:k]]


def _screened_effects(
    model: Model,
    units: Float[Tensor, "row d_model"],
    direction: Callable[[int], Direction],
    site: Site,
    pairs: Sequence[ContrastPair] | ContrastSet,
    multiplier: float,
    screened: int | None,
    positions: Positions | None,
    gradient: Float[Tensor, " d_model"] | None,
    progress: bool,
) -> Effects:
    """Effects of the rows, by index, that change the propensity most to first order."""
    positions = positions or Positions.from_prompt_end()
    some = list(range(len(units)))
    if screened is not None and len(units) > screened:
        if gradient is None:
            gradient = gradients(model, site, units.shape[-1], pairs, positions, progress)
        some = (units @ gradient).abs().topk(screened).indices.tolist()
    edits = [Add(direction(i), positions) for i in some]
    odds = sweep(
        model, pairs, edits, (-multiplier, 0.0, multiplier), log_odds_only=True,
        cells=Cells(name=f"effects at {site}", progress=progress),
    ).log_odds  # fmt: skip
    return Effects(tuple(some), odds[:, [0, 2]] - odds[:, [1]], len(units))


def _unit_rows(sae: SAE, features: Sequence[int]) -> Float[Tensor, "feature d_model"]:
    rows = sae.W_dec[list(features)].float().cpu()
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-30)


def gradients(
    model: Model,
    site: Site,
    d_model: int,
    pairs: Sequence[ContrastPair] | ContrastSet,
    positions: Positions,
    progress: bool = True,
) -> Float[Tensor, " d_model"]:
    """Mean gradient of the propensity along the stream at a site, summed over steered tokens."""
    axes = [Add(Direction(row, site), positions, "direction") for row in torch.eye(d_model)]
    return screen(model, pairs, axes, progress=progress).slopes.mean(-1)
