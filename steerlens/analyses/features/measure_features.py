"""Features on the same scale as vectors: strengths of equal cost, and features x multipliers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analyses.features.feature_map import FeatureMap
from steerlens.analyses.features.rank_features import alive
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.interventions.residual import Add
from steerlens.measures import scores
from steerlens.measures.equal_cost import CalibrationError
from steerlens.measures.sweep import divergence, sweep
from steerlens.models.model import Model, as_model
from steerlens.saes.feature_edits import AblateFeature, ClampFeature
from steerlens.saes.sae import SAE
from steerlens.sites import Positions
from steerlens.units import BUDGET, MULTIPLIERS, require_multipliers

Operation = Literal["add", "clamp", "ablate"]
TOLERANCE = 0.02
"""How far from the asked cost a length may be, as a share of it."""
ROUNDS = 12
FIRST, LEAST, MOST = 0.25, 2.0**-8, 16.0
"""Where lengths are looked for, in median norms of the stream: where first, and between what."""


def lengths_of_equal_kl(
    model: Model,
    directions: Sequence[Direction],
    texts: Sequence[str],
    *,
    kl: float = BUDGET,
    positions: Positions | None = None,
    tolerance: float = TOLERANCE,
    progress: bool = True,
) -> Float[Tensor, " direction"]:
    """How long each direction must be for adding it to cost a given KL on ordinary text.

    As `calibration.equal_kl`, for many directions at a time: a secant in the logarithms, from
    below, in three or four looks instead of thirty; and a direction that cannot be made to cost
    that much or that little is NaN instead of an error.

    Args:
        kl: Nats per token of `divergence`.
        tolerance: How far from `kl` the cost may stay, as a share of it.
    """
    if not (kl > 0 and math.isfinite(kl)):
        raise CalibrationError(f"kl={kl} is no cost to aim at. Give nats per token above 0.")
    positions = positions or Positions.from_prompt_end()

    def cost(chosen: list[int], lengths: list[float]) -> list[float]:
        edits = [Add(directions[i], positions, n) for i, n in zip(chosen, lengths, strict=True)]
        found = divergence(model, texts, edits, (0.0, 1.0), progress=progress)
        return found[:, 1].double().mean(-1).tolist()

    units = [_norm(direction) for direction in directions]
    return torch.tensor(_secant(cost, units, kl, tolerance))


def _secant(
    cost: Callable[[list[int], list[float]], list[float]],
    units: Sequence[float],
    aim: float,
    tolerance: float,
) -> list[float]:
    """Lengths at which a cost that grows about as a power of the length reaches the aim."""
    lengths = [FIRST * unit for unit in units]
    found = [math.nan] * len(units)
    # The nearest lengths known to cost too little and too much, as logarithms (length, cost).
    below: list[tuple[float, float] | None] = [None] * len(units)
    above: list[tuple[float, float] | None] = [None] * len(units)
    going = list(range(len(units)))
    for _ in range(ROUNDS):
        if not going:
            break
        costs = cost(going, [lengths[i] for i in going])
        still = []
        for i, value in zip(going, costs, strict=True):
            if abs(value / aim - 1) <= tolerance:
                found[i] = lengths[i]
                continue
            at = (math.log(lengths[i]), math.log(max(value, 1e-12) / aim))
            if value < aim:
                below[i] = at
            else:
                above[i] = at
            step = _next(below[i], above[i])
            lengths[i] = math.exp(step)
            if LEAST * units[i] <= lengths[i] <= MOST * units[i]:
                still.append(i)
        going = still
    return found


def _next(below: tuple[float, float] | None, above: tuple[float, float] | None) -> float:
    """Where to look next: along the line through both sides, or by the square law from one."""
    if below is None or above is None:
        x, y = below or above  # type: ignore[misc]
        return x + max(-math.log(4), min(math.log(3), -y / 2))
    (x0, y0), (x1, y1) = below, above
    share = -y0 / (y1 - y0)
    return x0 + min(0.9, max(0.1, share)) * (x1 - x0)


def lengths_of_equal_utility(
    model: Model,
    directions: Sequence[Direction],
    pairs: Sequence[ContrastPair] | ContrastSet,
    *,
    drop: float,
    positions: Positions | None = None,
    steps: int = 13,
    largest: float = 4.0,
    progress: bool = True,
) -> Float[Tensor, " direction"]:
    """How long each direction must be for the mean utility log-odds to fall by so many nats.

    The utility of a little steering may well rise: the length is where it first has fallen by
    `drop`, on the line between the two looks around it. NaN where it never falls that far.

    Args:
        drop: Nats of the utility log-odds (arXiv:2602.02343).
        steps: Looks, at lengths in a geometric row up to `largest`.
        largest: In median norms of the stream.
    """
    if not (drop > 0 and math.isfinite(drop)):
        raise CalibrationError(f"drop={drop} is no loss of utility. Give nats above 0.")
    positions = positions or Positions.from_prompt_end()
    edits = [Add(d, positions, _norm(d)) for d in directions]
    multipliers = (0.0, *(largest * 2 ** ((k - steps + 1) / 2) for k in range(steps)))
    swept = sweep(model, pairs, edits, multipliers, label="utility", progress=progress)
    utility = scores.utility(swept).value.double().mean(-1)
    lost = utility[:, :1] - utility  # [direction, multiplier]
    found = []
    for edit, row in zip(edits, lost.tolist(), strict=True):
        over = next((j for j, value in enumerate(row) if value >= drop), None)
        if over is None:
            found.append(math.nan)
            continue
        share = (drop - row[over - 1]) / (row[over] - row[over - 1])
        at = multipliers[over - 1] + share * (multipliers[over] - multipliers[over - 1])
        found.append(at * float(edit.step.norm()))
    return torch.tensor(found)


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
    positions = positions or Positions.from_prompt_end()
    edits = [_edit(sae, f, operation, positions) for f in features]
    texts = list(neutral or [pair.prompt + pair.positive for pair in choose])
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
    return Add(_stated(sae.direction(feature)), positions)


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
        Direction(
            row / row.norm(),
            sae.site,
            method=f"random {seed}.{i}",
            resid_norm=sae.resid_norm,
            processing=sae.processing,
            model=sae.model,
            fingerprint=sae.fingerprint,
        )
        for i, row in enumerate(drawn)
    ]


def _norm(direction: Direction) -> float:
    return float(_stated(direction).resid_norm or 0)


def _stated(direction: Direction) -> Direction:
    if direction.resid_norm is None:
        raise CalibrationError(
            f"{direction} does not state resid_norm, so there is no scale to start the search at. "
            "Measure it, sae = observe(sae, model, texts), or state resid_norm."
        )
    return direction
