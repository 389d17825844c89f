"""Do vectors cost more that lead further from the stream's own distribution?

    steerlens run experiments/manifold.py                                  # the reference model
    steerlens run experiments/manifold.py --model smollm2-135m-instruct    # topics and two contrasts

Every vector is added at the same lengths relative to the stream's norm. Beside the vectors of contrasts
there are random directions and principal components of the stream.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prediction import PredictionExperiment

from steerlens.analyses.manifold.measure_distance import stream_distance
from steerlens.analyses.manifold.stream_distance import StreamDistance
from steerlens.cli import run_file
from steerlens.data import ContrastSet
from steerlens.directions import Direction
from steerlens.experiment import Experiment, Inputs, Workplace
from steerlens.measures.ordinary_texts import ordinary_texts
from steerlens.measures.reading import activations
from steerlens.models.model import Model
from steerlens.results import Result
from steerlens.testbed.grammar import CONCEPTS

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class ManifoldExperiment(Experiment):
    """Does distance from the stream's own distribution predict what a vector costs?"""

    at: tuple[int, ...] = ()
    """Layers that are steered; by default each of the reference model, and every sixth of others."""
    lengths: tuple[float, ...] = (0.1, 0.2, 0.4)
    """Of the vectors, in median norms of the stream."""
    draws: int = 3
    """How often each concept of the reference world is drawn."""
    n_fit: int = 48
    n_texts: int = 192
    """Texts that the model writes; the covariance is fitted to half of them."""
    n_cost: int = 24
    """Texts of the other half on which the cost is measured."""
    n_questions: int = 16
    randoms: int = 4
    components: tuple[int, ...] = (1, 2, 10, -10, -1)

    kind: ClassVar[str] = "manifold"
    results: ClassVar[tuple[type[Result], ...]] = (StreamDistance,)

    def load(self, model: Model) -> Inputs:
        return Inputs(data={})

    def measure(self, run: Workplace[Inputs]) -> None:
        model = run.model
        layers = self.at or tuple(range(0, model.n_layers, 1 if model.name == "reviews" else 6))
        directions: dict[str, list[Direction]] = {}
        asked: ContrastSet | None = None
        for name, (fit, questions) in self.contrasts(model).items():
            read = activations(model, fit, layers, progress=run.progress)
            directions[name] = list(read.directions(self.method))
            asked = asked or questions.subset(self.n_questions, self.seed)
        texts = ordinary_texts(
            model, self.n_texts, seed=self.seed, progress=run.progress,
            cells=run.cells.part("ordinary"),
        )  # fmt: skip
        # Draws of one concept are named "concept 1", "concept 2", …
        drawn = model.name == "reviews"
        concepts = {name: name.rpartition(" ")[0] for name in directions} if drawn else {}
        run.compute(
            StreamDistance,
            lambda: stream_distance(
                model, directions, texts, asked, concepts=concepts, lengths=self.lengths,
                randoms=self.randoms, components=self.components, cost_texts=self.n_cost,
                progress=run.progress, cells=run.cells.part("manifold"),
            ),
        )  # fmt: skip

    def contrasts(self, model: Model) -> dict[str, tuple[ContrastSet, ContrastSet]]:
        """Contexts of every contrast, and questions; as in experiments/prediction.py."""
        study = PredictionExperiment(n_fit=self.n_fit, seed=self.seed)
        if model.name == "reviews":
            cases = [(concept, draw) for concept in CONCEPTS for draw in range(self.draws)]
            made = {f"{c} {d + 1}": study.of_the_world(model, c, d) for c, d in cases}
        else:
            made = {name: study.on_topic(model, name) for name in study.topics}
        return {name: (fit, report) for name, (_, fit, _, report) in made.items()}


experiment = ManifoldExperiment()

if __name__ == "__main__":
    sys.exit(run_file(Path(__file__), sys.argv[1:]))
