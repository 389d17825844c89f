"""A map of features and multipliers: what editing each feature gains, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, SupportsIndex

import torch

from steerlens.analyses.features.feature_map import FeatureMap
from steerlens.analyses.features.random_directions import random_directions
from steerlens.analyses.features.rank_features import alive
from steerlens.analyses.question_splits import question_groups
from steerlens.data import ContrastPair, ContrastSet
from steerlens.interventions.residual import Add
from steerlens.measures import scores
from steerlens.measures.divergence import divergence
from steerlens.measures.ordinary_texts import given_or_written
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model, as_model
from steerlens.saes.feature_edits import AblateFeature, ClampFeature
from steerlens.saes.sae import SAE
from steerlens.sites import Positions
from steerlens.store.cells import Cells
from steerlens.units import BUDGET, MULTIPLIERS, require_multipliers

Operation = Literal["add", "clamp", "ablate"]


def feature_map(
    model: Model,
    sae: SAE,
    features: Sequence[int],
    choose: Sequence[ContrastPair] | ContrastSet,
    *,
    operation: Operation = "add",
    multipliers: Sequence[float] | None = None,
    neutral: Sequence[str] | SupportsIndex | None = None,
    budget: float = BUDGET,
    positions: Positions | None = None,
    nulls: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> FeatureMap:
    """Gain and cost of editing some features over multipliers, with a null of random ones.

    Args:
        features: Typically those that `find_features` ranks first.
        choose: Questions with two answers, other than those that found the features.
        operation: "add" the decoder row, which at multiplier 1 is as long as the stream's median
            norm; "clamp" the activation to its largest, which is reached at multiplier 1; or
            "ablate" it, which is complete at multiplier 1.
        multipliers: With 0; by default -1 to 1 for "add", and 0 to 1 for the others.
        neutral: Ordinary texts for the cost, or how many the unsteered model writes: 64 by default.
        nulls: How many sets of random directions (for "add") or random living features, each as
            large as `features`; 20 allow p = 0.048 at the best, 0 gives no p-value.

    Raises:
        ValueError: For multipliers without 0, or for 1 to 18 nulls.
        SAEError: If the SAE was not made for the model's stream, or its largest activations
            are not known and it is to be clamped.
    """
    model = as_model(model)
    sae.require_fits(model)
    multipliers = multipliers or (MULTIPLIERS if operation == "add" else (0.0, 0.25, 0.5, 1.0))
    require_multipliers(multipliers)
    if not features or nulls < 0 or 0 < nulls < 19:
        raise ValueError(
            f"{len(features)} features and nulls={nulls}: give at least one feature, and at least "
            "19 nulls for a p-value of 0.05, or 0 for none."
        )
    if operation == "add":
        sae.facts.require_resid_norm()
    positions = positions or Positions.from_prompt_end()
    edits = [_edit(sae, f, operation, positions) for f in features]
    texts, _ = given_or_written(model, neutral, seed, Cells(progress=progress))
    swept = sweep(
        model, choose, edits, multipliers, cells=Cells(name="features", progress=progress)
    )
    kl = divergence(model, texts, edits, multipliers, progress=progress)
    random = torch.zeros(0, len(features), len(multipliers))
    if nulls:
        controls = _random_edits(sae, features, operation, nulls, positions, seed)
        odds = sweep(
            model, choose, controls, multipliers, log_odds_only=True,
            cells=Cells(name="random", progress=progress),
        ).log_odds.unflatten(0, (nulls, len(features)))  # fmt: skip
        random = (odds - odds[:, :, [list(multipliers).index(0.0)]]).mean(-1)
    return FeatureMap(
        site=sae.site,
        features=tuple(features),
        multipliers=torch.tensor(multipliers, dtype=torch.float32),
        propensities=scores.preference(swept),
        utilities=scores.utility(swept).value,
        kl=kl,
        random=random,
        budget=budget,
        groups=question_groups(choose),
        made_by={
            **model.facts,
            "sae": sae.name,
            "sae_hash": sae.hash,
            "data": choose.hash if isinstance(choose, ContrastSet) else "",
            "data_name": choose.name if isinstance(choose, ContrastSet) else "",
            "operation": operation,
            "unit": "resid_norm" if operation == "add" else "whole operation",
            "positions": repr(positions),
            "nulls": nulls,
            "seed": seed,
        },
    )


def _edit(sae: SAE, feature: int, operation: Operation, positions: Positions) -> Any:
    if operation == "clamp":
        return ClampFeature(sae, feature, positions=positions)
    if operation == "ablate":
        return AblateFeature(sae, feature, positions)
    return Add(sae.direction(feature), positions)


def _random_edits(
    sae: SAE,
    features: Sequence[int],
    operation: Operation,
    nulls: int,
    positions: Positions,
    seed: int,
) -> list[Any]:
    """As many random directions, or random other features, as there are features, `nulls` times."""
    drawn = nulls * len(features)
    if operation == "add":
        return [Add(vector, positions) for vector in random_directions(sae, drawn, seed=seed)]
    others = [f for f in alive(sae) if f not in features]
    return [_edit(sae, f, operation, positions) for f in _drawn(others, drawn, seed)]


def _drawn(features: list[int], n: int, seed: int) -> list[int]:
    """n of them at random; none comes again before all the others have."""
    if not features:
        raise ValueError("No living feature is left to compare with. Give fewer features.")
    generator = torch.Generator().manual_seed(0xFEA7 + seed)
    rounds = -(-n // len(features))
    order = [torch.randperm(len(features), generator=generator) for _ in range(rounds)]
    return [features[i] for i in torch.cat(order)[:n].tolist()]
