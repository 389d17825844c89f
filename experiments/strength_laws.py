"""Which law does steering follow over its strength? Costs, preferences and tokens, far past the budget.

    steerlens run experiments/strength_laws.py                                  # the reference world
    steerlens run experiments/strength_laws.py --model smollm2-135m-instruct    # nine contrasts
    steerlens run experiments/strength_laws.py --model smollm2-135m-instruct --topics sentiment
    steerlens run experiments/strength_laws.py --draws 1 --layers 2 --layers 5  # a short look

A case is a contrast. A DiffMean vector is added at each layer, and a random direction beside it, both
at 25 strengths of which 1 costs the budget. The data are those of experiments/prediction.py.
"""

import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prediction import FILES, TOPICS, Case, PredictionExperiment

from steerlens.analyses.strength_laws.law_comparison import LawComparison
from steerlens.analyses.strength_laws.measure_laws import compare_laws, law_strengths
from steerlens.cli import run_file
from steerlens.directions.methods import Random
from steerlens.experiment import Experiment, Inputs, Workplace
from steerlens.measures.reading import activations
from steerlens.models.model import Model
from steerlens.results import Result, ResultError
from steerlens.sites import Site
from steerlens.store.cells import Cells

_log = logging.getLogger("steerlens.strength_laws")
THIRDS = 3
"""Layers of a model other than the reference model where none are given: at each third of its depth."""


@dataclass(frozen=True, kw_only=True)
class StrengthLawsExperiment(Experiment):
    """Which law does steering follow over its strength?"""

    draws: int = 1
    """How often each concept of the reference world is drawn."""
    topics: tuple[str, ...] = (*FILES, *list(TOPICS)[:6])
    """Contrasts of models other than the reference model."""
    n_fit: int = 48
    n_questions: int = 32
    """Questions of each contrast; half of them look for bumps, and the others confirm them."""
    n_neutral: int = 20
    """Ordinary texts, half of them for the lengths."""
    budget: float = 0.1
    """Nats of KL per token at multiplier 1."""
    furthest: float = 8.0
    strengths: int = 25

    kind: ClassVar[str] = "strength laws"
    results: ClassVar[tuple[type[Result], ...]] = (LawComparison,)

    def load(self, model: Model) -> Inputs:
        self._data().load(model)
        law_strengths(self.furthest, self.strengths)
        return Inputs(data={})

    def measure(self, run: Workplace[Inputs]) -> None:
        found = []
        for case in self._data().cases(run.model):
            folder = run.folder / "cases" / case.name.replace(" ", "-")
            try:
                found.append(LawComparison.load(folder))
            except ResultError:
                started = time.process_time()
                found.append(self.of(case, run.cells.part(case.name.replace(" ", "-"))))
                found[-1].save(folder)
                _log.info("%s: %.0f s", case.name, time.process_time() - started)
        run.keep(LawComparison.joined(found))

    def _data(self) -> PredictionExperiment:
        """The experiment whose contrasts are used."""
        return PredictionExperiment(
            model=self.model, seed=self.seed, draws=self.draws, planted=0, n_fit=self.n_fit,
            n_questions=self.n_questions // 2, topics=self.topics,
        )  # fmt: skip

    def of(self, case: Case, cells: Cells) -> LawComparison:
        """All strengths of one contrast."""
        model, fit, choose, report = case.make()
        asked = choose.merged(report, name=case.name)
        layers = range(model.n_layers) if self.layers is None else self.layers
        if self.layers is None and model.name != "reviews":
            step = (model.n_layers - 1) / THIRDS
            layers = [round(step * k) for k in range(1, THIRDS + 1)]
        sites = [Site(layer, self.stream) for layer in layers]
        read = activations(model, fit, sites, progress=False)
        return compare_laws(
            model, list(read.directions(self.method)), asked,
            controls=list(read.directions(Random(self.seed + 1))), neutral=self.n_neutral,
            multipliers=law_strengths(self.furthest, self.strengths), budget=self.budget,
            case=f"{case.name}, {model.name}", seed=self.seed, progress=False, cells=cells,
        )  # fmt: skip


experiment = StrengthLawsExperiment()

if __name__ == "__main__":
    sys.exit(run_file(Path(__file__), sys.argv[1:]))
