"""Preference vectors: what training for a preference changes, minus what training against it does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, SupportsFloat

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import ArgumentError, as_float
from steerlens.data.contrast_set import PairsLike, as_contrast_set
from steerlens.forms import Form
from steerlens.interventions.changes import WeightChange
from steerlens.interventions.together import Together, changes_of
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention
from steerlens.store.files import expanded
from steerlens.training.trainer import Trainer


def preference_vector(
    trainer: Trainer,
    form: Form,
    model: Model,
    pairs: PairsLike,
    *,
    baseline: Literal["swapped", "unsteered"] = "swapped",
    validation: PairsLike | None = None,
    folder: Path | str | None = None,
    progress: bool = True,
) -> Together:
    """Trains a form for a preference and, from the same start, against it; their difference.

    φ = θ₊ - θ₋, where θ₊ prefers the positive answers and θ₋ the negative ones. What both trainings
    learn alike cancels. As an intervention, θ₀ + m · φ: `combined` weighs several of them.

    Args:
        trainer: With a preference objective, e.g. ``Trainer(DPO())``.
        form: As published weights: `LoRA` or `FullWeights`. Any other form does too.
        baseline: "unsteered" trains once, φ = θ₊ - θ₀.
        folder: Where both trainings keep their checkpoints and results.

    Raises:
        ArgumentError: For a baseline that there is not.
        TrainingError: As `Trainer.fit`.

    Source: arXiv:2504.20106, with DPO on the pairs and on the exchanged pairs. The paper's own settings
    are not used.
    """
    if baseline not in ("swapped", "unsteered"):
        raise ArgumentError(f"baseline={baseline!r:.80} must be 'swapped' or 'unsteered'.")
    model, given = as_model(model), as_contrast_set(pairs)
    held_out = None if validation is None else as_contrast_set(validation)
    sides = [("for", 1.0)] + ([("against", -1.0)] if baseline == "swapped" else [])
    made = []
    for name, sign in sides:
        one = given if sign > 0 else given.flipped()
        other = held_out if held_out is None or sign > 0 else held_out.flipped()
        kept = None if folder is None else expanded(folder) / name
        made.append(trainer.fit(form, model, one, validation=other, folder=kept, progress=progress))
    return Together(tuple(made), tuple(sign for _, sign in sides))


def combined(vectors: Mapping[str, Intervention], weights: Mapping[str, SupportsFloat]) -> Together:
    """Several preferences at chosen weights: θ₀ + Σ η_p φ_p. A weight of 0 leaves one out.

    Args:
        weights: η by name.

    Raises:
        ArgumentError: If a weight has no vector, or all are 0.

    Source: arXiv:2504.20106.
    """
    if unknown := sorted(set(weights) - set(vectors)):
        raise ArgumentError(
            f"There is a weight for {unknown[0]!r}, and the vectors are {', '.join(vectors)}."
        )
    chosen = {name: as_float(f"weight of {name}", eta) for name, eta in weights.items()}
    chosen = {name: eta for name, eta in chosen.items() if eta != 0}
    if not chosen:
        raise ArgumentError(
            "All weights are 0, so nothing would change. Give one above or below 0."
        )
    return Together(tuple(vectors[name] for name in chosen), tuple(chosen.values()))


@torch.no_grad()
def overlap(model: Model, one: Intervention, other: Intervention) -> float:
    """The cosine of two changes of weights, as one long vector each.

    Two preferences with a large one interfere. Of φ's two halves it says how much of the trainings
    was common: cosine 1 of θ₊ - θ₀ and θ₋ - θ₀ would be drift alone, -1 the preference alone.

    Raises:
        ArgumentError: If an intervention changes something else than weights.
    """
    found = [_weights(as_model(model), intervention) for intervention in (one, other)]
    shared = found[0].keys() & found[1].keys()
    dot = sum(float((found[0][name] * found[1][name]).sum()) for name in shared)
    norms = [sum(float(w.square().sum()) for w in weights.values()) ** 0.5 for weights in found]
    if not all(norms):
        raise ArgumentError("A change of no weight at all has no direction. Train it first.")
    return dot / (norms[0] * norms[1])


def _weights(model: Model, intervention: Intervention) -> dict[str, Float[Tensor, "..."]]:
    changes = changes_of(intervention, model)
    if not changes or not all(isinstance(change, WeightChange) for change in changes):
        raise ArgumentError(
            f"{intervention!r:.80} changes something else than weights. Only changes of weights can "
            "be compared so; for vectors see `cosines`."
        )
    total: dict[str, Tensor] = {}
    for change in changes:
        assert isinstance(change, WeightChange)
        empty = torch.zeros(change.delta.shape, device=model.device)
        total[change.name] = change.delta.added(total.get(change.name, empty), 1.0)
    return total
