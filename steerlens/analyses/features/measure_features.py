"""A map of features and multipliers: what editing each feature gains, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from steerlens.analyses.features.feature_map import FeatureMap
from steerlens.analyses.features.rank_features import alive
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.interventions.residual import Add
from steerlens.measures import scores
from steerlens.measures.divergence import divergence
from steerlens.measures.sweep import sweep
from steerlens.measures.tokenised import neutral_texts_of
from steerlens.models.model import Model, as_model
from steerlens.saes.feature_edits import AblateFeature, ClampFeature
from steerlens.saes.sae import SAE
from steerlens.sites import Positions
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
    neutral: Sequence[str] | None = None,
    budget: float = BUDGET,
    positions: Positions | None = None,
    nulls: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> FeatureMap:
    """Gain and cost of some features over multipliers, and what as many random ones would give.

    Args:
        features: Typically those that `find_features` ranks first.
        choose: Questions with two answers, other than those that found the features.
        operation: "add" the decoder row, multiplier 1 being as long as the stream's median norm;
            "clamp" the activation towards its largest, or "ablate" it, both whole at multiplier 1.
        multipliers: With 0; by default -1 to 1 for "add", and 0 to 1 for the others.
        neutral: Ordinary texts for the cost; by default those of `choose`.
        nulls: How many sets of random directions (for "add") or random living features, as many as
            features, each searched as the real one is; 20 allow p = 0.048 at the best.

    Raises:
        ValueError: For multipliers without 0, or fewer than 19 nulls.
        SAEError: If the SAE was not made for the model's stream, or its largest activations
            are not known and it is to be clamped.
    """
    model = as_model(model)
    sae.require_fits(model)
    multipliers = multipliers or (MULTIPLIERS if operation == "add" else (0.0, 0.25, 0.5, 1.0))
    require_multipliers(multipliers)
    if nulls < 19 or not features:
        raise ValueError(
            f"{len(features)} features and {nulls} nulls: give at least one feature and 19 nulls."
        )
    if operation == "add":
        sae.facts.require_resid_norm()
    positions = positions or Positions.from_prompt_end()
    edits = [_edit(sae, f, operation, positions) for f in features]
    texts = list(neutral or neutral_texts_of(choose))
    swept = sweep(model, choose, edits, multipliers, label="features", progress=progress)
    kl = divergence(model, texts, edits, multipliers, progress=progress)
    drawn = nulls * len(features)
    if operation == "add":
        vectors = random_directions(sae, drawn, seed=seed)
        nothing: list[Any] = [Add(vector, positions) for vector in vectors]
    else:
        others = [f for f in alive(sae) if f not in features]
        nothing = [_edit(sae, f, operation, positions) for f in _drawn(others, drawn, seed)]
    odds = sweep(
        model, choose, nothing, multipliers, log_odds_only=True, label="random", progress=progress
    ).log_odds.unflatten(0, (nulls, len(features)))
    strengths = torch.tensor(multipliers, dtype=torch.float32)
    zero = list(multipliers).index(0.0)
    return FeatureMap(
        site=sae.site,
        features=tuple(features),
        multipliers=strengths,
        propensities=scores.preference(swept),
        utilities=scores.utility(swept).value,
        kl=kl,
        random=(odds - odds[:, :, [zero]]).mean(-1),
        budget=budget,
        made_by={
            "sae": sae.name,
            "model": model.name,
            "fingerprint": model.fingerprint,
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


def _drawn(features: list[int], n: int, seed: int) -> list[int]:
    """n of them at random, each as seldom twice as can be."""
    if not features:
        raise ValueError("No living feature is left to compare with. Give fewer features.")
    generator = torch.Generator().manual_seed(0xFEA7 + seed)
    rounds = -(-n // len(features))
    order = [torch.randperm(len(features), generator=generator) for _ in range(rounds)]
    return [features[i] for i in torch.cat(order)[:n].tolist()]


def random_directions(sae: SAE, n: int, *, seed: int = 0) -> list[Direction]:
    """Isotropic unit vectors at an SAE's site: the control for any direction."""
    # Not the bare seed: whoever made data with the same one may have drawn these very vectors.
    generator = torch.Generator().manual_seed(0x0D1C_0000 + seed)
    drawn = torch.randn(n, sae.d_model, generator=generator)
    return [
        sae.facts.direction(row / row.norm(), f"random {seed}.{i}") for i, row in enumerate(drawn)
    ]
