"""Where will steering work? Numbers of each layer before it is steered, against what steering does.

    steerlens run experiments/prediction.py                                  # the reference world
    steerlens run experiments/prediction.py --model smollm2-135m-instruct    # topics and two contrasts
    steerlens run experiments/prediction.py --draws 1 --planted 2            # a short look
    steerlens run experiments/prediction.py --model FOLDER --topics data/price data/topic

A case is a model and a contrast. For each one, every predictor is taken of every layer without
steering; then a vector is added at each layer at the length that costs the budget. Its gain, direct and
mediated, is measured on other questions, and the share that it writes on their prompts. With the
reference model there are its four concepts, drawn `draws` times, and `planted` models whose live layers
are known. With any other model there are contrasts of topics, from system prompts, of the files in
experiments/data, and of your own: data/price stands for data/price_fit.jsonl and
data/price_questions.jsonl.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from steerlens.analyses.confirmation.contexts import Contexts
from steerlens.analyses.confirmation.measure_written import confirm_in_writing
from steerlens.analyses.prediction.predict_layers import predict_layers
from steerlens.analyses.prediction.prediction_study import PredictionStudy
from steerlens.analyses.prediction.predictors import PREDICTORS
from steerlens.cli import run_file
from steerlens.data import ContrastPair, ContrastSet
from steerlens.data.formats.chat import render_chat
from steerlens.experiment import Experiment, Inputs, Workplace
from steerlens.experiment.experiment_data import ExperimentError, first_prompts, load_data
from steerlens.interventions.arms import layer_family, site_of
from steerlens.measures import scores
from steerlens.measures.direct_gain import direct_gain
from steerlens.measures.equal_cost import lengths_within_budget
from steerlens.measures.ordinary_texts import given_or_written, text_halves
from steerlens.measures.reading import activations
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.protocols import Intervention
from steerlens.results import Cell, Result
from steerlens.sites import Positions
from steerlens.store.cells import cells_or_none
from steerlens.testbed.grammar import CONCEPTS
from steerlens.testbed.planted import planted_model, planted_pairs

_log = logging.getLogger("steerlens.prediction")
DATA = Path(__file__).parent / "data"
_PAIRS: dict[str, dict[str, list[str]]] = json.loads((DATA / "topics.json").read_text("utf-8"))
FIRST = tuple(_PAIRS["first"])
"""The contrasts of topics that this experiment measures, where none are named."""
TOPICS = {**_PAIRS["first"], **_PAIRS["more"]}
"""What the two system prompts talk about, and the words that are asked."""
REQUESTS = (
    "What should I do this weekend?", "Describe your morning.", "Tell me a story.", "What do you like?",
    "What did you dream of?", "Write about your day.", "What is on your mind?", "Give me some advice.",
    "What will you do tomorrow?", "Say something nice.", "What is new?", "How do you relax?",
    "What would you buy?", "Recommend me a book.",
)  # fmt: skip
ABOUT = (
    "your neighbor", "your friend", "your trip", "your letter", "your plans", "your uncle", "your week",
    "your house", "your picture", "your holiday", "your work", "your evening", "your boss",
    "your childhood", "your gift", "your visit", "your walk", "your news", "your party", "your garden",
)  # fmt: skip
OPENINGS = ("I remember the", "It was all about the", "We talked about the")


@dataclass(frozen=True)
class Case:
    """A model and a contrast."""

    name: str
    concept: str
    make: Callable[[], tuple[Model, ContrastSet, ContrastSet, ContrastSet]]
    """The model, the contexts, and the questions to choose and to report on."""
    writes: bool = True


@dataclass(frozen=True, kw_only=True)
class PredictionExperiment(Experiment):
    """Which numbers of a layer say how well it can be steered?"""

    draws: int = 3
    """How often each concept of the reference world is drawn."""
    planted: int = 12
    """Planted models beside the reference model."""
    n_fit: int = 48
    n_questions: int = 24
    """Questions to choose on, and as many to report on."""
    n_neutral: int = 16
    """Ordinary texts, half of them for the lengths."""
    topics: tuple[str, ...] = (*FIRST, "sentiment", "she over he", "weddings")
    """Contrasts of models other than the reference model: known ones, or the starts of two files."""
    budget: float = 0.1
    """Nats of KL per token."""
    written: int = 12
    """Prompts that are continued with the vector of every layer, for the share that is written; 0 for
    none. Planted models write nothing that could be read."""
    new_tokens: int = 16

    kind: ClassVar[str] = "prediction"
    results: ClassVar[tuple[type[Result], ...]] = (PredictionStudy,)

    def load(self, model: Model) -> Inputs:
        known = {*TOPICS, *FILES}
        unknown = [name for name in self.topics if name not in known and not all(
            Path(file).expanduser().exists() for file in _files(name)
        )]  # fmt: skip
        if unknown:
            raise ExperimentError(
                f"topics={unknown} are neither known nor the starts of two files, such as "
                f"{' and '.join(_files(unknown[0]))}. Known are {', '.join(sorted(known))}."
            )
        return Inputs(data={})

    def measure(self, run: Workplace[Inputs]) -> None:
        cases = self.cases(run.model)
        cells = run.cells.part("cases")
        found = []
        for case in cases:
            found.append(
                cells.compute(case.name.replace(" ", "-"), lambda case=case: self.of(case))
            )
            _log.info("%s: %.0f s", case.name, float(found[-1]["seconds"].sum()))
        most = max(one["effects"].shape[-1] for one in found)

        def padded(name: str) -> Tensor:
            rows = [one[name] for one in found]
            return torch.stack(
                [torch.nn.functional.pad(r, (0, most - r.shape[-1]), value=torch.nan) for r in rows]
            )

        run.keep(
            PredictionStudy(
                cases=tuple(case.name for case in cases),
                concepts=tuple(case.concept for case in cases),
                predictors=tuple(PREDICTORS),
                values=padded("values"),
                outcomes=("gain", "mediated", "direct", "written"),
                effects=padded("effects"),
                by_choosing=padded("chosen"),
                seconds=torch.stack([one["seconds"] for one in found]),
                made_by={**run.model.facts, "budget": self.budget, "method": repr(self.method)},
            )
        )

    def cases(self, model: Model) -> list[Case]:
        """All cases of the model."""
        if model.name != "reviews":
            return [
                Case(Path(name).name, Path(name).name, lambda name=name: self.on_topic(model, name))
                for name in self.topics
            ]
        found = [
            Case(
                f"{concept} {draw}",
                concept,
                lambda concept=concept, draw=draw: self.of_the_world(model, concept, draw),
            )
            for concept, draw in product(CONCEPTS, range(self.draws))
        ]
        places = [(write, read) for write in range(5) for read in range(write + 1, 6)]
        return found + [
            Case(
                f"planted {w}-{r}",
                f"planted {w}-{r}",
                lambda w=w, r=r: self.planted_at(w, r),
                writes=False,
            )
            for w, r in places[: self.planted]
        ]

    def of_the_world(
        self, model: Model, concept: str, draw: int
    ) -> tuple[Model, ContrastSet, ContrastSet, ContrastSet]:
        sizes = (self.n_fit, self.n_questions, self.n_questions)
        data = load_data(f"reviews/{concept}", None, sizes, 4, self.seed + 100 * draw)
        return model, data.fit, data.choose, data.report

    def planted_at(
        self, write: int, read: int
    ) -> tuple[Model, ContrastSet, ContrastSet, ContrastSet]:
        planted = planted_model(write, read, seed=self.seed)

        def made(kind: Literal["contexts", "questions"], n: int) -> ContrastSet:
            rows = planted_pairs(planted, n, kind=kind, seed=self.seed)
            return ContrastSet(f"planted {kind}", tuple(ContrastPair(*row) for row in rows))

        fit, choose, report = made("questions", 3 * self.n_questions).split(0, (0.4, 0.3, 0.3))
        inside = [pair for pair in made("contexts", self.n_fit) if pair.group in fit.groups]
        return Model(planted.model), ContrastSet("contexts", tuple(inside)), choose, report

    def on_topic(
        self, model: Model, name: str
    ) -> tuple[Model, ContrastSet, ContrastSet, ContrastSet]:
        if name not in TOPICS:
            sizes = (self.n_fit, self.n_questions, self.n_questions)
            data = load_data(*_files(name), sizes, 4, self.seed)
            return model, data.fit, data.choose, data.report
        wanted, other, yes, no = TOPICS[name]

        def chat(request: str, about: str | None = None, start: str = "") -> str:
            system = [] if about is None else [
                {"role": "system", "content": f"You always talk about {about}."}
            ]  # fmt: skip
            return render_chat(model, [*system, {"role": "user", "content": request}]) + start

        fit = [ContrastPair("", chat(r, wanted), chat(r, other)) for r in REQUESTS]
        asked = [
            ContrastPair(chat(f"Tell me about {what}.", None, start), f" {yes}", f" {no}")
            for what, start in product(ABOUT, OPENINGS)
        ]
        questions = ContrastSet(name, tuple(asked)).subset(2 * self.n_questions, self.seed)
        choose, report = questions.halved(self.seed)
        return model, ContrastSet(f"{name}, contexts", tuple(fit)), choose, report

    def of(self, case: Case) -> dict[str, Tensor]:
        """The predictors of a case, and what a vector at each layer does."""
        model, fit, choose, report = case.make()
        positions = Positions.from_prompt_end()
        texts, _ = given_or_written(
            model, self.n_neutral, self.seed, cells_or_none(None, "", False)
        )
        for_lengths, _ = text_halves(texts)
        started = time.process_time()
        read = activations(model, fit, model.sites(), progress=False)
        reading = time.process_time() - started
        predicted = predict_layers(
            model, read, choose, neutral=for_lengths, budget=self.budget, method=self.method,
            progress=False,
        )  # fmt: skip
        predicting = time.process_time() - started
        started = time.process_time()
        directions = list(read.directions(self.method))
        lengths = lengths_within_budget(
            model, directions, for_lengths, budget=self.budget, positions=positions, progress=False
        )
        family = layer_family(directions, positions, lengths)
        arms = list(family.values())
        gains = {}
        for name, asked in (("choose", choose), ("report", report)):
            odds = scores.preference(sweep(model, asked, arms, (0.0, 1.0), progress=False))
            gains[name] = (odds[:, 1] - odds[:, 0]).mean(-1)
        mapping = time.process_time() - started + reading
        direct = direct_gain(model, report, arms, (0.0, 1.0), progress=False)[:, 1].mean(-1)
        written = torch.full_like(direct, torch.nan)
        if case.writes and self.written:
            written = self.written_share(model, family, fit, report)
        effects = [gains["report"], gains["report"] - direct, direct, written]
        return {
            "values": predicted.values,
            "effects": torch.stack(effects).float(),
            "chosen": gains["choose"].float(),
            "seconds": torch.tensor([predicting, mapping]),
        }

    def written_share(
        self, model: Model, arms: Mapping[str, Intervention], fit: ContrastSet, asked: ContrastSet
    ) -> Tensor:
        """What is written at each layer, as a share of what the contrast's contexts write."""
        prompts = first_prompts(model, asked, self.written, self.new_tokens)
        at = [Cell(row, 1.0, site_of(arm)) for row, arm in arms.items()]
        contexts = Contexts.from_pairs(model, fit, prompts, room=self.new_tokens)
        effect = confirm_in_writing(
            model, arms, at, prompts, contexts, max_new_tokens=self.new_tokens, temperature=0.0,
            progress=False,
        )  # fmt: skip
        if not effect.reader_is_good:  # it does not tell the texts of the two contexts apart
            return torch.full((len(at),), torch.nan)
        return torch.tensor([effect.share(k).value for k in range(len(at))])


def _files(name: str) -> tuple[str, str]:
    """The files of a contrast: contexts, and questions."""
    start = DATA / FILES[name] if name in FILES else name
    return f"{start}_fit.jsonl", f"{start}_questions.jsonl"


FILES = {"sentiment": "sentiment", "she over he": "she_he", "weddings": "weddings"}
"""Contrasts of experiments/data, by the start of the files' names."""

experiment = PredictionExperiment()

if __name__ == "__main__":
    sys.exit(run_file(Path(__file__), sys.argv[1:]))
