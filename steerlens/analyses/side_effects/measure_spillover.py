"""What steering one concept does to the questions about other concepts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import SupportsFloat, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analyses.answers import (
    groups_of_sets,
    require_scorable,
    rows_made_by,
    same_questions,
)
from steerlens.analyses.side_effects.null_maps import null_maps
from steerlens.analyses.side_effects.spillover_map import SpilloverMap
from steerlens.arguments import as_int
from steerlens.data import ContrastSet
from steerlens.interventions.arms import Arms, named_arms, site_of
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention
from steerlens.store.cells import Cells, cells_or_none
from steerlens.units import MULTIPLIERS, require_multipliers


def spillover(
    model: Model,
    arms: Arms,
    sets: Mapping[str, ContrastSet],
    multipliers: Iterable[SupportsFloat] = MULTIPLIERS,
    *,
    target: str | Mapping[str, str],
    nulls: SupportsIndex | Sequence[Arms] | None = None,
    unrelated: Mapping[str, Arms] | None = None,
    seed: SupportsIndex = 0,
    progress: bool = True,
    cells: Cells | None = None,
) -> SpilloverMap:
    """Gains of steering one concept on questions about this and other concepts.

    Args:
        arms: Interventions of any kind: the rows of the map.
        sets: Questions about every concept by its name, those about the target among them; none
            that made a direction or chose a layer.
        multipliers: Strengths, among them 0 and one above 0.
        target: The set that the interventions are meant to move: one for all, or one for each name
            of `arms`.
        nulls: Null maps, with which the gains on other concepts are compared: how many maps of
            random directions as long as the real ones (at least 19); or the maps themselves, each
            with an intervention per row; or 0 for a map without p-values. By default 20 maps of
            random directions where every intervention is along a direction (`Directed`), and else
            none.
        unrelated: By the name of another set, interventions along that concept's own directions,
            one in the place of each of `arms`: they are asked about the target, which a good
            direction moves further than they do.
        seed: Of the random directions.
        cells: Where finished units of work are kept and found; nothing is kept by default.

    Raises:
        ValueError: For an intervention that does not fit the model, a target that is no set, fewer
            than two sets, null maps that cannot be made, or questions that cannot be scored. All of
            this is raised before the first sweep.
    """
    model = as_model(model)
    multipliers, seed = require_multipliers(multipliers), as_int("seed", seed)
    named = named_arms(arms)
    targets = _targets(target, tuple(named), sets)
    _require_different(sets)
    others = _unrelated(unrelated or {}, tuple(named), targets, sets)
    controls = null_maps(nulls, named, seed)
    require_scorable(model, named, sets, multipliers, controls.interventions)
    kept = cells_or_none(cells, "spillover", progress)
    require_scorable(model, named, {targets[0]: sets[targets[0]]}, multipliers, others)
    everything = [*named.values(), *controls.interventions]
    zero, rows = multipliers.index(0.0), len(named)
    propensities: dict[str, Tensor] = {}
    null_gains = []
    for name, asked in sets.items():
        odds = sweep(
            model, asked, everything, multipliers, log_odds_only=True, cells=kept.part(name)
        ).log_odds
        propensities[name] = odds[:rows].clone()
        null_gains.append((odds[rows:] - odds[rows:, zero, None]).mean(-1))
    by_concept = {}
    if others:
        odds = sweep(
            model, sets[targets[0]], others, multipliers, log_odds_only=True,
            cells=kept.part("unrelated"),
        ).log_odds  # fmt: skip
        by_concept = dict(zip(unrelated or {}, odds.split(rows), strict=True))
    return SpilloverMap(
        rows=tuple(named),
        sites=tuple(map(site_of, named.values())),
        multipliers=torch.tensor(multipliers, dtype=torch.float32),
        propensities=propensities,
        groups=groups_of_sets(sets),
        targets=targets,
        null_gains=_by_null(null_gains, len(controls.maps), rows),
        unrelated=by_concept,
        matched=tuple(
            (one, other)
            for one, other in combinations(sets, 2)
            if same_questions(sets[one], sets[other])
        ),
        made_by=rows_made_by(model, named, sets)
        | {"question": f"What else does steering {', '.join(dict.fromkeys(targets))} move?"}
        | {"nulls": len(controls.maps), "null": controls.what, "seed": seed},
    )


def _unrelated(
    given: Mapping[str, Arms],
    rows: tuple[str, ...],
    targets: tuple[str, ...],
    sets: Mapping[str, ContrastSet],
) -> list[Intervention]:
    """The interventions along other concepts' directions, concept after concept.

    Raises:
        ValueError: If a concept is the target or no set, there is not one intervention per row, or
            rows have different targets.
    """
    if given and len(set(targets)) > 1:
        raise ValueError(
            "unrelated= compares directions on one target, and the rows have several. Measure the "
            "rows of each target by themselves."
        )
    found: list[Intervention] = []
    for name, arms in given.items():
        if name not in sets or name in targets:
            raise ValueError(
                f"unrelated names {name!r}, and the other sets are "
                f"{', '.join(one for one in sets if one not in targets)}. Name one of them."
            )
        edits = list(named_arms(arms).values())
        if len(edits) != len(rows):
            raise ValueError(
                f"unrelated[{name!r}] has {len(edits)} interventions for the {len(rows)} rows. Give "
                "one for each."
            )
        found += edits
    return found


def _by_null(
    gains: list[Tensor], nulls: int, rows: int
) -> Float[Tensor, "null row multiplier set"]:
    return torch.stack(gains, -1).unflatten(0, (nulls, rows))


def _targets(
    target: str | Mapping[str, str], rows: tuple[str, ...], sets: Mapping[str, ContrastSet]
) -> tuple[str, ...]:
    """The target of every row."""
    by_row = dict.fromkeys(rows, target) if isinstance(target, str) else dict(target)
    if set(by_row) != set(rows):
        raise ValueError(
            f"target names {', '.join(by_row)}, and the interventions are {', '.join(rows)}. Give "
            "each of them its target, or one target for all."
        )
    if unknown := sorted(set(by_row.values()) - set(sets)):
        raise ValueError(
            f"target={unknown[0]!r} is not among the sets ({', '.join(sets) or 'none'}). Add its "
            "questions: gains on other concepts are compared with the gain on the target."
        )
    if len(sets) < 2:
        raise ValueError(
            f"{', '.join(sets)} is the only set, so no other concept can be measured. Add questions "
            "about other concepts."
        )
    return tuple(by_row[row] for row in rows)


def _require_different(sets: Mapping[str, ContrastSet]) -> None:
    for one, other in combinations(sets, 2):
        if sets[one].hash == sets[other].hash:
            raise ValueError(
                f"{one!r} and {other!r} are the same questions with the same answers, so every gain "
                "on one would count as spill-over on the other. Leave one of them out."
            )
