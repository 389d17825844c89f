"""At which layers can a contrast be read?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from steerlens.analyses.probe.measure_probe import probe
from steerlens.analyses.probe.probe_map import ProbeMap
from steerlens.directions.methods import Logistic
from steerlens.experiment.experiment import Experiment
from steerlens.experiment.experiment_data import stating
from steerlens.experiment.fields import MethodField, require_at_least
from steerlens.experiment.workplace import Inputs, Workplace
from steerlens.results import Result


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
    results: ClassVar[tuple[type[Result], ...]] = (ProbeMap,)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(2, folds=self.folds)
        require_at_least(1, controls=self.controls)

    def measure(self, run: Workplace[Inputs]) -> None:
        """Reads the pairs at every site and fits a probe there."""
        pairs = run.inputs.data["fit"]
        read = run.activations(pairs, self.sites(run.model))
        run.compute(
            ProbeMap,
            lambda: stating(
                probe(
                    read, self.method, folds=self.folds, controls=self.controls, seed=self.seed,
                    progress=run.progress,
                ),
                data_name=pairs.name,
            ),
        )  # fmt: skip
