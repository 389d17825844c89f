"""Which way of adapting a model gains most at equal cost, and what else does it do?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from steerlens.analyses.comparison.compare_ways import FACTORS, OWN, compare_ways
from steerlens.analyses.comparison.exact_task import ExactTask
from steerlens.analyses.comparison.making import Making
from steerlens.analyses.comparison.score_tasks import score_tasks
from steerlens.analyses.comparison.task_scores import TaskScores
from steerlens.analyses.comparison.way_comparison import WayComparison
from steerlens.analyses.comparison.way_data import Way, WayError
from steerlens.analyses.comparison.way_task import WayTask
from steerlens.analyses.comparison.ways import way_named
from steerlens.experiment.comparison_data import file_task, world_task
from steerlens.experiment.exact_tasks import exact_task
from steerlens.experiment.experiment import Experiment
from steerlens.experiment.experiment_data import WORLD, ExperimentError
from steerlens.experiment.fields import require_at_least, require_examples, require_neutral
from steerlens.experiment.workplace import Inputs, Workplace
from steerlens.measures.ordinary_texts import ordinary_texts, text_halves
from steerlens.measures.tokenised import questions as scorable
from steerlens.models.model import Model
from steerlens.results import Result
from steerlens.sites import Site
from steerlens.units import BUDGET

SHORT = (
    "DiffMean", "vector", "vector, SPLIT", "vector, RePS", "LoReFT", "adapter", "post-block", "LoRA",
    "full weights", "prompt",
)  # fmt: skip
"""Ten ways that differ in kind."""
ALL = (
    "DiffMean", "vector", "vector, SPLIT", "vector, BiPO", "vector, RePS", "vector, ideal", "LoReFT",
    "ReFT-r1", "adapter", "adapter, ideal", "post-block", "LoRA", "local weight", "full weights",
    "full weights, ideal", "joint", "prompt", "soft prefix",
)  # fmt: skip
"""Every way that there is a name for, and some that are trained on the reference model's ideal."""


@dataclass(frozen=True, kw_only=True)
class Tasks(Inputs):
    """What a comparison works on."""

    tasks: tuple[WayTask, ...]
    exact: tuple[ExactTask, ...]
    ways: Mapping[str, Way]


