"""The answers to several sets of questions under the same interventions.

Slopes on shifted questions and gains on other concepts are both read from these numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens import stats
from steerlens.data import ContrastSet
from steerlens.interventions.arms import require_fits
from steerlens.measures.sweep import plan
from steerlens.models.model import Model
from steerlens.protocols import Directed, Intervention
from steerlens.results import RowResult
from steerlens.results.grid import find_multiplier
from steerlens.sites import Site

Bounds = tuple[Tensor, Tensor, Tensor]
"""Value, low and high."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Answers(RowResult):
    """Propensity of every set's questions, for every intervention (row) and multiplier."""

    rows: tuple[str, ...]
    """The name of each intervention."""
    sites: tuple[Site | None, ...]
    """Where each intervention acts; None where that is not one site."""
    multipliers: Float[Tensor, " multiplier"]
    propensities: Mapping[str, Float[Tensor, "row multiplier _example"]]
    """Log-odds of the positive over the negative answer, in nats, by the name of the set."""
    groups: Mapping[str, Int[Tensor, " _example"]] = field(default_factory=dict)
    """The group of each question, by the name of the set; a set that is missing here has a group
    for each question. The group is the unit of every interval."""
    made_by: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.rows), len(self.multipliers))
        for name, odds in self.propensities.items():
            if odds.shape[:2] != shape:
                raise ValueError(
                    f"The propensities of {name!r} have shape {tuple(odds.shape)}, and there are "
                    f"{shape[0]} rows x {shape[1]} multipliers."
                )

    @property
    def sets(self) -> tuple[str, ...]:
        """The names of the sets of questions."""
        return tuple(self.propensities)

    def of(self, name: str) -> Float[Tensor, "row multiplier _example"]:
        """The propensities of one set.

        Raises:
            ValueError: If there is no such set.
        """
        if name not in self.propensities:
            raise ValueError(f"There is no set {name!r}. There are {', '.join(self.sets)}.")
        return self.propensities[name]

    def gains(self, name: str) -> Float[Tensor, "row multiplier _example"]:
        """Propensity minus the unsteered propensity, in nats, for every question of a set."""
        odds = self.of(name)
        return odds - odds[:, find_multiplier(self.multipliers, 0.0), None]

    def groups_of(self, name: str) -> stats.Groups:
        """The group of each question of a set; None where each is a group."""
        return self.groups.get(name)

    def slopes(self, name: str) -> Float[Tensor, "row _example"]:
        """Steerability of every question of a set: nats of propensity per unit multiplier."""
        return stats.steerability_slope(self.multipliers, self.of(name).mT)


def interval_at(bounds: Bounds, *index: int) -> stats.Interval:
    """One cell's value with its interval."""
    return stats.Interval(*(float(part[index]) for part in bounds))


def as_lists(bounds: Bounds) -> tuple[list, list, list]:
    """Value, low and high as a figure takes them."""
    value, low, high = (torch.as_tensor(part).tolist() for part in bounds)
    return value, low, high


def groups_of_sets(sets: Mapping[str, ContrastSet]) -> dict[str, Int[Tensor, " _example"]]:
    """The groups of the questions of every set, as numbers."""
    return {name: stats.group_numbers(asked.groups) for name, asked in sets.items()}


def rows_made_by(
    model: Model, arms: Mapping[str, Intervention], sets: Mapping[str, ContrastSet]
) -> dict[str, Any]:
    """What decided the numbers: the model, the interventions and the questions."""
    return {
        **model.facts,
        "interventions": {row: repr(edit) for row, edit in arms.items()},
        "sets": {name: asked.hash for name, asked in sets.items()},
        "sources": {name: asked.source for name, asked in sets.items()},
    }


def same_questions(one: ContrastSet, other: ContrastSet) -> bool:
    """Whether pair i of both sets is the same question, for all of them."""
    return len(one) == len(other) and all(
        set(a.keys) & set(b.keys) for a, b in zip(one, other, strict=True)
    )


def require_scorable(
    model: Model,
    arms: Mapping[str, Intervention],
    sets: Mapping[str, ContrastSet],
    multipliers: Sequence[float],
    controls: Sequence[Intervention] = (),
) -> None:
    """Raises ValueError, before the first sweep, if a set cannot be scored or made a direction.

    Args:
        controls: Interventions of null maps, which are swept as well.
    """
    require_fits(model, arms)
    made = {
        edit.direction.data: row
        for row, edit in arms.items()
        if isinstance(edit, Directed) and edit.direction.data
    }
    for name, asked in sets.items():
        if asked.hash in made:
            raise ValueError(
                f"The direction of {made[asked.hash]} was made from {name!r}, so its effect on "
                "these questions is biased upwards. Measure it on other questions: "
                "ContrastSet.split()."
            )
        if len(asked) < 2:
            raise ValueError(
                f"{name!r} holds {len(asked)} question, and an interval needs at least two. Add "
                "some."
            )
        plan(model, asked, [*arms.values(), *controls], multipliers)
