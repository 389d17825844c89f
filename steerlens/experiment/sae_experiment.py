"""Which SAE features steer, against DiffMean and against chance, at equal cost?"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, get_args

import torch

from steerlens.analyses.features.compare_features import (
    UTILITY_DROP,
    compare_features,
    require_settings,
)
from steerlens.analyses.probe.measure_probe import probe
from steerlens.directions.methods import DiffMean
from steerlens.experiment.experiment_data import ExperimentError, load_data
from steerlens.experiment.former_experiment import Experiment
from steerlens.experiment.run import Run, begin, finish, is_finished, read_manifest
from steerlens.measures.activation_store import ActivationStore
from steerlens.measures.tokenised import questions as scorable
from steerlens.models.model import Model
from steerlens.saes.sae import SAE
from steerlens.sites import Positions, Rule
from steerlens.store.cells import Cells
from steerlens.units import BUDGET


@dataclass(frozen=True, kw_only=True)
class SAEExperiment(Experiment):
    """Which SAE features steer towards a contrast, at equal cost with DiffMean and with chance?"""

    saes: str = "reviews"
    """"reviews" (the SAEs that ship with the reference model), a folder of SAEs, or a release."""
    sae_ids: tuple[str, ...] = ()
    """Which SAEs of a release; none for the other two."""
    questions: str | None = None
    """A file of prompts with two answers to score; None takes them from `contrast`."""
    positions: Rule = "from_prompt_end"
    """Which tokens are steered."""
    budget: float = BUDGET
    """KL that every arm costs, in nats per token of ordinary text."""
    utility_drop: float = UTILITY_DROP
    """Utility that every arm costs in the second comparison, in nats."""
    k: int = 3
    """Candidates of each arm."""
    targeted: int = 128
    """Vectors from which SAE-TS learns its effects; 0 leaves it out."""
    nulls: int = 20
    """Searches among random features and directions; at least 19, or 0 for no p-values."""
    n_choose: int = 64
    """Most questions to choose on."""
    n_report: int = 64
    """Most questions to report on."""
    n_neutral: int = 64
    """Most ordinary texts for the cost; half set the lengths and half report."""

    kind: ClassVar[str] = "sae"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positions not in get_args(Rule) or self.positions in ("answer", "span"):
            raise ExperimentError(
                f"positions={self.positions!r} cannot be steered by name. "
                "Use all, last, from_prompt_end or generated."
            )
        if repr(self.method) != repr(DiffMean()):
            raise ExperimentError(
                f"method={self.method!r}: features are compared with DiffMean. Compare other methods "
                "by SteerabilityExperiment."
            )
        try:
            require_settings(
                budget=self.budget, utility_drop=self.utility_drop, targeted=self.targeted,
                nulls=self.nulls, k=self.k,
            )  # fmt: skip
        except ValueError as error:
            raise ExperimentError(str(error)) from error

    def load_saes(self, model: Model) -> tuple[SAE, ...]:
        """The SAEs, where and in the precision in which the model computes; each checked to fit.

        Raises:
            SAEError: If one cannot be read, or was made for another model.
            ExperimentError: If there is none at the asked layers.
        """
        where: dict[str, Any] = {"device": model.device, "dtype": getattr(torch, self.dtype)}
        if self.sae_ids:
            found = [SAE.load(self.saes, name, **where) for name in self.sae_ids]
        elif self.saes == "reviews":
            layers = self.layers or range(model.n_layers)
            found = [SAE.load(f"reviews/{layer}", **where) for layer in layers]
        else:
            root = Path(self.saes)
            folders = sorted(path.parent for path in root.glob("**/cfg.json"))
            if not folders:
                raise ExperimentError(
                    f"{self.saes!r} is neither 'reviews' nor a folder that holds SAEs. For a "
                    "published release, name its SAEs: sae_ids=(…)."
                )
            found = [SAE.load(folder, **where) for folder in folders]
        if self.layers is not None:
            found = [one for one in found if one.site.layer in self.layers]
        if not found:
            raise ExperimentError(f"{self.saes!r} has no SAE at layers {self.layers}.")
        for one in found:
            one.require_fits(model)
        return tuple(sorted(found, key=lambda one: one.site.layer))

    def run(
        self, results: Path | str = "results", *, name: str | None = None, progress: bool = True
    ) -> Run:
        """Finds, calibrates, chooses, reports, and writes a folder with a report page."""
        model = self.load_model()
        saes = self.load_saes(model)
        data = load_data(
            self.contrast, self.questions, (self.n_fit, self.n_choose, self.n_report),
            self.n_neutral, self.seed,
        )  # fmt: skip
        for asked in (data.choose, data.report):
            scorable(model, asked)
        parts = {"fit": data.fit, "choose": data.choose, "report": data.report}
        used = {d.site.hook: {"name": d.name, "hash": d.hash} for d in saes}
        folder = begin(self, model, parts, results, name, saes=used)
        if is_finished(folder, read_manifest(folder)):
            return finish(folder)
        store = ActivationStore(folder / "activations")
        sites = [one.site for one in saes]
        read = store.activations(model, data.fit, sites, progress=progress)
        found = probe(read, seed=self.seed, progress=progress)
        named = {**found.made_by, "data_name": data.fit.name}
        dataclasses.replace(found, made_by=named).save(folder)
        compare_features(
            model, saes, read, data.choose, data.report, k=self.k, neutral=data.neutral,
            budget=self.budget, utility_drop=self.utility_drop,
            positions=getattr(Positions, self.positions)(), nulls=self.nulls,
            targeted=self.targeted, seed=self.seed, progress=progress,
            cells=Cells(folder / "cells", "comparison"),
        ).save(folder)  # fmt: skip
        return finish(folder)
