"""How long does the effect of a recommended cell last, and does the text hold?

    steerlens run experiments/survival.py                                   # sentiment, reference world
    steerlens run experiments/survival.py --contrast reviews/register
    steerlens run experiments/survival.py --model smollm2-135m-instruct --contrast sentiment
    steerlens run experiments/survival.py --model smollm2-135m-instruct --contrast she_he

A vector (DiffMean) is added at one layer, from the prompt's end on, at the length that ordinary texts
show to be within the budget of KL, and at two and four times that length. Prompts of the reporting
questions are continued as far as the context allows, or to 512 tokens, steered and unsteered. Unsteered
texts after the prompts of the choosing questions set the limits beyond which a text is broken. At the
recommended length texts are also written for which steering is switched off.

On the reference model the true reader reads: the oracle, clause by clause. "she_he" is read by words,
other contrasts of SmolLM2 by the log-likelihood ratio of the contrast's own contexts.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from steerlens.analyses.confirmation.readers import WordReader
from steerlens.analyses.survival.measure_survival import survival
from steerlens.analyses.survival.text_survival import TextSurvival
from steerlens.cli import run_file
from steerlens.data import ContrastSet
from steerlens.data.near_duplicates import text_groups
from steerlens.experiment import Experiment, Inputs, Workplace
from steerlens.experiment.experiment_data import ExperimentError, first_prompts, load_data
from steerlens.interventions import Add
from steerlens.measures.divergence import divergence
from steerlens.measures.equal_cost import lengths_within_budget
from steerlens.measures.ordinary_texts import given_or_written, text_halves
from steerlens.measures.reading import activations
from steerlens.models.model import Model
from steerlens.protocols import Scorer
from steerlens.results import Result
from steerlens.sites import Positions
from steerlens.stats import interval_of_mean
from steerlens.testbed.pole_readers import PoleReader

DATA = Path(__file__).parent / "data"
FILES = ("sentiment", "she_he", "weddings")
"""Contrasts of experiments/data, by the start of the files' names."""
LAYERS = {
    "reviews/sentiment": 4, "reviews/register": 5, "reviews/truth": 4,
    "sentiment": 20, "she_he": 24, "weddings": 29,
}  # fmt: skip
"""The layer that a map of all layers recommends (docs/prediction.md, docs/smollm2.md)."""
READERS: dict[str, Callable[[], Scorer]] = {
    "reviews/sentiment": lambda: PoleReader("sentiment"),
    "reviews/register": lambda: PoleReader("register"),
    "reviews/truth": lambda: PoleReader("truth"),
    "she_he": lambda: WordReader(
        ("she", "her", "hers", "herself"), ("he", "him", "his", "himself")
    ),
}


@dataclass(frozen=True, kw_only=True)
class SurvivalExperiment(Experiment):
    """How long does the effect of a recommended cell last, and does the text hold?"""

    layer: int | None = None
    """Where the vector is added; by default the recommended layer of a contrast that is known here."""
    strengths: tuple[float, ...] = (1.0, 2.0, 4.0)
    """Multiples of the length that is within the budget."""
    budget: float = 0.1
    """Nats of KL per token."""
    prompts: int | None = None
    """Prompts that are continued: by default 16, and 96 on the reference model."""
    n_questions: int | None = None
    """Most questions to choose and to report on: by default 24, and 96 on the reference model."""
    n_neutral: int = 32
    """Ordinary texts: half of them for the length, half for the cost that is reported."""
    new_tokens: int | None = None
    """By default 512, and 48 on the reference model, whose context is 96."""
    window: int | None = None
    """Tokens that are read at once: by default 32, and 8 on the reference model."""
    steered: int | None = None
    """Tokens after which steering is switched off: by default two windows."""
    switch_off: bool = True
    """Whether texts are also written for which the first strength is switched off."""

    kind: ClassVar[str] = "survival"
    results: ClassVar[tuple[type[Result], ...]] = (TextSurvival,)

    def load(self, model: Model) -> Inputs:
        if self.layer is None and self.contrast not in LAYERS:
            raise ExperimentError(
                f"No recommended layer of {self.contrast!r} is known here. Give one: --layer 12."
            )
        world = self.contrast.startswith("reviews/")
        files: list[str | None] = [self.contrast, None]
        if self.contrast in FILES:
            files = [str(DATA / f"{self.contrast}_{part}.jsonl") for part in ("fit", "questions")]
        count = self.n_questions or (96 if world else 24)
        sizes = (self.n_fit, count, count)
        neutral = None if world else str(DATA / "neutral.txt")
        data = load_data(str(files[0]), files[1], sizes, self.n_neutral, self.seed, neutral)
        parts = {"fit": data.fit, "choose": data.choose, "report": data.report}
        return Inputs(data=parts, stated={"neutral": list(data.neutral)})

    def measure(self, run: Workplace[Inputs]) -> None:
        run.compute(TextSurvival, lambda: self.found(run))

    def found(self, run: Workplace[Inputs]) -> TextSurvival:
        """The texts, and what they cost on ordinary ones."""
        model, data = run.model, run.inputs.data
        world = self.contrast.startswith("reviews/")
        layer = LAYERS[self.contrast] if self.layer is None else self.layer
        texts = run.inputs.stated["neutral"]
        if world:  # documents that the model writes itself
            texts, _ = given_or_written(model, self.n_neutral, self.seed, run.cells)
        for_length, for_cost = text_halves(texts)
        read = activations(model, data["fit"], [layer], progress=False)
        direction = read.direction(layer, self.method)
        positions = Positions.from_prompt_end()
        (length,) = lengths_within_budget(
            model, [direction], for_length, budget=self.budget, positions=positions, progress=False
        )
        edit = Add(direction, positions, length)
        kl = divergence(model, for_cost, [edit], (0.0, *self.strengths), progress=False)[0, 1:]
        new, window = self.new_tokens or (48 if world else 512), self.window or (8 if world else 32)
        room = new + 24 if world else new  # for a context as well
        prompts = first_prompts(model, data["report"], self.prompts or (96 if world else 16), room)
        groups = text_groups(prompts)  # one prompt of each: it is the unit
        prompts = [p for i, p in enumerate(prompts) if groups[i] not in groups[:i]]
        others = first_prompts(model, _without(data["choose"], prompts), 96 if world else 24, room)
        reader = READERS.get(self.contrast)
        steered = self.steered or 2 * window if self.switch_off else None
        found = survival(
            model, {f"layer {layer}": edit}, self.strengths, prompts, data["fit"], limits=others,
            reader=reader and reader(), new_tokens=new, window=window,
            steered=steered, switched=self.strengths[:1], seed=self.seed,
            progress=run.progress, cells=run.cells,
        )  # fmt: skip
        cost = {
            f"{m:g}": str(interval_of_mean(row)) for m, row in zip(self.strengths, kl, strict=True)
        }
        return replace(found, made_by={**found.made_by, "length": float(length), "kl": cost})


def _without(pairs: ContrastSet, prompts: list[str]) -> ContrastSet:
    return ContrastSet(pairs.name, tuple(pair for pair in pairs if pair.prompt not in prompts))


experiment = SurvivalExperiment()

if __name__ == "__main__":
    sys.exit(run_file(Path(__file__), sys.argv[1:]))
