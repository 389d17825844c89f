"""The same directions, asked other questions: do they work elsewhere, and what else do they move?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analyses.answers import Answers
from steerlens.analyses.generalisation.shifted_map import ShiftedMap
from steerlens.analyses.side_effects.spillover_map import SpilloverMap
from steerlens.data import ContrastSet
from steerlens.directions import Direction
from steerlens.directions.methods import Random
from steerlens.interventions.residual import Add
from steerlens.measures.sweep import plan, sweep
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention
from steerlens.sites import Site
from steerlens.units import MULTIPLIERS, require_multipliers

Steering = Intervention | Direction
"""An intervention, or a direction for `Add` with its usual strength and positions."""
Rows = Sequence[Steering] | Mapping[str, Steering]
"""Interventions at different sites, which name them; or any, by the names they are given."""


def shifted(
    model: Model,
    interventions: Rows,
    home: ContrastSet,
    away: Mapping[str, ContrastSet],
    multipliers: Sequence[float] = MULTIPLIERS,
    *,
    progress: bool = True,
    done: Callable[[str, slice, Tensor], None] | None = None,
    have: Callable[[str, slice], Tensor | None] | None = None,
) -> ShiftedMap:
    """Steerability slopes on shifted prompts (another topic, register, template) against home.

    Args:
        home: Questions like those that the directions were made from; not those themselves, nor
            those that chose a layer.
        away: Sets by name: other questions, drawn independently of home's (of made-up data, with
            another seed), or home's own questions in the same order in another wording
            (`home.with_template(…)`, `home.with_chat(…)`), which are then compared one by one.
            Sets that mix questions which respond oppositely (negations) differ by their mix alone.
        multipliers: Strengths; must hold 0 and something above it.
        done: Called with (set, slice of questions, numbers) as they are finished.
        have: Gives numbers that a former run finished, or None.

    Raises:
        ValueError: For a set that shares some questions with home but is not home reworded, that
            made a direction, or that cannot be scored; all before the first sweep starts.

    Source: the shift test of Tan et al. 2024, arXiv:2407.12404, which fits under one system prompt
    and evaluates under others. Here per site, with intervals; what is shifted is up to the sets.
    """
    model = as_model(model)
    require_multipliers(multipliers)
    named = _named(interventions)
    if not away:
        raise ValueError("away is empty: give at least one set of shifted questions, by its name.")
    if home.name in away:
        raise ValueError(
            f"A set of `away` is called {home.name!r}, as home is. Call it by what is shifted."
        )
    matched = tuple(name for name, other in away.items() if _reworded(home, name, other))
    sets = {home.name: home, **away}
    _require_scorable(model, named, sets, multipliers)
    propensities = {
        name: sweep(
            model, asked, list(named.values()), multipliers,
            log_odds_only=True, progress=progress, **_saved(name, done, have),
        ).log_odds
        for name, asked in sets.items()
    }  # fmt: skip
    return ShiftedMap(
        answers=_answers(named, multipliers, propensities),
        home=home.name,
        matched=matched,
        made_by=_made_by(model, named, sets)
        | {"question": f"Does steering of {home.name} carry over to {', '.join(away)}?"},
    )


def spillover(
    model: Model,
    interventions: Rows,
    sets: Mapping[str, ContrastSet],
    multipliers: Sequence[float] = MULTIPLIERS,
    *,
    home: str | Mapping[str, str],
    nulls: int | Sequence[Sequence[Steering]] = 20,
    seed: int = 0,
    progress: bool = True,
    done: Callable[[str, slice, Tensor], None] | None = None,
    have: Callable[[str, slice], Tensor | None] | None = None,
) -> SpilloverMap:
    """What steering a concept does to the questions of others.

    Args:
        sets: Questions about every concept by its name, home among them; none that made a
            direction or chose a layer.
        multipliers: Strengths; must hold 0 and something above it.
        home: The set that the interventions are meant to move: one for all, or one for each name
            of `interventions`.
        nulls: How many maps of random directions, each as long as the real one, to hold the other
            concepts' gains against (at least 19); or such maps, each an intervention per row; 0
            for none.
        done: Called with (set, slice of questions, numbers) as they are finished.
        have: Gives numbers that a former run finished, or None.

    Raises:
        ValueError: For a home that is no set, nothing but home, a null for an intervention without
            a direction, or questions that cannot be scored; all before the first sweep starts.
    """
    model = as_model(model)
    require_multipliers(multipliers)
    named = _named(interventions)
    homes = _homes(home, tuple(named), sets)
    _require_different(sets)
    controls = _nulls(nulls, named, seed)
    rows = len(named)
    everything = [*named.values(), *(control for one in controls for control in one)]
    _require_scorable(model, named, sets, multipliers, controls)
    zero = list(multipliers).index(0.0)
    propensities: dict[str, Tensor] = {}
    null_gains = []
    for name, asked in sets.items():
        odds = sweep(
            model, asked, everything, multipliers,
            log_odds_only=True, progress=progress, **_saved(name, done, have),
        ).log_odds  # fmt: skip
        propensities[name] = odds[:rows].clone()
        null_gains.append((odds[rows:] - odds[rows:, zero, None]).mean(-1))
    return SpilloverMap(
        answers=_answers(named, multipliers, propensities),
        homes=homes,
        null_gains=_by_null(null_gains, len(controls), rows),
        matched=tuple(
            (one, other) for one, other in combinations(sets, 2) if _aligned(sets[one], sets[other])
        ),
        made_by=_made_by(model, named, sets)
        | {"question": f"What else does steering {', '.join(dict.fromkeys(homes))} move?"}
        | {"nulls": len(controls), "seed": seed},
    )


def _by_null(
    gains: list[Tensor], nulls: int, rows: int
) -> Float[Tensor, "null row multiplier set"]:
    return torch.stack(gains, -1).unflatten(0, (nulls, rows))


def _named(interventions: Rows) -> dict[str, Intervention]:
    given = interventions.values() if isinstance(interventions, Mapping) else interventions
    edits = [Add(one) if isinstance(one, Direction) else one for one in given]
    if not edits:
        raise ValueError(
            "There are no interventions, so nothing would be steered. Give at least one."
        )
    if isinstance(interventions, Mapping):
        return dict(zip(interventions, edits, strict=True))
    sites = [getattr(edit, "site", None) for edit in edits]
    names = [str(site) for site in sites]
    if None in sites or len(set(names)) < len(names):
        raise ValueError(
            f"The sites do not tell the interventions apart ({', '.join(names)}). "
            "Name them: {'name': intervention, …}."
        )
    return dict(zip(names, edits, strict=True))


def _homes(
    home: str | Mapping[str, str], rows: tuple[str, ...], sets: Mapping[str, ContrastSet]
) -> tuple[str, ...]:
    by_row = dict.fromkeys(rows, home) if isinstance(home, str) else dict(home)
    if set(by_row) != set(rows):
        raise ValueError(
            f"home names {', '.join(by_row)}, and the interventions are {', '.join(rows)}. Give "
            "each its home, or one for all."
        )
    if unknown := sorted(set(by_row.values()) - set(sets)):
        raise ValueError(
            f"home={unknown[0]!r} is not among the sets ({', '.join(sets) or 'none'}). Its questions "
            "are needed as well: what spills over is held against the gain at home."
        )
    if len(sets) < 2:
        raise ValueError(
            f"There is no set but {', '.join(sets)}, so there is nothing to spill over to. Give the "
            "questions of other concepts too."
        )
    return tuple(by_row[row] for row in rows)


def _require_different(sets: Mapping[str, ContrastSet]) -> None:
    for one, other in combinations(sets, 2):
        if sets[one].hash == sets[other].hash:
            raise ValueError(
                f"{one!r} and {other!r} are the same questions with the same answers, so all that "
                "one gains would count as spill-over on the other. Leave one of them out."
            )


def _reworded(home: ContrastSet, name: str, away: ContrastSet) -> bool:
    """Whether a set is home in another wording; refuses what is neither that nor independent."""
    if away.hash == home.hash:
        raise ValueError(
            f"{name!r} is the very set that is home, so nothing is shifted. Leave it out, or put "
            "it into another template: home.with_template(…)."
        )
    if _aligned(home, away):
        return True
    known = {key for pair in home for key in pair.keys}
    shared = sorted(known & {key for pair in away for key in pair.keys})
    if shared:
        raise ValueError(
            f"{name!r} and home share {len(shared)} questions (e.g. {shared[0]!r}), but are not the "
            "same questions in the same order, so they are neither independent nor comparable one "
            f"by one. Leave the shared ones out, away[{name!r}].without(home), or reword all of home "
            "with home.with_template(…)."
        )
    return False


def _aligned(one: ContrastSet, other: ContrastSet) -> bool:
    """Whether pair i of both is the same question, for all of them."""
    return len(one) == len(other) and all(
        set(a.keys) & set(b.keys) for a, b in zip(one, other, strict=True)
    )


def _require_scorable(
    model: Model,
    named: Mapping[str, Intervention],
    sets: Mapping[str, ContrastSet],
    multipliers: Sequence[float],
    controls: Sequence[Sequence[Intervention]] = (),
) -> None:
    """Whatever can be refused is, before any of the sets is swept."""
    made = {
        direction.data: row
        for row, edit in named.items()
        if isinstance(direction := getattr(edit, "direction", None), Direction) and direction.data
    }
    edits = [*named.values(), *(control for one in controls for control in one)]
    for name, asked in sets.items():
        if asked.hash in made:
            raise ValueError(
                f"The direction of {made[asked.hash]} was made from {name!r}, which would flatter "
                "it. Measure on other questions: ContrastSet.split()."
            )
        if len(asked) < 2:
            raise ValueError(
                f"{name!r} holds {len(asked)} question; an interval needs at least two. Add some."
            )
        plan(model, asked, edits, multipliers, log_odds_only=True)


def _nulls(
    nulls: int | Sequence[Sequence[Steering]], named: Mapping[str, Intervention], seed: int
) -> list[list[Intervention]]:
    if not isinstance(nulls, int):
        given = [
            [Add(edit) if isinstance(edit, Direction) else edit for edit in one] for one in nulls
        ]
        if any(len(one) != len(named) for one in given):
            raise ValueError(
                f"The null maps have {sorted({len(one) for one in given})} interventions, and there "
                f"are {len(named)} to hold them against. Give each map one per row."
            )
        count = len(given)
    else:
        given = [
            [
                _random_like(row, edit, seed + 1 + k * len(named) + i)
                for i, (row, edit) in enumerate(named.items())
            ]
            for k in range(nulls)
        ]
        count = nulls
    if 0 < count < 19 or count < 0:
        raise ValueError(
            f"{count} null maps cannot give a threshold at level 0.95: use at least 19, or 0 for none."
        )
    return given


def _random_like(row: str, edit: Any, seed: int) -> Intervention:
    """The same intervention along a random direction of the same length."""
    direction = getattr(edit, "direction", None)
    if not isinstance(direction, Direction) or not is_dataclass(edit):
        raise ValueError(
            f"{row} ({type(edit).__name__}) has no direction to put a random one in place of. Give "
            "null maps yourself (nulls=[[…], …]), or nulls=0 for none."
        )
    vector = Random(seed)(direction.vector[None], torch.zeros_like(direction.vector)[None])
    turned = replace(direction, vector=vector, method=repr(Random(seed)))
    return replace(edit, direction=turned)  # type: ignore[type-var]


def _saved(
    name: str,
    done: Callable[[str, slice, Tensor], None] | None,
    have: Callable[[str, slice], Tensor | None] | None,
) -> dict[str, Any]:
    return {
        "label": name,
        "done": None if done is None else partial(done, name),
        "have": None if have is None else partial(have, name),
    }


def _answers(
    named: Mapping[str, Intervention], multipliers: Sequence[float], propensities: dict[str, Tensor]
) -> Answers:
    sites = [getattr(edit, "site", None) for edit in named.values()]
    return Answers(
        rows=tuple(named),
        sites=tuple(site if isinstance(site, Site) else None for site in sites),
        multipliers=torch.tensor(multipliers, dtype=torch.float32),
        propensities=propensities,
    )


def _made_by(
    model: Model, named: Mapping[str, Intervention], sets: Mapping[str, ContrastSet]
) -> dict[str, Any]:
    return {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "processing": model.processing,
        "bos": model.prepend_bos,
        "interventions": {row: repr(edit) for row, edit in named.items()},
        "sets": {name: asked.hash for name, asked in sets.items()},
        "sources": {name: asked.source for name, asked in sets.items()},
    }
