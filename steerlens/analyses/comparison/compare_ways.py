"""Makes ways of adapting a model and measures them on the same data at equal cost."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import SupportsFloat

import torch
from torch import Tensor

from steerlens.analyses.comparison.concept_numbers import (
    Afterwards,
    ConceptNumbers,
    Nearness,
    Writings,
)
from steerlens.analyses.comparison.making import Making, make_way
from steerlens.analyses.comparison.measure_way import (
    AFTER,
    Numbers,
    afterwards,
    at_factors,
    continued,
    goes_on,
    left_behind,
    multiplier_at,
    on_others,
    per_token,
    per_written_token,
    size_of,
    towards_target,
    written,
    written_in_context,
)
from steerlens.analyses.comparison.way_comparison import WayComparison
from steerlens.analyses.comparison.way_data import Way
from steerlens.analyses.comparison.way_section import IN_CONTEXT, UNSTEERED
from steerlens.analyses.comparison.way_task import WayTask
from steerlens.analyses.comparison.ways import way_named
from steerlens.arguments import as_positive
from steerlens.interventions.changes import WeightChange
from steerlens.interventions.together import changes_of
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention
from steerlens.store.cells import Cells, cells_or_none
from steerlens.training.trained_intervention import TrainedIntervention
from steerlens.units import BUDGET, require_multipliers

FACTORS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
"""Multiples of the multiplier that costs the budget; KL grows about as their square."""
OWN = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""Multipliers of the ways themselves; 1 is what was trained."""
SAMPLES = 3
_WRITES = "written/"
_OTHER = "other/"


def compare_ways(
    model: Model,
    ways: Mapping[str, Way] | Sequence[str],
    tasks: Sequence[WayTask],
    making: Making,
    *,
    budget: SupportsFloat = BUDGET,
    factors: Iterable[SupportsFloat] = FACTORS,
    multipliers: Iterable[SupportsFloat] = OWN,
    progress: bool = True,
    cells: Cells | None = None,
) -> WayComparison:
    """Makes every way for every task and repetition, and measures it.

    Each way is made of the same pairs; its multiplier that costs the budget is found on the
    calibrating texts, the one that comes nearest to the ideal on the choosing texts, and everything
    is reported on other examples. A way that leaves something behind changes the model for the ways
    after it: name it last.

    Args:
        ways: By name, or names that `way_named` knows.
        tasks: One for each concept, with equally many repetitions.
        budget: Nats of KL per token of ordinary text.
        factors: Multiples of the multiplier that costs the budget, 0 and 1 among them.
        multipliers: The ways' own, along which nearness to the ideal is measured.
        cells: Where finished ways are kept and found; by default nowhere.

    Raises:
        WayError: If there is no such way, or a task does not have what it needs.
        ValueError: If a way does not fit the model, or tasks differ in their repetitions.
    """
    model = as_model(model)
    named = dict(ways) if isinstance(ways, Mapping) else {name: way_named(name) for name in ways}
    cost = as_positive("budget", budget)
    at = require_multipliers(factors)
    own = require_multipliers(multipliers)
    if 1.0 not in at:
        raise ValueError(f"factors={at} has no 1.0, at which the budget is spent. Add 1.0.")
    if not named or not tasks:
        raise ValueError("There is nothing to compare. Give at least one way and one task.")
    if len({task.repeats for task in tasks}) > 1:
        counts = ", ".join(f"{task.concept} {task.repeats}" for task in tasks)
        raise ValueError(f"Tasks differ in their repetitions ({counts}). Give each as many.")
    kept = cells_or_none(cells, "ways", progress)

    def numbers_of(name: str, task: WayTask, repeat: int, cells: Cells) -> Numbers:
        """What one way, made once, comes to; finished parts of it are not measured again."""
        make = functools.cache(
            functools.partial(make_way, model, named[name], name, task, repeat, making)
        )
        found = cells.compute(repeat, lambda: _measured(model, make, task, cost, at, own))
        if not goes_on(model, task):
            return found
        m = float(found["multiplier"])
        # A part of its own, so that runs go on that were begun before it was measured.
        return found | cells.part("afterwards").compute(
            repeat, lambda: afterwards(model, make()[0], task, m)
        )

    numbers, facts, samples = {}, {}, {}
    total = len(tasks) * tasks[0].repeats * len(named)
    with kept.bar(total, "way") as bar:
        for task in tasks:
            base = _unsteered(model, task, kept.part(task.concept))
            made: dict[str, list[Numbers]] = {}
            for name, way in named.items():
                made[name] = []
                unit = kept.part(task.concept).part(name, way=repr(way))
                for repeat in range(task.repeats):
                    made[name].append(numbers_of(name, task, repeat, unit))
                    bar.update()
                facts.setdefault(name, made[name][0]["facts"])
            numbers[task.concept] = _numbers(task, list(made.values()), base, at.index(0.0), own)
            if not samples and task.prompts:
                samples = _samples(model, task, base, {n: m[0] for n, m in made.items()})
    each = torch.stack(list(facts.values()))
    return WayComparison(
        ways=tuple(named),
        settings=tuple(repr(way) for way in named.values()),
        concepts=tuple(task.concept for task in tasks),
        budget=cost,
        factors=torch.tensor(at),
        multipliers=torch.tensor(own),
        numbers=numbers,
        parameters=each[:, 0],
        stored=each[:, 1],
        changes_weights=each[:, 2].bool(),
        trained=each[:, 3].bool(),
        pairs=len(tasks[0].fit[0]),
        samples=samples,
        sample_prompts=tasks[0].prompts[:SAMPLES] if samples else (),
        made_by={
            **model.facts,
            "question": "What does each way of adapting the model gain, break, take and leave?",
            "site": str(making.site),
            "steps": making.steps,
            "batch": making.batch,
            "rates": list(making.rates),
            "seed": making.seed,
            "readers": [name for name in tasks[0].readers],
        },
    )


