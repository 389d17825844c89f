"""Who competes when features are compared: the candidates of every arm, and of chance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from steerlens.analyses.features.feature_comparison import (
    BY_CONTRAST,
    BY_EFFECT,
    DIFFMEAN,
    DIRECTION,
    FEATURE,
    SEARCHED,
    TARGETED,
    TOGETHER,
)
from steerlens.analyses.features.feature_effects import EffectMap
from steerlens.analyses.features.feature_ranking import FeatureContrast
from steerlens.analyses.features.measure_features import random_directions
from steerlens.analyses.features.rank_features import alive, by_effect, gradients, strongest
from steerlens.data import ContrastSet
from steerlens.directions import Activations, Direction
from steerlens.directions.methods import DiffMean
from steerlens.models.model import Model
from steerlens.saes.sae import SAE
from steerlens.sites import Positions


@dataclass(frozen=True, eq=False)
class Candidate:
    """One direction in one sense that may stand for an arm."""

    arm: str
    draw: int
    """Which repetition of a control; 0 for the others."""
    direction: Direction
    sense: int
    feature: int = -1
    """The feature that it is made of, where it is one."""
    rank: int = 0

    @property
    def turned(self) -> Direction:
        return self.direction if self.sense > 0 else -self.direction


def real_candidates(
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
    """The candidates of all arms but the controls."""
    living = alive(sae)
    known = set(living)
    top = [f for f in contrast.order if f in known][:k]
    found = list(_both(BY_CONTRAST, [(f, sae.direction(f)) for f in top]))
    found += _both(TOGETHER, [(-1, _together(sae, contrast, top))])
    gradient = gradients(model, sae.site, sae.d_model, choose, positions, progress)
    moving = by_effect(
        model, sae, choose, positions=positions, gradient=gradient, progress=progress
    ).order[:k]
    found += _both(BY_EFFECT, [(f, sae.direction(f)) for f in moving])
    drawn = random_directions(sae, len(living), seed=2 * seed + 1)
    luckiest = strongest(
        model, drawn, choose, k, positions=positions, gradient=gradient, progress=progress
    )
    found += _both(SEARCHED, [(-1, direction) for direction in luckiest])
    found += _both(DIFFMEAN, [(-1, read.direction(sae.site, DiffMean()))])
    if effects is None:
        return found
    # A feature that no steered text moved cannot be aimed at.
    aims = [f for f in top if bool(effects.weights[:, f].any())]
    return found + list(_both(TARGETED, [(f, effects.direction(f)) for f in aims]))


def _both(arm: str, offered: list[tuple[int, Direction]], draw: int = 0) -> Iterator[Candidate]:
    for rank, (feature, direction) in enumerate(offered):
        for sense in (1, -1):
            yield Candidate(arm, draw, direction, sense, feature, rank)


def _together(sae: SAE, contrast: FeatureContrast, top: list[int]) -> Direction:
    """The part of the difference of means that these features make up."""
    weights = contrast.difference[top].to(sae.W_dec)
    vector = (weights @ sae.W_dec[top]).float().cpu()
    first = sae.direction(top[0])
    if not bool(vector.any()):
        return first
    return replace(first, vector=vector, method=f"SAE features {top} of {sae.name}")


def control_candidates(sae: SAE, k: int, nulls: int, seed: int) -> Iterator[Candidate]:
    """k random features and k random directions, `nulls` times over."""
    living = alive(sae)
    generator = torch.Generator().manual_seed(0xFEA7 + seed)
    vectors = random_directions(sae, nulls * k, seed=2 * seed)
    for draw in range(nulls):
        some = torch.randperm(len(living), generator=generator)[:k].tolist()
        features = [(living[i], sae.direction(living[i])) for i in some]
        yield from _both(FEATURE, features, draw)
        yield from _both(DIRECTION, [(-1, v) for v in vectors[draw * k : draw * k + k]], draw)
