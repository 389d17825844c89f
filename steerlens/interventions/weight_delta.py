"""The difference of two checkpoints as an intervention: task arithmetic."""

from __future__ import annotations

import copy
import re

import torch
from torch import Tensor

from steerlens.arguments import ArgumentError, as_int
from steerlens.interventions.changes import Composed, Dense, LowRank, WeightChange
from steerlens.interventions.composition import Composition, new_weights, one_multiplier
from steerlens.interventions.matrices import Matrix, every_matrix
from steerlens.models.attached import strength_of
from steerlens.models.exchanged import parameter_shapes
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention


@torch.no_grad()
def weight_delta(
    base: Model, tuned: Model, *, only: str = "", rank: int | None = None
) -> Composition:
    """What makes one checkpoint of another, with a multiplier: W + m · (W_tuned - W).

    At 1 it is the tuned model, but for rounding; at 0.5 half way, and at -1 the opposite of the
    tuning. Deltas of several checkpoints add up in `Together`.

    Args:
        base: The model to which it will be attached.
        tuned: A checkpoint of the same architecture, loaded in the same way.
        only: A regular expression: parameters whose names hold no match are left as they are.
        rank: Keeps of the difference of each matrix of a block the best approximation of this rank
            only.

    Raises:
        ValueError: If the two differ in parameters, shapes or weight processing, or in nothing.
        ArgumentError: If the rank is below 1, or `only` is no regular expression.

    Source: task vectors, arXiv:2212.04089; with `rank`, as LoRA is extracted from checkpoints.
    """
    base, tuned = as_model(base), as_model(tuned)
    rank = None if rank is None else as_int("rank", rank)
    if rank is not None and rank < 1:
        raise ArgumentError(f"rank={rank}: a change of that rank changes nothing. Use 1 or more.")
    try:
        wanted = re.compile(only)
    except re.error as error:
        raise ArgumentError(
            f"only={only!r} is not a regular expression ({error}). Write e.g. "
            r"'blocks\.3\.' for all of block 3."
        ) from None
    require_comparable(base, tuned)
    before, after = dict(base.wrapped.named_parameters()), dict(tuned.wrapped.named_parameters())
    changes, held = [], every_matrix(base) if rank is not None else {}
    for name, weight in before.items():
        other = after[name].to(weight.device)
        if wanted.search(name) and not torch.equal(weight, other):
            delta = other.float() - weight.float()
            kept = Dense(delta)
            if rank is not None and name in held:
                kept = _of_rank(held[name], delta, rank)
            changes.append(WeightChange(name, kept))
    if not changes:
        where = f" in parameters that match {only!r}" if only else ""
        raise ValueError(
            f"{base.name!r} and {tuned.name!r} have the same weights{where}: there is no delta. "
            "Give the tuned checkpoint as the second one."
        )
    return Composition(tuple(changes), f"weight_delta({base.name!r}, {tuned.name!r})")


def _of_rank(matrix: Matrix, delta: Tensor, rank: int) -> LowRank:
    """The nearest change of a rank of a matrix."""
    u, s, v = torch.linalg.svd(matrix.flat(delta), full_matrices=False)
    return matrix.low_rank(u[:, :rank] * s[:rank], v[:rank])


def require_comparable(base: Model, tuned: Model) -> None:
    """Raises ValueError unless two models have the same parameters, processed alike."""
    one, other = parameter_shapes(base.wrapped), parameter_shapes(tuned.wrapped)
    if one != other:
        names = sorted(n for n in one.keys() | other.keys() if one.get(n) != other.get(n))
        shown = ", ".join(f"{n}: {one.get(n)} and {other.get(n)}" for n in names[:3])
        raise ValueError(
            f"{base.name!r} and {tuned.name!r} are of different architectures: {len(names)} "
            f"parameters differ in shape or are in one only ({shown}). Give two checkpoints of one "
            "architecture, loaded in the same way."
        )
    if base.processing != tuned.processing:
        raise ValueError(
            f"{base.name!r} has {base.processing!r} weights and {tuned.name!r} "
            f"{tuned.processing!r}: their difference is not that of the checkpoints. Load both in "
            "the same way, e.g. with Model.load."
        )


@torch.no_grad()
def merged(model: Model, intervention: Intervention, multiplier: float = 1.0) -> Model:
    """A copy of a model in whose weights an intervention stands for good, to be saved or exported.

    Args:
        intervention: One that changes weights only: a LoRA, a delta, a baked vector.

    Raises:
        ValueError: If it changes something else, or does not fit the model.
        TypeError: If the multiplier is not one number.
    """
    model = as_model(model)
    strength = one_multiplier(strength_of(multiplier), repr(intervention))
    changes = intervention.changes(model) if isinstance(intervention, Composed) else ()
    weights = [change for change in changes if isinstance(change, WeightChange)]
    if not weights or len(weights) < len(changes):
        raise ValueError(
            f"{intervention!r:.200} does not change weights alone, so it cannot stand in them. "
            "Merge changes of weights; a vector at all tokens becomes one by baked(model, add)."
        )
    wrapped = copy.deepcopy(model.wrapped)
    own = dict(wrapped.named_parameters())
    for name, change in new_weights(weights, strength).items():
        if name not in own:
            raise ValueError(f"{intervention!r:.200} changes {name!r}, which the model lacks.")
        own[name].copy_(change(own[name].detach()))
    return Model(wrapped, model.name, None, model.prepend_bos)
