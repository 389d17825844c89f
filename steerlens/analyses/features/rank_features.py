"""Orders of features: by what tells two sides of a contrast apart, and by what moves behaviour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analyses.features.feature_ranking import FeatureContrast
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Activations, Direction
from steerlens.interventions.residual import Add
from steerlens.measures.screen import screen
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model, as_model
from steerlens.saes.sae import SAE, SAEError
from steerlens.sites import Positions, Site

MULTIPLIER = 0.5
"""How much is added to see an effect, in median norms of the stream."""
SCREENED = 64
"""Features whose effect is measured exactly, of all those that were screened."""


def alive(sae: SAE) -> list[int]:
    """Features that fired where the SAE was measured, and have a decoder row to add."""
    has_row = sae.W_dec.norm(dim=-1) > 0
    if sae.max_activation is not None:
        has_row &= sae.max_activation != 0
    return has_row.nonzero()[:, 0].tolist()


@torch.no_grad()
def by_contrast(
    sae: SAE, read: Activations, *, shuffles: int = 100, seed: int = 0
) -> FeatureContrast:
    """How every feature tells the two sides of a contrast apart.

    The null is the best of *all* features when in about half of the pairs, chosen at random, the
    sides change places: so many features are searched that some always look good.

    Args:
        read: Activations that were read from the fitting split, with the SAE's site.

    Raises:
        ValueError: If the SAE's site was not read.
        SAEError: If the activations are of another model than the SAE.

    Source: selection by AUROC, AxBench's SAE-A, arXiv:2501.17148; the null is ours, after Westfall
    and Young 1993.
    """
    require_same_model(sae, read)
    sides = [sae.encode(x.to(sae.device)).float().cpu() for x in read.at(sae.site)]
    positive, negative = sides
    # Features that never fire here have AUROC 0.5 whatever the labels: they need no shuffling.
    fires = torch.stack([(side > 0).float().mean(0) for side in sides])
    some = ((positive != 0) | (negative != 0)).any(0).nonzero()[:, 0]
    auroc = torch.full((sae.d_sae,), 0.5)
    auroc[some] = _auroc(positive[:, some], negative[:, some])
    generator = torch.Generator().manual_seed(seed)
    best = torch.zeros(shuffles)
    for k in range(shuffles):
        if len(some) == 0:
            break
        swap = torch.rand(len(positive), 1, generator=generator) < 0.5
        one = torch.where(swap, negative[:, some], positive[:, some])
        other = torch.where(swap, positive[:, some], negative[:, some])
        best[k] = (_auroc(one, other) - 0.5).abs().max()
    return FeatureContrast(
        site=sae.site,
        difference=positive.mean(0) - negative.mean(0),
        auroc=auroc,
        fires=fires,
        shuffled=best,
    )


def _auroc(
    positive: Float[Tensor, "text feature"], negative: Float[Tensor, "other feature"]
) -> Float[Tensor, " feature"]:
    """Chance that a positive text is above a negative one, for each feature; ties are half."""
    ordered = negative.T.contiguous().sort(-1).values
    asked = positive.T.contiguous()
    below = torch.searchsorted(ordered, asked, right=False)
    up_to = torch.searchsorted(ordered, asked, right=True)
    return (below + up_to).float().mean(-1) / (2 * len(negative))


class Effects(NamedTuple):
    """What adding and subtracting features does to the propensity."""

    features: tuple[int, ...]
    gains: Float[Tensor, "feature sense example"]
    """Nats gained when the feature is subtracted (0) and when it is added (1)."""
    screened: int
    """How many features were compared to first order before these were measured."""

    @property
    def order(self) -> list[int]:
        """The features, those with the largest effect in either sense first."""
        size = self.gains.mean(-1).amax(-1)
        return [self.features[i] for i in size.argsort(descending=True).tolist()]

    def towards(self, feature: int) -> int:
        """1 if adding it gives more of the concept than subtracting it, else -1."""
        down, up = self.gains[self.features.index(feature)].mean(-1).tolist()
        return 1 if up >= down else -1


def by_effect(
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
    """What adding and subtracting features does to the propensity, through the sweep.

    All features are compared to first order, from one backward pass; those that move the
    propensity most are then measured exactly, at equal length of what is added.

    Args:
        features: By default all that are alive.
        multiplier: Length of what is added, in median residual norms.
        screened: How many are measured exactly; None for all.
        positions: Which tokens are steered; by default from the prompt's end on.
        gradient: `gradients` at the site, where it is known already.

    Source: causal ranking as in arXiv:2505.20063, which ranks by a score of the output; here by the
    propensity itself.
    """
    model = as_model(model)
    sae.require_fits(model)
    sae.facts.require_resid_norm()
    asked = list(alive(sae) if features is None else features)
    found = _in_two_steps(
        model, _unit_rows(sae, asked), lambda i: sae.direction(asked[i]),
        sae.site, pairs, multiplier, screened, positions, gradient, progress,
    )  # fmt: skip
    return found._replace(features=tuple(asked[i] for i in found.features))


def strongest(
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
    """The k directions of one site that move the propensity most, found as `by_effect` does."""
    found = _in_two_steps(
        model, torch.stack([d.unit().vector for d in directions]), directions.__getitem__,
        directions[0].site, pairs, multiplier, screened, positions, gradient, progress,
    )  # fmt: skip
    return [directions[i] for i in found.order[:k]]


def _in_two_steps(
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
    """Effects of those rows, by index, that move the propensity most to first order."""
    positions = positions or Positions.from_prompt_end()
    some = list(range(len(units)))
    if screened is not None and len(units) > screened:
        if gradient is None:
            gradient = gradients(model, site, units.shape[-1], pairs, positions, progress)
        some = (units @ gradient).abs().topk(screened).indices.tolist()
    edits = [Add(direction(i), positions) for i in some]
    odds = sweep(
        model, pairs, edits, (-multiplier, 0.0, multiplier), log_odds_only=True,
        label=f"effects at {site}", progress=progress,
    ).log_odds  # fmt: skip
    return Effects(tuple(some), odds[:, [0, 2]] - odds[:, [1]], len(units))


def first_order(
    model: Model,
    sae: SAE,
    pairs: Sequence[ContrastPair] | ContrastSet,
    features: Sequence[int],
    positions: Positions | None = None,
    *,
    progress: bool = True,
) -> Float[Tensor, " feature"]:
    """Nats of propensity per unit length of what is added, at strength 0, for many features.

    The gradient is read once along each coordinate of the stream; features are sums of these.
    """
    positions = positions or Positions.from_prompt_end()
    gradient = gradients(model, sae.site, sae.d_model, pairs, positions, progress)
    return _unit_rows(sae, features) @ gradient


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


def require_same_model(sae: SAE, read: Activations) -> None:
    if sae.fingerprint and read.fingerprint and sae.fingerprint != read.fingerprint:
        raise SAEError(
            f"The activations are of {read.model!r} ({read.fingerprint}) and {sae.name!r} "
            f"was trained on {sae.model!r} ({sae.fingerprint}). Read them again."
        )