def _measured(
    model: Model,
    make: Callable[[], tuple[Intervention, float]],
    task: WayTask,
    budget: float,
    factors: tuple[float, ...],
    own: tuple[float, ...],
) -> Numbers:
    """Makes one way and takes its numbers."""
    arm, seconds = make()
    multiplier = multiplier_at(model, arm, task.calibrating, budget)
    found: Numbers = {
        "facts": _facts(model, arm),
        "seconds": torch.tensor([seconds]),
        "multiplier": torch.tensor([multiplier]),
        **towards_target(model, arm, task, own, multiplier),
    }
    some = 1.0 if multiplier != multiplier else multiplier
    found |= left_behind(model, arm, task, some) | per_token(model, arm, task, some)
    found |= per_written_token(model, arm, task, some)
    rest = {
        **at_factors(model, arm, task, some, factors),
        **on_others(model, arm, task, some),
        **written(model, arm, task, some),
    }
    if multiplier != multiplier:  # nothing costs the budget: shapes without numbers
        rest = {
            key: torch.full_like(x, -1 if key == "tokens" else torch.nan) for key, x in rest.items()
        }
    return found | rest


def _facts(model: Model, arm: Intervention) -> Tensor:
    count, stored = size_of(arm)
    weights = any(isinstance(change, WeightChange) for change in changes_of(arm, model) or ())
    return torch.tensor([count, stored, int(weights), int(isinstance(arm, TrainedIntervention))])


def _unsteered(model: Model, task: WayTask, cells: Cells) -> dict[str, Numbers]:
    """What the model writes by itself, and after contexts."""
    if not task.prompts:
        return {}
    alone = cells.part("unsteered").compute("alone", lambda: written(model, None, task, 0.0))
    found = {UNSTEERED: alone}
    if task.contexts:
        found[IN_CONTEXT] = cells.part("unsteered").compute(
            "in-context", lambda: written_in_context(model, task)
        )
    return found


def _numbers(
    task: WayTask,
    made: list[list[Numbers]],
    base: Mapping[str, Numbers],
    zero: int,
    own: tuple[float, ...],
) -> ConceptNumbers:
    """The numbers of one concept, put together.

    Args:
        zero: The index of the factor 0.
    """

    def every(key: str) -> Tensor:
        return torch.stack([torch.stack([one[key] for one in way]) for way in made])

    odds, utility = every("odds"), every("utility")
    nearness = None
    if task.reached is not None and task.target is not None:
        chosen = every("choosing").mean(-1).argmin(-1)  # [way, repeat]
        reached, unsteered = every("reached"), made[0][0]["unsteered"]
        reached[:, :, own.index(0.0)] = unsteered  # each way rounds it in its own manner
        index = chosen[..., None, None].expand(*chosen.shape, 1, reached.shape[-1])
        nearness = Nearness(
            unsteered=unsteered,
            curve=reached,
            at_best=reached.gather(2, index)[:, :, 0],
            at_budget=every("reached_at"),
            best=torch.tensor(own)[chosen],
            groups=task.reached.groups,
        )
    writings = None
    if task.prompts:
        names = list(task.readers)
        writings = Writings(
            steered={name: every(_WRITES + name) for name in names},
            unsteered={name: base[UNSTEERED][_WRITES + name] for name in names},
            in_context={
                name: base[IN_CONTEXT][_WRITES + name] for name in names if IN_CONTEXT in base
            },
        )
    return ConceptNumbers(
        budget_multiplier=every("multiplier")[..., 0],
        kl=every("kl"),
        gain=odds - odds[:, :, zero, None],
        utility=utility - utility[:, :, zero, None],
        question_groups=task.report.groups,
        others={name: every(_OTHER + name) for name in task.others},
        other_groups={name: asked.groups for name, asked in task.others.items()},
        seconds=every("seconds")[..., 0],
        overhead=every("overhead")[..., 0],
        token=every("token")[..., 0] if task.prompts else None,
        left=every("left")[..., 0],
        merged=every("merged")[..., 0],
        nearness=nearness,
        writings=writings,
        afterwards=Afterwards(*map(every, AFTER)) if AFTER[0] in made[0][0] else None,
    )


def _samples(
    model: Model, task: WayTask, base: Mapping[str, Numbers], made: Mapping[str, Numbers]
) -> dict[str, tuple[str, ...]]:
    """The first texts of the first concept, by what wrote them."""
    prompts = list(task.prompts[:SAMPLES])
    return {
        name: tuple(continued(model, prompts, one["tokens"][:SAMPLES]))
        for name, one in {**base, **made}.items()
    }
