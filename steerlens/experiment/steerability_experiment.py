"""Which layers respond to steering, how strongly, and at what cost?"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, get_args

from steerlens.analyses.generalisation.measure_shift import shifted
from steerlens.analyses.probe.measure_probe import probe
from steerlens.analyses.side_effects.measure_spillover import spillover
from steerlens.analyses.steerability.measure_steerability import steerability
from steerlens.analyses.validity.measure_validity import decay, strengths
from steerlens.analyses.writing.measure_writing import writing
from steerlens.data import ContrastSet
from steerlens.experiment.experiment_data import (
    Data,
    ExperimentError,
    Shifts,
    load_data,
    load_others,
    load_shifts,
)
from steerlens.experiment.former_experiment import Experiment
from steerlens.experiment.run import (
    Run,
    begin,
    finish,
    is_finished,
    read_manifest,
    save_samples,
)
from steerlens.interventions.residual import Add
from steerlens.measures.activation_store import ActivationStore
from steerlens.measures.dose_response import dose_response
from steerlens.measures.tokenised import questions as scorable
from steerlens.models.model import Model
from steerlens.sites import Positions, Rule
from steerlens.store.cells import Cells
from steerlens.units import BUDGET, MULTIPLIERS, MapUnit, require_multipliers


@dataclass(frozen=True, kw_only=True)
class SteerabilityExperiment(Experiment):
    """Which layers respond to steering towards a contrast, how strongly, and at what cost?"""

    questions: str | None = None
    """A file of prompts with two answers to score; None takes them from `contrast`."""
    multipliers: tuple[float, ...] = MULTIPLIERS
    """Steering strengths, in `unit`s; with 0."""
    unit: MapUnit = "resid_norm"
    """What multiplier 1 adds: the median residual norm at the layer ("resid_norm"), the direction
    as fitted ("direction"), a standard deviation along it ("projection_std"), or as much as costs
    the budget ("equal_kl")."""
    positions: Rule = "from_prompt_end"
    """Which tokens are steered."""
    budget: float = BUDGET
    """KL to the unsteered model that steering may cost, in nats per token of ordinary text."""
    nulls: int = 20
    """Maps of nothing, of either kind; at least 19 for a threshold at 5%."""
    n_choose: int = 64
    """Most questions to choose the cell on."""
    n_report: int = 64
    """Most questions to report on."""
    n_neutral: int = 32
    """Most ordinary texts for the cost; half choose and half report."""
    written: int = 8
    """Most prompts that are continued in every cell, to see what steering does to writing; 0 for
    none."""
    strengths: int = 17
    """Strengths at the chosen layer, to twice the largest multiplier, through which the
    validity-decay curves are fitted; odd, and 0 for none."""
    shifts: tuple[str, ...] | None = None
    """Files of questions in other surroundings, or templates with {prompt}, to see whether steering
    carries over; None takes the topics, registers and negations of the reference world."""
    others: tuple[str, ...] | None = None
    """Files of questions about other concepts, to see what else is moved; None takes the other
    concepts of the reference world."""
    samples: int = 3
    """Prompts that are continued at several strengths, for the report."""
    new_tokens: int = 16
    """Tokens written for each sample and each text."""

    kind: ClassVar[str] = "steerability"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_multipliers(self.multipliers)
        if self.positions not in get_args(Rule) or self.positions in ("answer", "span"):
            raise ExperimentError(
                f"positions={self.positions!r} cannot be steered by name. "
                "Use all, last, from_prompt_end or generated."
            )
        if self.nulls < 19:
            raise ExperimentError(f"nulls={self.nulls}: a threshold at 5% needs at least 19.")
        if self.strengths and (self.strengths < 11 or self.strengths % 2 == 0):
            raise ExperimentError(
                f"strengths={self.strengths}: the curves need an odd number of at least 11, or 0 "
                "for no curves."
            )
        if self.written == 1 or self.written < 0:
            raise ExperimentError(
                f"written={self.written}: an interval needs at least two prompts. Use 0 for none."
            )

    def run(
        self, results: Path | str = "results", *, name: str | None = None, progress: bool = True
    ) -> Run:
        """Reads, fits, sweeps, chooses, reports, and writes a folder with a report page."""
        model = self.load_model()
        data = load_data(
            self.contrast, self.questions, (self.n_fit, self.n_choose, self.n_report),
            self.n_neutral, self.seed,
        )  # fmt: skip
        parts = {"fit": data.fit, "choose": data.choose, "report": data.report}
        shifts = load_shifts(self.contrast, self.shifts, data, self.n_report, self.seed)
        others = load_others(self.contrast, self.others, data, self.n_report, self.seed)
        for name_, asked in {**shifts.shifted, **others}.items():
            scorable(model, asked)
            parts[name_] = asked
        folder = begin(self, model, parts, results, name)
        if not is_finished(folder, read_manifest(folder)):
            self._measure(model, data, shifts, others, folder, progress)
        return finish(folder)

    def _measure(
        self,
        model: Model,
        data: Data,
        shifts: Shifts,
        others: dict[str, ContrastSet],
        folder: Path,
        progress: bool,
    ) -> None:
        sites, rule = self.sites(model), getattr(Positions, self.positions)()
        store = ActivationStore(folder / "activations")
        read = store.activations(model, data.fit, sites, progress=progress)
        found = probe(read, seed=self.seed, progress=progress)
        named = {**found.made_by, "data_name": data.fit.name}
        dataclasses.replace(found, made_by=named).save(folder)
        made = steerability(
            model, read, data.choose, data.report, method=self.method, sites=sites,
            multipliers=self.multipliers, positions=rule, unit=self.unit, neutral=data.neutral,
            budget=self.budget, nulls=self.nulls, seed=self.seed, progress=progress,
            cells=Cells(folder / "cells"),
        )  # fmt: skip
        edits = [
            Add(read.direction(site, self.method), rule, length)
            for site, length in zip(sites, made.lengths or (), strict=True)
        ]
        if shifts.shifted:
            shifted(
                model, edits, shifts.in_distribution, shifts.shifted, self.multipliers,
                progress=progress, cells=Cells(folder / "cells" / "shifts", "shifts"),
            ).save(folder)  # fmt: skip
        self._write(model, edits, data.report, folder, progress)
        cell = made.recommend().cell
        if cell is not None:
            edit = edits[made.index(cell)[0]]
            self._follow(model, edit, data.report, others, folder, progress)
            self._write_samples(model, edit, cell.multiplier, data.report, folder)
        made.save(folder)  # last: a run with a map is finished

    def _follow(
        self,
        model: Model,
        edit: Add,
        report: ContrastSet,
        others: dict[str, ContrastSet],
        folder: Path,
        progress: bool,
    ) -> None:
        """How far the chosen layer can be pushed, and what else it moves."""
        if self.strengths:
            far = 2 * max(abs(m) for m in self.multipliers)
            decay(
                model, edit, report, strengths(far, self.strengths),
                progress=progress, cells=Cells(folder / "cells" / "decay", "decay"),
            ).save(folder)  # fmt: skip
        if others:
            home = report.name
            spillover(
                model, [edit], {home: report, **others}, self.multipliers, target=home,
                nulls=self.nulls, seed=self.seed, progress=progress,
                cells=Cells(folder / "cells" / "others", "others"),
            ).save(folder)  # fmt: skip

    def _prompts(self, model: Model, asked: ContrastSet, count: int, room: int) -> list[str]:
        """The first few different prompts that leave room for new tokens."""
        fitting = (p.prompt for p in asked if len(model.ids(p.prompt)) + room <= model.n_ctx)
        return list(itertools.islice(dict.fromkeys(fitting), count))

    def _write(
        self, model: Model, edits: list[Add], asked: ContrastSet, folder: Path, progress: bool
    ) -> None:
        """Continues prompts in every cell."""
        prompts = self._prompts(model, asked, self.written, self.new_tokens)
        if self.written and len(prompts) < 2:
            raise ExperimentError(
                f"Fewer than two of the reporting prompts leave room for new_tokens="
                f"{self.new_tokens} in a context of {model.n_ctx}. Use fewer new tokens, shorter "
                "prompts, or written=0."
            )
        if prompts:
            writing(
                model, edits, prompts, self.multipliers, max_new_tokens=self.new_tokens,
                seed=self.seed, progress=progress,
                cells=Cells(folder / "cells" / "writing", "writing"),
            ).save(folder)  # fmt: skip

    def _write_samples(
        self, model: Model, edit: Add, multiplier: float, asked: ContrastSet, folder: Path
    ) -> None:
        """Continues the first few prompts at several strengths."""
        prompts = self._prompts(model, asked, self.samples, 2)
        if not prompts:
            return
        room = model.n_ctx - model.tokens(prompts).width
        doses = sorted({0.0, multiplier, -multiplier, 2 * multiplier})
        written = dose_response(
            model, edit, prompts, doses, max_new_tokens=max(2, min(self.new_tokens, room)),
            # A text that ends at once has no generated token to steer.
            stop_at_eos=self.positions != "generated",
        )  # fmt: skip
        save_samples(folder, written)
