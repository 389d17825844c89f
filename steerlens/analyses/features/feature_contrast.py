"""Which features separate the two sides of a contrast: what features read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.directions import Activations
from steerlens.saes.sae import SAE
from steerlens.saes.sae_errors import SAEError
from steerlens.sites import Site
from steerlens.stats import group_numbers


@dataclass(frozen=True, eq=False)
class FeatureContrast:
    """How well every feature separates the two sides of a contrast, on the fitting split.

    This measures what a feature reads, not what adding it does.
    """

    site: Site
    difference: Float[Tensor, " d_sae"]
    """Mean activation on the positive side minus on the negative side."""
    auroc: Float[Tensor, " d_sae"]
    """The probability that a positive text activates the feature more than a negative one; ties count
    half."""
    fires: Float[Tensor, "side d_sae"]
    """Share of positive and of negative texts on which it fires."""
    shuffled: Float[Tensor, " shuffle"]
    """Largest distance of any feature's AUROC from 0.5 when the labels are shuffled."""

    @cached_property
    def order(self) -> list[int]:
        """All features, those that separate the sides best first."""
        apart = (self.auroc - 0.5).abs().numpy(force=True)
        return np.lexsort((-self.difference.abs().numpy(force=True), -apart)).tolist()

    def towards(self, feature: int) -> int:
        """1 for a feature of the positive side, -1 for one of the negative side."""
        gap = float(self.auroc[feature]) - 0.5 or float(self.difference[feature])
        return -1 if gap < 0 else 1

    def p_value(self, feature: int) -> float:
        """The probability that the best of all features separates shuffled labels as well; never 0."""
        apart = abs(float(self.auroc[feature]) - 0.5)
        # Equal up to rounding is equal: the null takes few values when texts are few.
        as_good = int((self.shuffled >= apart - 1e-6).sum())
        return (1 + as_good) / (1 + len(self.shuffled))


@torch.no_grad()
def rank_by_contrast(
    sae: SAE, read: Activations, *, shuffles: int = 100, seed: int = 0
) -> FeatureContrast:
    """How well every feature separates the two sides of a contrast.

    The null is the best of *all* features when the sides change places in about half of the pairs,
    chosen at random: among so many features some separate any labels.

    Args:
        read: Activations that were read from the fitting split, with the SAE's site.

    Raises:
        ValueError: If the SAE's site was not read.
        SAEError: If the activations are of another model than the SAE.

    Source: selection by AUROC as in AxBench's SAE-A, arXiv:2501.17148. Departure: a p-value, against
    the best of all features on shuffled labels, after Westfall and Young 1993.
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
    best, group = torch.zeros(shuffles), group_numbers(read.groups)
    for k in range(shuffles):
        if len(some) == 0:
            break
        coins = torch.rand(int(group.max()) + 1, 1, generator=generator) < 0.5
        swap = coins[group]  # pairs of one group share their coin
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
    """The probability that a positive text is above a negative one; ties count half."""
    ordered = negative.T.contiguous().sort(-1).values
    asked = positive.T.contiguous()
    below = torch.searchsorted(ordered, asked, right=False)
    up_to = torch.searchsorted(ordered, asked, right=True)
    return (below + up_to).float().mean(-1) / (2 * len(negative))


def require_same_model(sae: SAE, read: Activations) -> None:
    if sae.fingerprint and read.fingerprint and sae.fingerprint != read.fingerprint:
        raise SAEError(
            f"The activations are of {read.model!r} ({read.fingerprint}) and {sae.name!r} "
            f"was trained on {sae.model!r} ({sae.fingerprint}). Read them again."
        )
