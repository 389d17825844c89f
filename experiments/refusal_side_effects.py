"""What do vectors of other concepts do to the refusals of SmolLM2-135M-Instruct?

    steerlens run experiments/refusal_side_effects.py
    steerlens run experiments/refusal_side_effects.py --topics "cats over dogs" --controls 0   # short

Needs the model (`make pretrained`). Each contrast is steered at its recommended cell: those of
docs/smollm2.md for the three contrasts of experiments/data, and for topics of system prompts the layer
that the slope at the budget puts first (docs/prediction.md). All vectors, and random ones at the same
layers, are as long as the budget of KL allows. The refusal direction itself is a further row.
"""

import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prediction import TOPICS, PredictionExperiment

from steerlens.analyses.direction_nulls import along_random
from steerlens.analyses.prediction.predict_layers import predict_layers
from steerlens.analyses.safety.measure_refusal import refusal_effect
from steerlens.analyses.safety.refusal_effect import RefusalEffect
from steerlens.cli import run_file
from steerlens.data import ContrastPair, ContrastSet
from steerlens.data.formats.chat import render_chat
from steerlens.directions import Direction
from steerlens.experiment import Experiment, Inputs, Workplace
from steerlens.interventions.residual import Add
from steerlens.measures.equal_cost import lengths_within_budget
from steerlens.measures.reading import activations
from steerlens.models.model import Model
from steerlens.results import Cell, Result
from steerlens.sites import Positions, Site

_log = logging.getLogger("steerlens.refusal")
FOLDER = Path(__file__).parent
DATA = FOLDER / "data"
SHIPPED = {"sentiment": 20, "she over he": 24, "weddings": 29}
"""The contrasts of experiments/data with the layers of their recommended cells (docs/smollm2.md)."""
ITSELF = "harmful over harmless"


@dataclass(frozen=True, kw_only=True)
class RefusalSideEffects(Experiment):
    """What does steering of other concepts do to refusals?"""

    model: str = "smollm2-135m-instruct"
    shipped: tuple[str, ...] = tuple(SHIPPED)
    """Contrasts of experiments/data."""
    topics: tuple[str, ...] = (
        "cats over dogs", "war over peace", "money over family", "school over prison",
    )  # fmt: skip
    """Contrasts of system prompts, as in experiments/prediction.py."""
    requests: str = ""
    """A file of further pairs, a harmful request as positive and a harmless one as negative, that are
    reported on as well; "" for those of experiments/data alone."""
    controls: int = 1
    """Random directions at each cell."""
    itself_at: int = 20
    """The layer at which the refusal direction itself is added."""
    budget: float = 0.1
    """Nats of KL per token that each vector costs at most."""
    n_neutral: int = 16
    """Ordinary sentences for the lengths."""
    new_tokens: int = 16

    kind: ClassVar[str] = "refusal"
    results: ClassVar[tuple[type[Result], ...]] = (RefusalEffect,)

    def load(self, model: Model) -> Inputs:
        known = {"shipped": set(SHIPPED), "topics": set(TOPICS)}
        for field, names in known.items():
            if unknown := set(getattr(self, field)) - names:
                raise ValueError(
                    f"{field}={sorted(unknown)} are not known. Use {', '.join(sorted(names))}."
                )
        parts = {
            part: _requests(model, DATA / f"refusal_{part}.jsonl") for part in ("fit", "report")
        }
        if self.requests:
            more = _requests(model, Path(self.requests))
            parts["report"] = ContrastSet("report", (*parts["report"], *more))
        return Inputs(data=parts)

    def measure(self, run: Workplace[Inputs]) -> None:
        model, requests = run.model, run.inputs.data
        found = {name: self.pairs_of(model, name) for name in (*self.shipped, *self.topics)}
        sites = {name: Site(SHIPPED[name]) for name in self.shipped}
        ordinary = (DATA / "neutral.txt").read_text("utf-8").splitlines()[: self.n_neutral]
        for name in self.topics:
            fit, choose = found[name]
            known = predict_layers(
                model, fit, choose, neutral=ordinary, budget=self.budget, method=self.method,
                progress=run.progress,
            )  # fmt: skip
            sites[name] = known.shortlist(1 / model.n_layers, by="slope at budget")[0]
            _log.info("%s: %s", name, sites[name])
        every = sorted({*sites.values(), Site(self.itself_at)})
        directions: dict[str, dict[Site, Direction]] = {}
        for name, (fit, _) in found.items():
            read = activations(model, fit, every, progress=run.progress)
            directions[name] = {d.site: d for d in read.directions(self.method)}
        own = activations(
            model, requests["fit"], [self.itself_at], positions="last", progress=False
        )
        rows: dict[str, Direction] = {name: directions[name][sites[name]] for name in found}
        rows[ITSELF] = next(iter(own.directions(self.method)))
        where = Positions.from_prompt_end()
        controls: dict[str, Direction] = {}
        for k, (name, direction) in enumerate(rows.items()):
            for j in range(self.controls if name != ITSELF else 0):
                random = along_random(Add(direction, where, 1.0), 100 * k + j + 1).direction
                controls[f"random {j + 1} for {name}"] = random
        rows |= controls
        lengths = lengths_within_budget(
            model, list(rows.values()), ordinary, budget=self.budget, positions=where,
            progress=run.progress,
        )  # fmt: skip
        arms = {
            name: Add(direction, where, length)
            for (name, direction), length in zip(rows.items(), lengths, strict=True)
        }
        run.compute(
            RefusalEffect,
            lambda: refusal_effect(
                model, arms, [Cell(name, 1.0, arm.site) for name, arm in arms.items()],
                requests["fit"], requests["report"], known=_labelled(), controls=tuple(controls),
                others={name: list(each.values()) for name, each in directions.items()},
                max_new_tokens=self.new_tokens, progress=run.progress, cells=run.cells.part("refusal"),
            ),
        )  # fmt: skip

    def pairs_of(self, model: Model, name: str) -> tuple[ContrastSet, ContrastSet]:
        """The pairs of a contrast, and questions to choose a layer by."""
        _, fit, choose, _ = PredictionExperiment().on_topic(model, name)
        return fit, choose


def _requests(model: Model, path: Path) -> ContrastSet:
    """Pairs of requests as prompts in the model's chat template."""

    def asked(request: str) -> str:
        return render_chat(model, [{"role": "user", "content": request}])

    pairs = ContrastSet.load(path)
    return ContrastSet(
        path.stem,
        tuple(ContrastPair("", asked(p.positive), asked(p.negative)) for p in pairs),
        paired=pairs.paired,
    )


def _labelled() -> list[tuple[str, bool]]:
    """Answers of SmolLM2-135M-Instruct with whether they refuse, as a reader labelled them by hand."""
    lines = (DATA / "refusal_texts.jsonl").read_text("utf-8").splitlines()
    return [(row["text"], row["refuses"]) for row in map(json.loads, lines)]


experiment = RefusalSideEffects()

if __name__ == "__main__":
    sys.exit(run_file(Path(__file__), sys.argv[1:]))
