"""Makes one way of the data of one concept or task."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from steerlens.analyses.comparison.way_data import Way, WayData, WayError
from steerlens.data import ContrastSet
from steerlens.interventions.arms import require_fit
from steerlens.models.model import Model
from steerlens.protocols import Intervention
from steerlens.sites import Site
from steerlens.store.cells import Cells
from steerlens.training.objectives.match_distribution import TargetDistribution
from steerlens.training.trained_intervention import TrainedIntervention


@dataclass(frozen=True, kw_only=True)
class Making:
    """How ways are made, the same for all."""

    site: Site
    steps: int = 60
    batch: int = 16
    rates: tuple[float, ...] = (1.0,)
    seed: int = 0
    """Of the first repetition; the others count on."""
    folder: Path | None = None
    """Where trained ways are saved, to be loaded again; None for nowhere."""


@runtime_checkable
class Material(Protocol):
    """What ways are made of: a `WayTask` or an `ExactTask`."""

    @property
    def concept(self) -> str: ...
    @property
    def texts(self) -> tuple[ContrastSet, ...]: ...
    @property
    def fit(self) -> tuple[ContrastSet, ...]: ...
    @property
    def validation(self) -> tuple[ContrastSet | None, ...]: ...
    @property
    def target(self) -> TargetDistribution | None: ...


def make_way(
    model: Model, way: Way, name: str, task: Material, repeat: int, making: Making
) -> tuple[Intervention, float]:
    """The intervention and the processor seconds that it took.

    Raises:
        WayError: If the data do not allow the way, or it makes no intervention.
        ValueError: If the intervention does not fit the model.
    """
    data = WayData(
        model=model, texts=task.texts[repeat], fit=task.fit[repeat],
        validation=task.validation[repeat], site=making.site, target=task.target,
        steps=making.steps, batch=making.batch, rates=making.rates, seed=making.seed + repeat,
        progress=False,
    )  # fmt: skip
    started = time.process_time()
    try:
        arm = way(data)
    except WayError as error:
        raise WayError(f"{name}: {error}") from error
    seconds = time.process_time() - started
    if not isinstance(arm, Intervention):
        raise WayError(
            f"{name} made {arm!r:.80}, which is not an intervention: it has no attach(model, "
            "multiplier). Return one."
        )
    require_fit(model, arm)
    if making.folder is not None and isinstance(arm, TrainedIntervention):
        folder = Cells(making.folder).part(task.concept).part(name).part(str(repeat)).folder
        assert folder is not None  # it is below making.folder
        arm.save(folder)
    return arm, seconds
