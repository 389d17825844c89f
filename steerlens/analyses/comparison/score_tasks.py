"""Makes ways for tasks with exact scores and takes the scores at equal cost and as trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import SupportsFloat

import torch
from torch import Tensor

from steerlens.analyses.comparison.exact_task import ExactTask
from steerlens.analyses.comparison.making import Making, make_way
from steerlens.analyses.comparison.measure_way import Numbers, multiplier_at
from steerlens.analyses.comparison.task_scores import AT, TaskNumbers, TaskScores
from steerlens.analyses.comparison.way_data import Way
from steerlens.analyses.comparison.ways import way_named
from steerlens.arguments import as_positive
from steerlens.directions import Direction
from steerlens.interventions import Add
from steerlens.measures.divergence import divergence
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention
from steerlens.store.cells import Cells, cells_or_none
from steerlens.units import BUDGET

_SCORE = "score/"


def score_tasks(
    model: Model,
    ways: Mapping[str, Way] | Sequence[str],
    tasks: Sequence[ExactTask],
    making: Making,
    *,
    budget: SupportsFloat = BUDGET,
    progress: bool = True,
    cells: Cells | None = None,
) -> TaskScores:
    """Makes every way for every task and repetition, and scores it.

    Each is scored twice: at the multiplier that costs the budget on ordinary texts, and at 1, as it
    was trained, whatever that costs.

    Args:
        ways: By name, or names that `way_named` knows.
        tasks: With equally many repetitions.
        budget: Nats of KL per token of ordinary text.
        cells: Where finished ways are kept and found; by default nowhere.

    Raises:
        WayError: If there is no such way, or a task does not have what it needs.
        ValueError: If a way does not fit the model, tasks differ in their repetitions, or there is
            nothing to score.
    """
    model = as_model(model)
    named = dict(ways) if isinstance(ways, Mapping) else {name: way_named(name) for name in ways}
    cost = as_positive("budget", budget)
    if not named or not tasks:
        raise ValueError("There is nothing to score. Give at least one way and one task.")
    if len({task.concept for task in tasks}) < len(tasks):
        raise ValueError("Two tasks have one name. Give each a name of its own.")
    if len({task.repeats for task in tasks}) > 1:
        counts = ", ".join(f"{task.concept} {task.repeats}" for task in tasks)
        raise ValueError(f"Tasks differ in their repetitions ({counts}). Give each as many.")
    kept = cells_or_none(cells, "tasks", progress)
    nothing = Add(Direction(torch.ones(model.cfg.d_model), making.site), unit=1.0)
    found = {}
    with kept.bar(len(tasks) * tasks[0].repeats * len(named), "way") as bar:
        for task in tasks:
            part = kept.part(task.concept)
            alone = part.part("alone").compute(
                "alone", lambda task=task: _scores(model, nothing, task, {"alone": 0.0})
            )
            made: list[list[Numbers]] = []
            for name, way in named.items():
                unit = part.part(name, way=repr(way))
                row = []
                for repeat in range(task.repeats):
                    row.append(
                        unit.compute(
                            repeat,
                            lambda way=way, name=name, task=task, repeat=repeat: _scored(
                                model, way, name, task, repeat, making, cost
                            ),
                        )
                    )
                    bar.update()
                made.append(row)
            found[task.concept] = _together(task, made, alone)
    return TaskScores(
        ways=tuple(named),
        tasks=tuple(found),
        budget=cost,
        numbers=found,
        made_by={
            **model.facts,
            "question": "What do ways of adapting the model reach on tasks with exact scores?",
            "settings": {name: repr(way) for name, way in named.items()},
            "site": str(making.site),
            "steps": making.steps,
            "batch": making.batch,
            "seed": making.seed,
        },
    )


def _scored(
    model: Model,
    way: Way,
    name: str,
    task: ExactTask,
    repeat: int,
    making: Making,
    budget: float,
) -> Numbers:
    """Makes one way and takes all its scores and costs."""
    arm, seconds = make_way(model, way, name, task, repeat, making)
    at_budget = multiplier_at(model, arm, task.calibrating, budget)
    known = at_budget == at_budget
    strengths = dict(zip(AT, (at_budget, 1.0), strict=True))
    asked = {at: m for at, m in strengths.items() if m == m}
    scores = _scores(model, arm, task, asked)
    kl = divergence(model, task.neutral, [arm], (0.0, *asked.values()), progress=False)[0, 1:]
    if not known:
        kl = torch.cat([torch.full_like(kl, torch.nan), kl])
        for score in task.scores:
            own = scores[f"{_SCORE}{AT[1]}/{score.name}"]
            scores[f"{_SCORE}{AT[0]}/{score.name}"] = torch.full_like(own, torch.nan)
    return {
        **scores,
        "kl": kl,
        "multiplier": torch.tensor([at_budget]),
        "seconds": torch.tensor([seconds]),
    }


def _scores(
    model: Model, arm: Intervention, task: ExactTask, strengths: Mapping[str, float]
) -> Numbers:
    """Every score at some multipliers, as "score/<at>/<name>" [example]."""
    found = {}
    for measure in task.measures:
        for at, multiplier in strengths.items():
            for name, values in measure(model, arm, multiplier).items():
                found[f"{_SCORE}{at}/{name}"] = values
    return found


def _together(task: ExactTask, made: list[list[Numbers]], alone: Numbers) -> TaskNumbers:
    def every(key: str) -> Tensor:
        return torch.stack([torch.stack([one[key] for one in row]) for row in made])

    return TaskNumbers(
        scores={
            score.name: torch.stack([every(f"{_SCORE}{at}/{score.name}") for at in AT], 2)
            for score in task.scores
        },
        alone={score.name: alone[f"{_SCORE}alone/{score.name}"] for score in task.scores},
        groups={score.name: score.groups for score in task.scores},
        units={score.name: score.unit for score in task.scores},
        shares={score.name: score.share for score in task.scores},
        meanings={score.name: score.meaning for score in task.scores},
        kl=every("kl"),
        multiplier=every("multiplier")[..., 0],
        seconds=every("seconds")[..., 0],
    )
