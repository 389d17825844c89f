"""Which layers respond to steering, how strongly, and at what cost?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from steerlens.analyses.attribution.attribute_gain import attribute_gain
from steerlens.analyses.attribution.gain_attribution import GainAttribution
from steerlens.analyses.confirmation.contexts import ContextError
from steerlens.analyses.confirmation.writing_verdict import not_looked_at
from steerlens.analyses.confirmation.written_effect import WrittenEffect
from steerlens.analyses.generalisation.measure_shift import shifted
from steerlens.analyses.generalisation.shifted_map import ShiftedMap
from steerlens.analyses.prediction.layer_predictions import LayerPredictions
from steerlens.analyses.prediction.predict_layers import TEXTS, predict_layers
from steerlens.analyses.probe.measure_probe import probe
from steerlens.analyses.probe.probe_map import ProbeMap
from steerlens.analyses.side_effects.measure_spillover import spillover
from steerlens.analyses.side_effects.spillover_map import SpilloverMap
from steerlens.analyses.steerability.measure_steerability import steerability
from steerlens.analyses.steerability.runners_up import strongest, worth_reading
from steerlens.analyses.steerability.steerability_map import SteerabilityMap
from steerlens.analyses.validity.measure_validity import decay, strengths
from steerlens.analyses.validity.validity_fit import ValidityFit
from steerlens.analyses.writing.measure_writing import writing
from steerlens.analyses.writing.writing_map import WritingMap
from steerlens.directions import Activations
from steerlens.experiment.confirming import written_effect
from steerlens.experiment.experiment import Experiment
from steerlens.experiment.experiment_data import (
    ExperimentError,
    Shifts,
    first_prompts,
    load_data,
    load_others,
    load_shifts,
    named_parts,
    neutral_stated,
    prompt_groups,
    stating,
)
from steerlens.experiment.fields import (
    SteeredRule,
    require_at_least,
    require_examples,
    require_layers,
    require_neutral,
    require_nulls,
    require_several,
)
from steerlens.experiment.forecast import Forecast
from steerlens.experiment.steerability_forecast import steerability_forecast
from steerlens.experiment.steerability_inputs import Questions
from steerlens.experiment.workplace import Workplace
from steerlens.interventions.arms import layer_family, site_of
from steerlens.interventions.residual import Add
from steerlens.measures.dose_response import DoseResponse, dose_response
from steerlens.measures.ordinary_texts import given_or_written, text_halves
from steerlens.measures.tokenised import halved
from steerlens.measures.tokenised import questions as scorable
from steerlens.models.model import Model
from steerlens.models.products import Products
from steerlens.protocols import Intervention, first_block
from steerlens.results import Cell, Result
from steerlens.sites import Positions, format_sites
from steerlens.units import BUDGET, MULTIPLIERS, MapUnit, require_multipliers

NOT_CHOSEN = (
    "No cell was chosen; {cell} is the one within the budget that gains most, whether or not that is "
    "more than chance."
)
"""Why texts are written where they are, in a map that recommends no cell."""


@dataclass(frozen=True, kw_only=True)
class SteerabilityExperiment(Experiment):
    """Which layers respond to steering towards a contrast, how strongly, and at what cost?"""

    questions: str | None = None
    """A file of prompts with two answers to score; None takes them from `contrast`."""
    multipliers: tuple[float, ...] = MULTIPLIERS
    """Steering strengths, in `unit`s; with 0."""
    unit: MapUnit = "equal_kl"
    """What multiplier 1 adds: as much as is sure to be within the budget ("equal_kl"), the median
    residual norm at the layer ("resid_norm"), the direction as fitted ("direction"), or a standard
    deviation along it ("projection_std")."""
    positions: SteeredRule = "from_prompt_end"
    """Which tokens are steered."""
    budget: float = BUDGET
    """KL to the unsteered model that steering may cost, in nats per token of ordinary text."""
    nulls: int = 20
    """Null maps of each kind (shuffled labels, random directions): at least 19, which allow
    p = 0.05; or 0 for none, and no p-values."""
    null_products: Products | None = None
    """"bfloat16" computes the null maps, and nothing else, with matrix products in half precision:
    faster on processors that have them."""
    n_choose: int = 64
    """Most questions to choose the cell on."""
    n_report: int = 64
    """Most questions to report on."""
    neutral: str | None = None
    """A file of ordinary texts for the cost, one a line; None takes documents of the reference
    world, and for a contrast of your own texts that the unsteered model writes."""
    n_neutral: int = 64
    """Most ordinary texts for the cost; half choose and half report."""
    written: int = 8
    """Most prompts that are continued in every cell, to see what steering does to writing; 0 for
    none."""
    written_layers: tuple[int, ...] | None = None
    """Layers in whose cells the prompts are continued, beside the recommended one; all that are
    mapped by default."""
    confirmed: int = 24
    """Most prompts that are continued at the recommended cell and its runners-up, to confirm the
    gain in writing; 0 for not looking."""
    attributed: int = 10
    """Later heads and MLPs that are held one by one at the chosen cell, to see which carry its gain;
    0 for none."""
    strengths: int = 17
    """Strengths at the chosen layer, to twice the largest multiplier or the stream's median norm,
    whichever is more, through which the validity-decay curves are fitted; odd, and 0 for none."""
    shifts: tuple[str, ...] | None = None
    """Files of shifted questions, or templates with {prompt}, to see whether steering generalises;
    None takes the topics, registers and negations of the reference world."""
    others: tuple[str, ...] | None = None
    """Files of questions about other concepts, to see what else is moved; None takes the other
    concepts of the reference world."""
    samples: int = 3
    """Prompts that are continued at several strengths, for the report."""
    new_tokens: int = 16
    """Tokens written for each sample and each text."""

    kind: ClassVar[str] = "steerability"
    results: ClassVar[tuple[type[Result], ...]] = (
        SteerabilityMap, WrittenEffect, LayerPredictions, GainAttribution, ProbeMap, ValidityFit,
        WritingMap, SpilloverMap, ShiftedMap, DoseResponse,
    )  # fmt: skip
    parts: ClassVar[Mapping[str, str]] = {
        "fit": "makes the directions and the probes",
        "choose": "fills the map and chooses the cell",
        "report": "measures the chosen cell once; had no part in the choice",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "multipliers", require_multipliers(self.multipliers))
        require_nulls(self.nulls)
        require_at_least(0, budget=self.budget, samples=self.samples, written=self.written)
        require_at_least(0, confirmed=self.confirmed, attributed=self.attributed)
        require_at_least(2, new_tokens=self.new_tokens)
        require_examples(n_choose=self.n_choose, n_report=self.n_report)
        require_neutral(self.n_neutral)
        if self.strengths and (self.strengths < 11 or self.strengths % 2 == 0):
            raise ExperimentError(
                f"strengths={self.strengths}: the curves need an odd number of at least 11, or 0 "
                "for no curves."
            )
        require_layers(self.written_layers, "written_layers")
        require_several(written=self.written, confirmed=self.confirmed)

    def load(self, model: Model) -> Questions:
        """Three parts of the data that share no question, and questions of other kinds."""
        data = load_data(
            self.contrast, self.questions, (self.n_fit, self.n_choose, self.n_report),
            self.n_neutral, self.seed, self.neutral,
        )  # fmt: skip
        mapped = {site.layer for site in self.sites(model)}
        if unknown := sorted(set(self.written_layers or ()) - mapped):
            raise ExperimentError(
                f"written_layers holds {unknown[0]}, which is not among the layers that are mapped "
                f"({format_sites(self.sites(model))}). Name some of those."
            )
        shifts = load_shifts(self.contrast, self.shifts, data, self.n_report, self.seed)
        others = load_others(self.contrast, self.others, data, self.n_report, self.seed)
        data = self.data_in_chat(model, data)
        shifts = Shifts(
            self.in_chat(model, shifts.in_distribution),
            {name: self.in_chat(model, part) for name, part in shifts.shifted.items()},
        )
        others = {name: self.in_chat(model, part) for name, part in others.items()}
        asked = {**shifts.shifted, **others}
        for one in (data.choose, data.report, *asked.values()):
            scorable(model, one)
        if data.neutral is not None:
            for half in text_halves(data.neutral):
                halved(model, half)
        prompts = first_prompts(model, data.report, self.written, self.new_tokens)
        if self.written and len(prompts) < 2:
            raise ExperimentError(
                f"Fewer than two of the reporting prompts leave room for new_tokens="
                f"{self.new_tokens} in a context of {model.n_ctx}. Use fewer new tokens, shorter "
                "prompts, or written=0."
            )
        confirming = first_prompts(model, data.report, self.confirmed, self.new_tokens)
        return Questions(
            data=named_parts(data, asked),
            stated={"neutral": neutral_stated(data.neutral)},
            fit=data.fit, choose=data.choose, report=data.report, neutral=data.neutral,
            ordinary=data.ordinary,
            shifts=shifts, others=others, prompts=prompts, confirming=confirming,
        )  # fmt: skip

    def _predicted(self, run: Workplace[Questions], read: Activations) -> LayerPredictions:
        """What could be known of each layer before the map, on some of its choosing texts."""
        given = run.inputs.neutral
        texts, _ = given_or_written(
            run.model, self.n_neutral if given is None else given, self.seed, run.cells.part("map")
        )
        found = predict_layers(
            run.model, read, run.inputs.choose, method=self.method,
            positions=getattr(Positions, self.positions)(), neutral=text_halves(texts)[0][:TEXTS],
            budget=self.budget, progress=run.progress,
        )  # fmt: skip
        return stating(found, ordinary=run.inputs.ordinary)

    def forecast(self, model: Model | None = None) -> Forecast:
        """How long each part of a run would take on this machine, and how it is left out.

        Raises:
            ValueError: For data or a model that cannot be used.
        """
        model = self.load_model() if model is None else self._with_sites(model)
        return steerability_forecast(self, model, self.load(model))

    def measure(self, run: Workplace[Questions]) -> None:
        """Probes every layer, maps every layer at every strength, and follows the chosen cell."""
        asked, sites = run.inputs, self.sites(run.model)
        rule = getattr(Positions, self.positions)()
        read = run.activations(asked.fit, sites)
        run.compute(
            ProbeMap,
            lambda: stating(
                probe(read, seed=self.seed, progress=run.progress), data_name=asked.fit.name
            ),
        )
        made = run.compute(
            SteerabilityMap,
            lambda: stating(
                steerability(
                    run.model, read, asked.choose, asked.report, method=self.method, sites=sites,
                    multipliers=self.multipliers, positions=rule, unit=self.unit,
                    neutral=self.n_neutral if asked.neutral is None else asked.neutral,
                    budget=self.budget, nulls=self.nulls, null_products=self.null_products,
                    seed=self.seed, progress=run.progress, cells=run.cells.part("map"),
                ),
                ordinary=asked.ordinary,
            ),
        )  # fmt: skip
        if self.budget > 0:
            run.compute(LayerPredictions, lambda: self._predicted(run, read))
        directions = [read.direction(site, self.method) for site in sites]
        assert made.lengths is not None  # of fitted directions
        arms = layer_family(directions, rule, made.lengths)
        if made.chosen is not None and len(asked.confirming) > 1:
            made = self._confirm(run, made, arms)
        if asked.prompts:
            run.compute(
                WritingMap,
                lambda: writing(
                    run.model, self._written_in(arms, made.chosen), asked.prompts, self.multipliers,
                    seed=self.seed,
                    max_new_tokens=self.new_tokens, progress=run.progress,
                    cells=run.cells.part("writing"),
                ),
            )  # fmt: skip
        if asked.shifts.shifted:
            run.compute(
                ShiftedMap,
                lambda: shifted(
                    run.model, arms, asked.shifts.in_distribution, asked.shifts.shifted,
                    self.multipliers, progress=run.progress, cells=run.cells.part("shift"),
                ),
            )  # fmt: skip
        if made.chosen is not None:
            self._follow(run, made.chosen, arms[made.chosen.row])
        self._write_samples(run, made, arms)

    def _confirm(
        self, run: Workplace[Questions], made: SteerabilityMap, arms: Mapping[str, Intervention]
    ) -> SteerabilityMap:
        """The map with what is claimed of the texts written at its best cells."""
        asked, at = run.inputs, worth_reading(made)
        try:
            effect = written_effect(
                run, arms, at, asked.fit, asked.confirming,
                prompt_groups(asked.report, asked.confirming), new_tokens=self.new_tokens,
                seed=self.seed,
            )  # fmt: skip
        except ContextError as error:
            return run.keep(made.with_writing(not_looked_at(at, str(error))))
        return run.keep(made.with_writing(effect.verdicts))

    def _follow(self, run: Workplace[Questions], cell: Cell, arm: Intervention) -> None:
        """What carries the chosen gain, how far its row can be pushed, and what else it moves."""
        asked = run.inputs
        # What a bridge's hooks of heads hold is not checked, so its gains are not attributed.
        if self.attributed and first_block(arm) < run.model.n_layers and not run.model.is_bridge:
            run.compute(
                GainAttribution,
                lambda: attribute_gain(
                    run.model, asked.choose, asked.report, arm, cell.multiplier,
                    exact=self.attributed, progress=run.progress,
                ),
            )  # fmt: skip
        if self.strengths:
            far = strengths(self._reach(arm), self.strengths)
            run.compute(
                ValidityFit,
                lambda: decay(
                    run.model, arm, asked.report, far,
                    progress=run.progress, cells=run.cells.part("decay"),
                ),
            )  # fmt: skip
        if asked.others:
            target = asked.report.name
            run.compute(
                SpilloverMap,
                lambda: spillover(
                    run.model, {cell.row: arm}, {target: asked.report, **asked.others},
                    self.multipliers, target=target, nulls=self.nulls,
                    unrelated=self._unrelated(run, arm), seed=self.seed,
                    progress=run.progress, cells=run.cells.part("spillover"),
                ),
            )  # fmt: skip

    def _written_in(
        self, arms: Mapping[str, Intervention], chosen: Cell | None
    ) -> Mapping[str, Intervention]:
        """The rows whose cells are written in."""
        if self.written_layers is None:
            return arms
        kept = {row for row, arm in arms.items() if _layer(arm) in self.written_layers}
        kept |= set() if chosen is None else {chosen.row}
        return {row: arm for row, arm in arms.items() if row in kept}

    def _unrelated(
        self, run: Workplace[Questions], arm: Intervention
    ) -> dict[str, list[Intervention]]:
        """Directions of the other concepts in the place of the chosen one, and as long."""
        if not isinstance(arm, Add):
            return {}
        site, found = arm.site, {}
        for name, pairs in run.inputs.others.items():
            direction = run.activations(pairs, [site]).direction(site, self.method)
            found[name] = [Add(direction, arm.positions, float(arm.step.norm()))]
        return found

    def _reach(self, arm: Intervention) -> float:
        """How far the curves go: twice the largest multiplier, and twice the stream's median norm."""
        reach = 2 * max(abs(m) for m in self.multipliers)
        if isinstance(arm, Add) and arm.direction.resid_norm:
            reach = max(reach, 2 * arm.direction.resid_norm / float(arm.step.norm()))
        return reach

    def _write_samples(
        self, run: Workplace[Questions], made: SteerabilityMap, arms: Mapping[str, Intervention]
    ) -> None:
        """Texts at the chosen cell; without one, at the cell that gains most within the budget."""
        prompts = first_prompts(run.model, run.inputs.report, self.samples, room=2)
        if not prompts:
            return
        cell = made.chosen or strongest(made)
        more = {} if made.chosen else {"note": NOT_CHOSEN.format(cell=cell)}
        run.compute(
            DoseResponse,
            lambda: stating(self._samples(run.model, arms[cell.row], cell, prompts), **more),
        )

    def _samples(
        self, model: Model, arm: Intervention, cell: Cell, prompts: list[str]
    ) -> DoseResponse:
        """The first few prompts, continued at several strengths."""
        room = model.n_ctx - model.tokens(prompts).width
        doses = sorted({0.0, cell.multiplier, -cell.multiplier, 2 * cell.multiplier})
        return dose_response(
            model, arm, prompts, doses, max_new_tokens=max(2, min(self.new_tokens, room)),
            # A text that ends at once has no generated token to steer.
            stop_at_eos=self.positions != "generated",
        )  # fmt: skip


def _layer(arm: Intervention) -> int | None:
    """The layer of an intervention at one site."""
    site = site_of(arm)
    return None if site is None else site.layer
