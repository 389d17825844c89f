"""At which layers can a contrast be read?"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from steerlens.analyses.probe.measure_probe import probe
from steerlens.directions.methods import Logistic
from steerlens.experiment.experiment_data import load_pairs
from steerlens.experiment.fields import MethodField
from steerlens.experiment.former_experiment import Experiment
from steerlens.experiment.run import Run, begin, finish
from steerlens.measures.activation_store import ActivationStore


@dataclass(frozen=True, kw_only=True)
class ProbingExperiment(Experiment):
    """At which layers can a contrast be read? Cross-validated by question, with a control."""

    folds: int = 5
    """Folds of the cross-validation."""
    controls: int = 5
    """Repetitions with shuffled labels."""
    method: MethodField = Logistic()
    """How the probe's direction is fitted."""

    kind: ClassVar[str] = "probing"

    def run(
        self, results: Path | str = "results", *, name: str | None = None, progress: bool = True
    ) -> Run:
        """Reads, probes, and writes a folder with results and a report page."""
        model = self.load_model()
        pairs = load_pairs(self.contrast, self.n_fit, self.seed)
        folder = begin(self, model, {"fit": pairs}, results, name)
        store = ActivationStore(folder / "activations")
        read = store.activations(model, pairs, self.sites(model), progress=progress)
        found = probe(
            read, self.method, folds=self.folds, controls=self.controls, seed=self.seed,
            progress=progress,
        )  # fmt: skip
        named = {**found.made_by, "data_name": pairs.name}
        dataclasses.replace(found, made_by=named).save(folder)
        return finish(folder)
