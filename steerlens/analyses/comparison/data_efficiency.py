"""Makes ways of few pairs and of many, and measures what each gains at equal cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import SupportsFloat

import torch

from steerlens.analyses.comparison.data_curve import DataCurve
from steerlens.analyses.comparison.making import Making, make_way
from steerlens.analyses.comparison.measure_way import Numbers, at_factors, multiplier_at
from steerlens.analyses.comparison.way_data import Way
from steerlens.analyses.comparison.way_task import WayTask
from steerlens.analyses.comparison.ways import way_named
from steerlens.arguments import as_int, as_positive
from steerlens.models.model import Model, as_model
from steerlens.store.cells import Cells, cells_or_none
from steerlens.units import BUDGET

SIZES = (1, 2, 4, 8, 16, 32, 64)


def data_efficiency(
    model: Model,
    ways: Mapping[str, Way] | Sequence[str],
    task: WayTask,
    making: Making,
    sizes: Sequence[int] = SIZES,
    *,
    budget: SupportsFloat = BUDGET,
    progress: bool = True,
    cells: Cells | None = None,
) -> DataCurve:
    """The gain at equal cost of every way made of so many pairs.

    Each size takes the first pairs of the task, for directions as for training, and no others: nothing
    is held out to stop by, so that all steps are taken. A batch is not larger than the pairs.

    Args:
        ways: By name, or names that `way_named` knows.
        sizes: Pairs, each at least 1 and at most those of the task.
        cells: Where finished ways are kept and found; by default nowhere.

    Raises:
        ValueError: If a size is less than 1 or more than there are, or a way does not fit the model.
        WayError: If there is no such way, or so few pairs do not allow it.
    """
    model = as_model(model)
    named = dict(ways) if isinstance(ways, Mapping) else {name: way_named(name) for name in ways}
    counts = tuple(sorted({as_int("sizes", size, least=1) for size in sizes}))
    cost = as_positive("budget", budget)
    most = min(len(part) for part in (*task.fit, *task.texts))
    if not named or not counts or counts[-1] > most:
        raise ValueError(
            f"sizes={counts} of {len(named)} ways, and {task.concept} has {most} pairs. Give at least "
            "one way, and sizes up to that."
        )
    kept = cells_or_none(cells, "data", progress)
    rows = []
    with kept.bar(len(named) * len(counts) * task.repeats, "way") as bar:
        for name, way in named.items():
            for size in counts:
                unit = kept.part(name, way=repr(way)).part(str(size))
                for repeat in range(task.repeats):
                    rows.append(
                        unit.compute(
                            repeat,
                            lambda way=way, name=name, size=size, repeat=repeat: _gains(
                                model, way, name, task, size, repeat, making, cost
                            ),
                        )
                    )
                    bar.update()
    shape = (len(named), len(counts), task.repeats)
    return DataCurve(
        ways=tuple(named),
        sizes=counts,
        concept=task.concept,
        budget=cost,
        values=torch.stack([row["gain"] for row in rows]).view(*shape, -1),
        multiplier=torch.cat([row["multiplier"] for row in rows]).view(shape),
        groups=tuple(str(group) for group in task.report.groups),
        made_by={
            **model.facts,
            "question": "How many pairs does each way need?",
            "settings": {name: repr(way) for name, way in named.items()},
            "site": str(making.site),
            "steps": making.steps,
            "batch": making.batch,
            "seed": making.seed,
            "data": task.report.hash,
        },
    )


def _gains(
    model: Model, way: Way, name: str, task: WayTask, size: int, repeat: int, making: Making,
    budget: float,
) -> Numbers:  # fmt: skip
    """The gain on every question, and the multiplier at which it was taken."""
    some = dataclasses.replace(
        task,
        texts=tuple(part[:size] for part in task.texts),
        fit=tuple(part[:size] for part in task.fit),
        validation=(None,) * task.repeats,
    )
    own = dataclasses.replace(making, batch=min(making.batch, size), folder=None)
    arm, _ = make_way(model, way, name, some, repeat, own)
    multiplier = multiplier_at(model, arm, task.calibrating, budget)
    if multiplier != multiplier:
        gain = torch.full((len(task.report),), torch.nan)
    else:
        odds = at_factors(model, arm, task, multiplier, (0.0, 1.0))["odds"]
        gain = odds[1] - odds[0]
    return {"gain": gain, "multiplier": torch.tensor([multiplier])}
