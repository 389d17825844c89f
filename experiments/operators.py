"""What does each operator gain at equal cost, beside DiffMean, and how long does it take?

    steerlens run experiments/operators.py
    steerlens run experiments/operators.py --contrast reviews/register --kinds turn "cache steering"

Every kind is fitted on the same contexts, given the multiplier at which it costs `kl` nats per token
on ordinary texts, and asked the same questions, which end where the concept is expressed next. Of the
reference model only: contexts and questions come from its grammar. A kind of your own is one entry of
`KINDS`.
"""

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens import stats
from steerlens.cli import run_file
from steerlens.data import ContrastSet
from steerlens.directions import Direction
from steerlens.directions.methods import DiffMean
from steerlens.experiment import Experiment, Inputs, Workplace
from steerlens.interventions import (
    Add,
    ClampRange,
    Condition,
    Knob,
    Nudge,
    ProbeLoss,
    Rotate,
    TurnTowards,
    When,
    angular_steering,
)
from steerlens.interventions.scaled import scaled
from steerlens.measures.equal_cost import CalibrationError, equal_kl
from steerlens.measures.generation import generated_tokens
from steerlens.measures.reading import activations, fit_directions
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.operators import cache_steering, find_condition, sadi
from steerlens.protocols import Intervention
from steerlens.report.numbers import format_interval
from steerlens.results import Column, Result, labelled
from steerlens.sites import Positions, Site
from steerlens.stats import Interval, group_numbers
from steerlens.testbed.reviews import contexts, neutral_texts, questions

_log = logging.getLogger("steerlens.operators")


@dataclass(frozen=True)
class Material:
    """What kinds are fitted on."""

    model: Model
    fit: ContrastSet
    """Contexts that differ in the concept."""
    other: ContrastSet
    """Contexts that differ in something else: what a condition can ask for."""
    site: Site

    @cached_property
    def direction(self) -> Direction:
        """The mean difference at the site."""
        return self.at(self.site)

    def at(self, site: Site) -> Direction:
        """The mean difference at a site."""
        read = activations(self.model, self.fit, [site], progress=False)
        return read.direction(site, DiffMean())

    @cached_property
    def mean_projection(self) -> float:
        """Where the positive contexts are along the direction."""
        read = activations(self.model, self.fit, [self.site], progress=False)
        return float((read.positive[:, 0] @ self.direction.unit().vector).mean())

    @cached_property
    def random(self) -> Direction:
        """A direction at random, for the second axis of a plane."""
        generator = torch.Generator().manual_seed(0)
        vector = torch.randn(self.model.d_model, generator=generator)
        return Direction(vector, self.site, processing=self.model.processing)

    @cached_property
    def condition(self) -> Condition:
        """Whether a text has the other contrast's positive side."""
        fit, choose, _ = self.other.split(0)
        return find_condition(self.model, fit, choose).best()

    @property
    def probe(self) -> ProbeLoss:
        """A probe two blocks above the site: which side of the middle of both means a text is on."""
        site = Site(self.site.layer + 2)
        read = activations(self.model, self.fit, [site], progress=False)
        direction = read.direction(site, DiffMean())
        u = direction.unit().vector
        positive, negative = ((x[:, 0] @ u).mean() for x in (read.positive, read.negative))
        gap = float(positive - negative)
        return ProbeLoss(direction, float(positive + negative) / 2, 4 / gap)


Make = Callable[[Material], Intervention]

KINDS: dict[str, Make] = {
    "DiffMean": lambda m: Add(m.direction),
    "turn": lambda m: TurnTowards(m.direction, 30.0),
    "rotate, random plane": lambda m: Rotate(m.direction, m.random, 0.0),
    "angular steering": lambda m: angular_steering(
        fit_directions(m.model, m.fit, DiffMean()), 0.0, positions=Positions.from_prompt_end()
    ),
    "range": lambda m: ClampRange(m.direction, low=m.mean_projection),
    "SADI, heads": lambda m: sadi(m.model, m.fit, "heads", k=4),
    "SADI, neurons": lambda m: sadi(m.model, m.fit, "neurons", k=50),
    "SADI, hidden": lambda m: sadi(m.model, m.fit, "hidden", k=50),
    "cache steering": lambda m: cache_steering(m.model, m.fit),
    "cache steering, keys too": lambda m: cache_steering(m.model, m.fit, keys=1.0),
    "condition": lambda m: When(m.condition, Add(m.direction)),
    "knob": lambda m: Knob(Add(m.direction), (1.0, 0.5, 0.25)),
    "nudge to a probe": lambda m: Nudge(m.site, m.probe, steps=2, size=0.1, budget=None),
}
"""How each kind is made, by its name."""


