"""The candidates of every arm of a comparison, and of the random controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from steerlens.analyses.features.comparison_arms import (
    BY_CONTRAST,
    BY_EFFECT,
    DIFFMEAN,
    RANDOM_DIRECTION,
    RANDOM_FEATURE,
    SEARCHED,
    TARGETED,
    TOGETHER,
)
from steerlens.analyses.features.feature_contrast import FeatureContrast
from steerlens.analyses.features.feature_effects import EffectMap
from steerlens.analyses.features.random_directions import random_directions
from steerlens.analyses.features.rank_features import (
    alive,
    gradients,
    rank_by_effect,
    strongest_directions,
)
from steerlens.data import ContrastSet
from steerlens.directions import Activations, Direction
from steerlens.directions.methods import DiffMean
from steerlens.models.model import Model
from steerlens.saes.sae import SAE
from steerlens.sites import Positions


@dataclass(frozen=True, eq=False)
class Candidate:
    """One direction with one sign, of which an arm may choose."""

    arm: str
    draw: int
    """Which repetition of a control; 0 for the arms."""
    direction: Direction
    sign: int
    """1 if the direction is added, -1 if it is subtracted."""
    feature: int = -1
    """The feature that it is made of, where it is one."""
    rank: int = 0

    @property
    def signed(self) -> Direction:
        """The direction that is added."""
        return self.direction if self.sign > 0 else -self.direction


def arm_candidates(
    model: Model,
    sae: SAE,
    read: Activations,
    contrast: FeatureContrast,
    choose: ContrastSet,
    k: int,
    positions: Positions,
    effects: EffectMap | None,
    seed: int,
    progress: bool,
) -> list[Candidate]:
    """The candidates of all arms; without an effect map, of all but SAE-TS."""
    living = alive(sae)
    known = set(living)
    top = [f for f in contrast.order if f in known][:k]
    found = list(_both_signs(BY_CONTRAST, [(f, sae.direction(f)) for f in top]))
    found += _both_signs(TOGETHER, [(-1, _together(sae, contrast, top))])
    gradient = gradients(model, sae.site, sae.d_model, choose, positions, progress)
    moving = rank_by_effect(
        model, sae, choose, positions=positions, gradient=gradient, progress=progress
    ).order[:k]
    found += _both_signs(BY_EFFECT, [(f, sae.direction(f)) for f in moving])
    drawn = random_directions(sae, len(living), seed=2 * seed + 1)
    searched = strongest_directions(
        model, drawn, choose, k, positions=positions, gradient=gradient, progress=progress
    )
    found += _both_signs(SEARCHED, [(-1, direction) for direction in searched])
    found += _both_signs(DIFFMEAN, [(-1, read.direction(sae.site, DiffMean()))])
    if effects is None:
        return found
    # No vector can be found for a feature that no steered text moved.
    moved = [f for f in top if bool(effects.weights[:, f].any())]
    return found + list(_both_signs(TARGETED, [(f, effects.direction(f)) for f in moved]))


def control_candidates(sae: SAE, k: int, nulls: int, seed: int) -> Iterator[Candidate]:
    """k random living features and k random directions, `nulls` times over."""
    living = alive(sae)
    generator = torch.Generator().manual_seed(0xFEA7 + seed)
    vectors = random_directions(sae, nulls * k, seed=2 * seed)
    for draw in range(nulls):
        some = torch.randperm(len(living), generator=generator)[:k].tolist()
        features = [(living[i], sae.direction(living[i])) for i in some]
        yield from _both_signs(RANDOM_FEATURE, features, draw)
        some_vectors = [(-1, vector) for vector in vectors[draw * k : draw * k + k]]
        yield from _both_signs(RANDOM_DIRECTION, some_vectors, draw)


def _both_signs(
    arm: str, offered: Sequence[tuple[int, Direction]], draw: int = 0
) -> Iterator[Candidate]:
    for rank, (feature, direction) in enumerate(offered):
        for sign in (1, -1):
            yield Candidate(arm, draw, direction, sign, feature, rank)


def _together(sae: SAE, contrast: FeatureContrast, top: list[int]) -> Direction:
    """The part of the difference of means that these features make up."""
    weights = contrast.difference[top].to(sae.W_dec)
    vector = (weights @ sae.W_dec[top]).float().cpu()
    if not bool(vector.any()):
        return sae.direction(top[0])
    return sae.facts.direction(vector, f"SAE features {top} of {sae.name}")
