"""What two preferences do together, over their weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import SupportsFloat

import torch

from steerlens.analyses.preferences.tradeoff_curve import TradeoffCurve
from steerlens.arguments import ArgumentError, as_floats, as_positive
from steerlens.data.contrast_set import PairsLike, as_contrast_set
from steerlens.data.near_duplicates import text_groups
from steerlens.interventions.arms import require_fits
from steerlens.measures.divergence import divergence
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention
from steerlens.store.cells import Cells, cells_or_none
from steerlens.training.preference_vector import combined

SHARES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


@torch.no_grad()
def preference_tradeoff(
    model: Model,
    vectors: Mapping[str, Intervention],
    pairs: Mapping[str, PairsLike],
    texts: Sequence[str],
    *,
    shares: Iterable[SupportsFloat] = SHARES,
    size: SupportsFloat = 1.0,
    progress: bool = True,
    cells: Cells | None = None,
) -> TradeoffCurve:
    """Both preferences' gains while weight moves from the first to the second.

    The model is θ₀ + size · ((1 - share) φ_first + share φ_second).

    Args:
        vectors: Two preference vectors by name; any two interventions.
        pairs: For each name the pairs on which it is measured, none of them trained on.
        texts: Ordinary texts for KL.
        shares: Of the second preference.
        cells: Where finished units are kept and found; by default nowhere.

    Raises:
        ArgumentError: If there are not two vectors, or not pairs for both.
        ValueError: If a vector does not fit the model.

    Source: arXiv:2504.20106 (weights at use).
    """
    model = as_model(model)
    if len(vectors) != 2 or set(pairs) != set(vectors):
        raise ArgumentError(
            f"A trade-off is between two preferences with pairs for each; got vectors "
            f"{list(vectors)} and pairs {list(pairs)}."
        )
    require_fits(model, vectors)
    points = tuple(sorted(set(as_floats("shares", shares))))
    scale = as_positive("size", size)
    if len(points) < 2:
        raise ArgumentError(f"shares={points} are no curve. Give at least two, e.g. (0, 0.5, 1).")
    names = tuple(vectors)
    mixtures = [
        combined(vectors, {names[0]: scale * (1 - share), names[1]: scale * share})
        for share in points
    ]
    kept = cells_or_none(cells, "tradeoff", progress)
    sets = {name: as_contrast_set(pairs[name]) for name in names}
    gains = []
    for name in names:
        swept = sweep(
            model, sets[name], mixtures, (0.0, 1.0), progress=progress, cells=kept.part(name)
        )
        gains.append(swept.log_odds[:, 1] - swept.log_odds[:, 0])
    kl = divergence(model, texts, mixtures, (0.0, 1.0), progress=progress, cells=kept.part("kl"))[
        :, 1
    ]
    return TradeoffCurve(
        preferences=(names[0], names[1]),
        shares=torch.tensor(points),
        first=gains[0],
        second=gains[1],
        kl=kl,
        groups=(sets[names[0]].groups, sets[names[1]].groups),
        text_groups=tuple(text_groups(list(texts))),
        made_by={
            **model.facts,
            "question": "What does one preference cost the other?",
            "size": scale,
            "vectors": {name: repr(vector) for name, vector in vectors.items()},
            "data": {name: one.hash for name, one in sets.items()},
        },
    )
