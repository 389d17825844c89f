"""Steerability slopes on shifted questions: does steering carry over?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import SupportsFloat

import torch

from steerlens.analyses.answers import (
    groups_of_sets,
    require_scorable,
    rows_made_by,
    same_questions,
)
from steerlens.analyses.generalisation.shifted_map import ShiftedMap
from steerlens.data import ContrastSet
from steerlens.interventions.arms import Arms, named_arms, site_of
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model, as_model
from steerlens.store.cells import Cells, cells_or_none
from steerlens.units import MULTIPLIERS, require_multipliers


def shifted(
    model: Model,
    arms: Arms,
    in_distribution: ContrastSet,
    shifted: Mapping[str, ContrastSet],
    multipliers: Iterable[SupportsFloat] = MULTIPLIERS,
    *,
    progress: bool = True,
    cells: Cells | None = None,
) -> ShiftedMap:
    """Steerability slopes on shifted questions (another topic, register, template).

    Args:
        arms: Interventions of any kind: the rows of the map.
        in_distribution: Questions like those that the interventions were made from, but neither
            those themselves nor those that chose a layer.
        shifted: Sets by name. Each holds other questions, drawn independently of those in
            distribution (of made-up data: with another seed); or the questions in distribution, in
            the same order, in another wording (`in_distribution.with_template(…)` or
            `.with_chat(…)`), which are then compared one by one. The slopes of two sets also differ
            if their shares of negated questions differ.
        multipliers: Strengths, among them 0 and one above 0.
        cells: Where finished units of work are kept and found; nothing is kept by default.

    Raises:
        ValueError: For an intervention that does not fit the model, or a set that cannot be scored,
            that made a direction, or that shares some questions with `in_distribution` without
            being a rewording of it. All of this is raised before the first sweep.

    Source: the shift test of Tan et al. 2024, arXiv:2407.12404, which fits under one system prompt
    and evaluates under others. Departure: any set can be the shifted one, and every slope has an
    interval.
    """
    model = as_model(model)
    multipliers = require_multipliers(multipliers)
    named = named_arms(arms)
    if not shifted:
        raise ValueError(
            "shifted is empty. Give at least one set of shifted questions by its name."
        )
    if in_distribution.name in shifted:
        raise ValueError(
            f"A set of `shifted` has the name {in_distribution.name!r}, which is the name of the "
            "set in distribution. Name it by what is shifted."
        )
    matched = tuple(
        name for name, other in shifted.items() if _is_reworded(in_distribution, name, other)
    )
    sets = {in_distribution.name: in_distribution, **shifted}
    require_scorable(model, named, sets, multipliers)
    kept = cells_or_none(cells, "shift", progress)
    propensities = {
        name: sweep(
            model, asked, list(named.values()), multipliers,
            log_odds_only=True, cells=kept.part(name),
        ).log_odds
        for name, asked in sets.items()
    }  # fmt: skip
    listed = ", ".join(shifted)
    return ShiftedMap(
        rows=tuple(named),
        sites=tuple(map(site_of, named.values())),
        multipliers=torch.tensor(multipliers, dtype=torch.float32),
        propensities=propensities,
        groups=groups_of_sets(sets),
        in_distribution=in_distribution.name,
        matched=matched,
        made_by=rows_made_by(model, named, sets)
        | {"question": f"Does steering of {in_distribution.name} carry over to {listed}?"},
    )


def _is_reworded(original: ContrastSet, name: str, other: ContrastSet) -> bool:
    """Whether a set asks the same questions in another wording.

    Raises:
        ValueError: If it neither does that nor is independent.
    """
    if other.hash == original.hash:
        raise ValueError(
            f"{name!r} is the same set as in_distribution, so nothing is shifted. Leave it out, or "
            "put it into a template: in_distribution.with_template(…)."
        )
    if same_questions(original, other):
        return True
    known = {key for pair in original for key in pair.keys}
    shared = sorted(known & {key for pair in other for key in pair.keys})
    if shared:
        raise ValueError(
            f"{name!r} and in_distribution share {len(shared)} questions (e.g. {shared[0]!r}), but "
            "are not the same questions in the same order, so they are neither independent nor "
            f"comparable one by one. Take the shared ones out, shifted[{name!r}].without("
            "in_distribution), or reword all questions with in_distribution.with_template(…)."
        )
    return False