@dataclass(frozen=True, kw_only=True)
class ComparisonExperiment(Experiment):
    """Which way of adapting a model gains most at equal cost, and what else does it do?"""

    ways: tuple[str, ...] = SHORT
    """Ways by name: a method ("DiffMean"), "prompt", a form ("LoRA") with an objective after a comma
    if it is not LM ("vector, SPLIT"), an operator ("SADI heads"), or module:name for your own."""
    also: tuple[str, ...] = ()
    """Further contrasts, like `contrast`; numbers are means over all of them."""
    training: str | None = None
    """A file of prompts with a positive and a negative answer to train on; None trains on `contrast`,
    and in the reference world on continuations of its documents."""
    questions: str | None = None
    """A file of prompts with two answers to score; None takes them from `training`."""
    repeats: int = 1
    """How often each way is made, each time with other draws, and in the reference world with other
    pairs."""
    layer: int | None = None
    """Where ways that act at one site do so; None for five eighths of the depth."""
    budget: float = BUDGET
    """KL that every way costs, in nats per token of ordinary text."""
    factors: tuple[float, ...] = FACTORS
    """Multiples of the multiplier that costs the budget, with 0 and 1."""
    multipliers: tuple[float, ...] = OWN
    """The ways' own multipliers along which nearness to the ideal is measured, with 0."""
    steps: int = 60
    """The most steps of each training."""
    batch: int = 16
    """Pairs in each step."""
    rates: tuple[float, ...] = (1.0,)
    """Learning rates that are tried, as multiples of each form's own; the validation loss decides."""
    n_report: int = 64
    """Most questions to report on."""
    n_ideal: int = 72
    """Most texts along which nearness to the ideal is measured; as many others choose."""
    neutral: str | None = None
    """A file of ordinary texts for the cost, one a line; None takes documents of the reference
    world, and for your own contrast texts that the unsteered model writes."""
    n_neutral: int = 64
    """Most ordinary texts for the cost; half set the multiplier and half report."""
    others: tuple[str, ...] | None = None
    """Files of questions about other concepts; None takes those of the reference world."""
    written: int = 24
    """Most prompts that are continued; 0 for none."""
    words: str | None = None
    """A JSON file with a list of words "positive" and one "negative", which reads what is written;
    the reference world has its own reader. Without one nothing is written."""
    new_tokens: int = 16
    """Tokens of each text."""
    tasks: tuple[str, ...] = ()
    """Tasks with exact scores, for which each way is made anew: names of
    steerlens.experiment.exact_tasks ("new labels"), folders with fit.jsonl and a file of questions
    for each score, or module:name for one of your own."""

    kind: ClassVar[str] = "ways"
    results: ClassVar[tuple[type[Result], ...]] = (WayComparison, TaskScores)
    parts: ClassVar[Mapping[str, str]] = {
        "fit": "trains; the directions and the prompt are of pairs of texts like these",
        "validation": "stops each training and chooses its learning rate",
        "report": "measures what was made; had no part in any choice",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(1, repeats=self.repeats, steps=self.steps, batch=self.batch)
        require_at_least(0, budget=self.budget, written=self.written)
        require_at_least(2, new_tokens=self.new_tokens)
        require_examples(n_report=self.n_report, n_ideal=self.n_ideal)
        require_neutral(self.n_neutral)
        for name, needed in (("factors", {0.0, 1.0}), ("multipliers", {0.0})):
            given = set(getattr(self, name))
            if missing := sorted(needed - given):
                raise ExperimentError(
                    f"{name}={getattr(self, name)} lacks {missing[0]:g}. Add it: it is what the "
                    "others are held against."
                )
        if not self.rates or min(self.rates) <= 0:
            raise ExperimentError(f"rates={self.rates} must hold multiples above 0, e.g. (1.0,).")
        if len(set(self.ways)) < len(self.ways) or not self.ways:
            raise ExperimentError(f"ways={self.ways} names none, or one twice. Give each once.")
        if len(set(self.contrasts)) < len(self.contrasts):
            raise ExperimentError(f"also={self.also} names a contrast twice. Give each once.")
        if len(set(self.tasks)) < len(self.tasks):
            raise ExperimentError(f"tasks={self.tasks} names one twice. Give each once.")
        if not self.in_world and self.also:
            raise ExperimentError(
                f"also={self.also}: several contrasts are compared in the reference world alone. Run "
                "each of your own by itself."
            )
        try:
            for name in self.ways:
                way_named(name)
        except WayError as error:
            raise ExperimentError(str(error)) from error

    @property
    def contrasts(self) -> tuple[str, ...]:
        """All contrasts that are compared on."""
        return (self.contrast, *self.also)

    @property
    def in_world(self) -> bool:
        """Whether the contrasts are those of the reference world."""
        return all(one.startswith(WORLD) for one in self.contrasts)

    def site(self, model: Model) -> Site:
        """Where ways that act at one site do so."""
        layer = model.n_layers * 5 // 8 if self.layer is None else self.layer
        return Site(layer, self.stream)

    def load(self, model: Model) -> Tasks:
        """The data of every concept, and the ways."""
        model.require_site(self.site(model))
        ways = {name: way_named(name) for name in self.ways}
        if self.in_world:
            tasks = tuple(
                world_task(self, model, one.removeprefix(WORLD)) for one in self.contrasts
            )
        else:
            tasks = (file_task(self, model),)
        data = {}
        for task in tasks:
            start = f"{task.concept}: " if len(tasks) > 1 else ""
            for part in (task.report, *task.fit[:1]):
                scorable(model, part)
            data[f"{start}fit"] = task.fit[0]
            if task.validation[0] is not None:
                data[f"{start}validation"] = task.validation[0]
            data[f"{start}report"] = task.report
        exact = tuple(exact_task(name, self, model) for name in self.tasks)
        for one in exact:
            scorable(model, one.fit[0])
            data[f"{one.concept}: fit"] = one.fit[0]
        stated: dict[str, Any] = {"ways": {name: repr(way) for name, way in ways.items()}}
        return Tasks(data=data, stated=stated, tasks=tasks, exact=exact, ways=ways)

    def measure(self, run: Workplace[Tasks]) -> None:
        """Makes and measures every way; a finished one is not made again."""
        tasks = run.inputs.tasks
        if not tasks[0].calibrating:
            tasks = tuple(self._with_ordinary_texts(run, task) for task in tasks)
        making = Making(
            site=self.site(run.model), steps=self.steps, batch=self.batch, rates=self.rates,
            seed=self.seed, folder=run.folder / "trained",
        )  # fmt: skip
        run.compute(
            WayComparison,
            lambda: compare_ways(
                run.model, run.inputs.ways, tasks, making, budget=self.budget,
                factors=self.factors, multipliers=self.multipliers, progress=run.progress,
                cells=run.cells.part("ways"),
            ),
        )  # fmt: skip
        if run.inputs.exact:
            run.compute(
                TaskScores,
                lambda: score_tasks(
                    run.model, run.inputs.ways, run.inputs.exact, making, budget=self.budget,
                    progress=run.progress, cells=run.cells.part("tasks"),
                ),
            )  # fmt: skip

    def _with_ordinary_texts(self, run: Workplace[Tasks], task: WayTask) -> WayTask:
        """The task with texts that the unsteered model writes."""
        texts = ordinary_texts(
            run.model, self.n_neutral, seed=self.seed, progress=run.progress,
            cells=run.cells.part("ordinary"),
        )  # fmt: skip
        calibrating, neutral = text_halves(texts)
        return dataclasses.replace(task, calibrating=tuple(calibrating), neutral=tuple(neutral))