@dataclass(frozen=True, eq=False, repr=False)
class OperatorTable(Result):
    """Gain at equal cost, and what each kind takes. NaN for a kind that cannot have the cost."""

    names: tuple[str, ...]
    groups: tuple[str, ...]
    multipliers: Float[Tensor, " name"]
    gains: Float[Tensor, "name example"]
    """Rise of the log-odds, in nats."""
    seconds: Float[Tensor, " name"]
    """Processor seconds to fit."""
    per_token: Float[Tensor, " name"]
    """Processor time of a written token over that of the unsteered model."""
    made_by: dict[str, Any]

    kind: ClassVar[str] = "operators"

    def gain(self, i: int) -> Interval:
        """The mean gain of a kind, with its interval over groups."""
        found = stats.mean_interval(self.gains[i], group_numbers(self.groups))
        return Interval(*(float(x) for x in found))

    def columns(self) -> list[Column]:
        return [
            Column("gain", ("name",), self.gains.mean(-1)),
            Column("multiplier", ("name",), self.multipliers),
            Column("seconds", ("name",), self.seconds),
            Column("per_token", ("name",), self.per_token),
        ]

    def summary(self) -> str:
        lines = [f"Gain where KL is {self.made_by['kl']:g} nats per token, {self.made_by['data']}"]
        for i, name in enumerate(self.names):
            gain = format_interval(self.gain(i), lambda x: f"{x:+.2f}")
            lines.append(
                labelled(
                    name,
                    f"{gain} nats at {float(self.multipliers[i]):.3g}; {float(self.seconds[i]):.1f} s "
                    f"to fit; a token {float(self.per_token[i]):.2f} times the unsteered one",
                )
            )
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class OperatorExperiment(Experiment):
    """What does each operator gain at equal cost?"""

    other: str = "register"
    """The concept of the reference world that the condition asks for."""
    layer: int = 5
    """Where single edits are."""
    kinds: tuple[str, ...] = tuple(KINDS)
    """Names of `KINDS`."""
    kl: float = 0.1
    """Nats per token on ordinary texts."""
    n_texts: int = 24
    n_questions: int = 48

    kind: ClassVar[str] = "operators"
    results: ClassVar[tuple[type[Result], ...]] = (OperatorTable,)

    def load(self, model: Model) -> Inputs:
        concept = self.contrast.removeprefix("reviews/")
        if model.name != "reviews" or self.contrast == concept:
            raise ValueError(
                f"{self.model!r} with {self.contrast!r}: the experiment needs the reference world. "
                "Use --model reviews and --contrast reviews/sentiment."
            )
        if unknown := set(self.kinds) - KINDS.keys():
            raise ValueError(f"kinds={sorted(unknown)} are not known. Use {', '.join(KINDS)}.")
        data = {
            "fit": contexts(concept, self.n_fit, self.seed + 1),
            "other": contexts(self.other, self.n_fit, self.seed + 1),
            "report": questions(concept, self.n_questions, self.seed + 7, context="negative"),
        }
        return Inputs(data=data)

    def measure(self, run: Workplace[Inputs]) -> None:
        data, model = run.inputs.data, run.model
        material = Material(model, data["fit"], data["other"], Site(self.layer))
        texts = neutral_texts(self.n_texts, self.seed + 3)

        def measured(name: str) -> dict[str, Tensor]:
            started = time.process_time()
            arm = KINDS[name](material)
            seconds = time.process_time() - started
            gains = torch.full((len(data["report"]),), torch.nan)
            try:
                (m,) = equal_kl(model, {name: arm}, texts, kl=self.kl, progress=False)
            except CalibrationError as error:
                _log.warning("%s: %s", name, error)
                m = float("nan")
            else:
                swept = sweep(model, data["report"], [arm], (0.0, m), progress=False)
                gains = (swept.log_odds[0, 1] - swept.log_odds[0, 0]).float()
            per_token = _per_token(model, None if m != m else scaled(arm, m), data["report"])
            return {"gains": gains, "facts": torch.tensor([m, seconds, per_token])}

        cells = run.cells.part("operators")
        found = []
        for name in self.kinds:
            found.append(cells.compute(name, lambda name=name: measured(name)))
            _log.info("%s: %s", name, found[-1]["facts"].tolist())
        facts = torch.stack([one["facts"] for one in found])
        run.keep(
            OperatorTable(
                names=self.kinds,
                groups=data["report"].groups,
                multipliers=facts[:, 0],
                gains=torch.stack([one["gains"] for one in found]),
                seconds=facts[:, 1],
                per_token=facts[:, 2],
                made_by={**model.facts, "data": data["report"].name, "kl": self.kl},
            )
        )


def _per_token(model: Model, arm: Intervention | None, asked: ContrastSet, new: int = 12) -> float:
    """Processor time of a written token over that of the unsteered model; the least of three."""
    if arm is None:
        return float("nan")
    prompts = [pair.prompt for pair in list(asked)[:4]]

    def least() -> float:
        taken = []
        for _ in range(3):
            start = time.process_time()
            generated_tokens(model, prompts, max_new_tokens=1, stop_at_eos=False)
            first = time.process_time()
            generated_tokens(model, prompts, max_new_tokens=1 + new, stop_at_eos=False)
            taken.append(time.process_time() - first - (first - start))
        return min(taken)

    plain = least()
    with arm.attach(model, 1.0):
        return least() / plain


experiment = OperatorExperiment()

if __name__ == "__main__":
    sys.exit(run_file(Path(__file__), sys.argv[1:]))
