"""How far one intervention can be pushed: preference and utility over many strengths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import SupportsFloat, SupportsIndex

import torch

from steerlens.analyses.question_splits import question_groups
from steerlens.analyses.validity.validity_fit import ValidityFit, fit_validity, require_enough
from steerlens.arguments import as_float, as_floats, as_int
from steerlens.data import ContrastPair, ContrastSet
from steerlens.interventions.arms import Steering, named_arms, require_fits, site_of
from steerlens.measures import scores
from steerlens.measures.scores import Per
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model, as_model
from steerlens.results.grid import steering_of
from steerlens.store.cells import Cells, cells_or_none


def strengths(furthest: SupportsFloat, count: SupportsIndex = 17) -> tuple[float, ...]:
    """Evenly spaced multipliers from -furthest to furthest, with 0 among them.

    >>> strengths(2.0, 5)
    (-2.0, -1.0, 0.0, 1.0, 2.0)
    """
    furthest, count = as_float("furthest", furthest), as_int("count", count)
    if count % 2 == 0 or count < 3:
        raise ValueError(f"count={count} must be an odd number of at least 3, so that 0 is in it.")
    half = count // 2
    return tuple(furthest * (k / half) for k in range(-half, half + 1))


def decay(
    model: Model,
    intervention: Steering,
    pairs: Sequence[ContrastPair] | ContrastSet,
    multipliers: Iterable[SupportsFloat],
    *,
    per: Per = "answer",
    row: str | None = None,
    progress: bool = True,
    cells: Cells | None = None,
) -> ValidityFit:
    """Preference and utility at many strengths of one intervention, with validity-decay curves.

    Args:
        intervention: An intervention of any kind.
        multipliers: At least 9, four or more of either sign (`strengths` gives some).
        per: Whether the log-probabilities of an answer are summed or averaged over its tokens.
        row: The name of the intervention; by default its site or its type.
        cells: Where finished units of work are kept and found; nothing is kept by default.

    Raises:
        ValueError: For too few multipliers, an intervention that does not fit the model, or
            questions that cannot be scored. All of this is raised before the sweep.

    Source: arXiv:2602.02343, sections 2.2 and 2.3; for departures see `fit_validity`.
    """
    model = as_model(model)
    multipliers = as_floats("multipliers", multipliers)
    require_enough(torch.tensor(multipliers))
    named = named_arms([intervention] if row is None else {row: intervention})
    require_fits(model, named)
    ((name, edit),) = named.items()
    swept = sweep(model, pairs, [edit], multipliers, cells=cells_or_none(cells, "decay", progress))
    utility = scores.utility(swept, per=per)
    data = pairs if isinstance(pairs, ContrastSet) else None
    return fit_validity(
        torch.tensor(swept.multipliers, dtype=torch.float32),
        scores.preference(swept, per=per)[0],
        utility.value[0],
        clamped=utility.clamped[0],
        groups=question_groups(pairs),
        row=name,
        site=site_of(edit),
        made_by={
            **model.facts,
            "question": f"How far can {steering_of(name, site_of(edit))} be pushed?",
            "intervention": repr(edit),
            "per": per,
            "data": None if data is None else data.hash,
            "data_name": None if data is None else data.name,
        },
    )
