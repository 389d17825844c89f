"""Which SAE features steer, against DiffMean and against chance, at equal cost?"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from steerlens.analyses.confirmation.contexts import ContextError
from steerlens.analyses.confirmation.written_effect import WrittenEffect
from steerlens.analyses.features.compare_features import (
    UTILITY_DROP,
    compare_features,
    require_settings,
)
from steerlens.analyses.features.comparison_writing import written_arms
from steerlens.analyses.features.feature_comparison import FeatureComparison
from steerlens.analyses.probe.measure_probe import probe
from steerlens.analyses.probe.probe_map import ProbeMap
from steerlens.data import ContrastSet
from steerlens.directions.methods import DiffMean
from steerlens.experiment.confirming import written_effect
from steerlens.experiment.experiment import Experiment
from steerlens.experiment.experiment_data import (
    ExperimentError,
    first_prompts,
    load_data,
    named_parts,
    neutral_stated,
    prompt_groups,
    stating,
)
from steerlens.experiment.fields import (
    SteeredRule,
    require_at_least,
    require_examples,
    require_neutral,
    require_several,
)
from steerlens.experiment.workplace import Inputs, Workplace
from steerlens.interventions import Add
from steerlens.measures.tokenised import questions as scorable
from steerlens.models.model import Model
from steerlens.results import Cell, Result
from steerlens.saes.sae import SAE
from steerlens.sites import Positions
from steerlens.units import BUDGET


@dataclass(frozen=True, kw_only=True)
class SAEInputs(Inputs):
    """What an SAE experiment works on."""

    saes: tuple[SAE, ...]
    fit: ContrastSet
    choose: ContrastSet
    report: ContrastSet
    neutral: list[str] | None
    """Ordinary texts for the cost; None for those that the unsteered model writes."""
    confirming: list[str]
    """What is continued to see what the arms write."""


@dataclass(frozen=True, kw_only=True)
class SAEExperiment(Experiment):
    """Which SAE features steer towards a contrast, at equal cost with DiffMean and with chance?"""

    saes: str = "reviews"
    """"reviews" (the SAEs that ship with the reference model), a folder of SAEs, or a release."""
    sae_ids: tuple[str, ...] = ()
    """Which SAEs of a release; none for the other two."""
    questions: str | None = None
    """A file of prompts with two answers to score; None takes them from `contrast`."""
    positions: SteeredRule = "from_prompt_end"
    """Which tokens are steered."""
    budget: float = BUDGET
    """KL that every arm costs, in nats per token of ordinary text."""
    utility_drop: float = UTILITY_DROP
    """Utility that every arm costs in the second comparison, in nats."""
    k: int = 3
    """Candidates of each arm."""
    targeted: int = 128
    """Vectors from which SAE-TS learns its effects; 0 leaves it out."""
    nulls: int = 20
    """Searches among random features and directions; at least 19, or 0 for no p-values."""
    n_choose: int = 64
    """Most questions to choose on."""
    n_report: int = 64
    """Most questions to report on."""
    neutral: str | None = None
    """A file of ordinary texts for the cost, one a line; None takes documents of the reference
    world, and for a contrast of your own texts that the unsteered model writes."""
    n_neutral: int = 64
    """Most ordinary texts for the cost; half set the lengths and half report."""
    confirmed: int = 24
    """Reporting prompts that DiffMean and the single features continue; 0 for none."""
    new_tokens: int = 16
    """Tokens of each text."""

    kind: ClassVar[str] = "sae"
    results: ClassVar[tuple[type[Result], ...]] = (FeatureComparison, WrittenEffect, ProbeMap)
    parts: ClassVar[Mapping[str, str]] = {
        "fit": "makes the directions and finds the features",
        "choose": "chooses among the candidates",
        "report": "measures what was chosen; had no part in the choice",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require_examples(n_choose=self.n_choose, n_report=self.n_report)
        require_neutral(self.n_neutral)
        require_at_least(0, confirmed=self.confirmed)
        require_at_least(2, new_tokens=self.new_tokens)
        require_several(confirmed=self.confirmed)
        if repr(self.method) != repr(DiffMean()):
            raise ExperimentError(
                f"method={self.method!r}: features are compared with DiffMean. Compare other methods "
                "by SteerabilityExperiment."
            )
        try:
            require_settings(
                budget=self.budget, utility_drop=self.utility_drop, targeted=self.targeted,
                nulls=self.nulls, k=self.k,
            )  # fmt: skip
        except ValueError as error:
            raise ExperimentError(str(error)) from error

    def load(self, model: Model) -> SAEInputs:
        """The SAEs, and three parts of the data that share no question."""
        saes = self.load_saes(model)
        data = load_data(
            self.contrast, self.questions, (self.n_fit, self.n_choose, self.n_report),
            self.n_neutral, self.seed, self.neutral,
        )  # fmt: skip
        data = self.data_in_chat(model, data)
        for asked in (data.choose, data.report):
            scorable(model, asked)
        used = {sae.site.hook: {"name": sae.name, "hash": sae.hash} for sae in saes}
        return SAEInputs(
            data=named_parts(data, {}),
            stated={"saes": used, "neutral": neutral_stated(data.neutral)},
            saes=saes, fit=data.fit, choose=data.choose, report=data.report, neutral=data.neutral,
            confirming=first_prompts(model, data.report, self.confirmed, self.new_tokens),
        )  # fmt: skip

    def measure(self, run: Workplace[SAEInputs]) -> None:
        """Probes the sites of the SAEs, and compares features with directions there."""
        asked, rule = run.inputs, getattr(Positions, self.positions)()
        read = run.activations(asked.fit, [sae.site for sae in asked.saes])
        run.compute(
            ProbeMap,
            lambda: stating(
                probe(read, seed=self.seed, progress=run.progress), data_name=asked.fit.name
            ),
        )
        made = run.compute(
            FeatureComparison,
            lambda: compare_features(
                run.model, asked.saes, read, asked.choose, asked.report, k=self.k,
                neutral=self.n_neutral if asked.neutral is None else asked.neutral,
                budget=self.budget, utility_drop=self.utility_drop,
                positions=rule, nulls=self.nulls,
                targeted=self.targeted, seed=self.seed, progress=run.progress,
                cells=run.cells.part("comparison"),
            ),
        )  # fmt: skip
        if len(asked.confirming) > 1:
            self._confirm(run, made, *written_arms(made, asked.saes, read, rule))

    def _confirm(
        self,
        run: Workplace[SAEInputs],
        made: FeatureComparison,
        arms: Mapping[str, Add],
        at: Sequence[Cell],
    ) -> None:
        """What DiffMean and the single features write at equal KL."""
        asked = run.inputs
        if not arms:
            return
        try:
            written_effect(
                run, arms, at, asked.fit, asked.confirming,
                prompt_groups(asked.report, asked.confirming), new_tokens=self.new_tokens,
                seed=self.seed,
            )  # fmt: skip
        except ContextError as error:
            run.keep(stating(made, not_written=str(error)))

    def load_saes(self, model: Model) -> tuple[SAE, ...]:
        """The SAEs, where and in the precision in which the model computes; each checked to fit.

        Raises:
            SAEError: If one cannot be read, or was made for another model.
            ExperimentError: If there is none at the asked layers.
        """
        where: dict[str, Any] = {"device": model.device, "dtype": getattr(torch, self.dtype)}
        if self.sae_ids:
            found = [SAE.load(self.saes, name, **where) for name in self.sae_ids]
        elif self.saes == "reviews":
            layers = self.layers or range(model.n_layers)
            found = [SAE.load(f"reviews/{layer}", **where) for layer in layers]
        else:
            root = Path(self.saes)
            folders = sorted(path.parent for path in root.glob("**/cfg.json"))
            if not folders:
                raise ExperimentError(
                    f"{self.saes!r} is neither 'reviews' nor a folder that holds SAEs. For a "
                    "published release, name its SAEs: sae_ids=(…)."
                )
            found = [SAE.load(folder, **where) for folder in folders]
        if self.layers is not None:
            found = [one for one in found if one.site.layer in self.layers]
        if not found:
            raise ExperimentError(f"{self.saes!r} has no SAE at layers {self.layers}.")
        if self.dtype != "float32":
            found = [_of_any_precision(one, model) for one in found]
        for one in found:
            one.require_fits(model)
        return tuple(sorted(found, key=lambda one: one.site.layer))


def _of_any_precision(sae: SAE, model: Model) -> SAE:
    """An SAE of the same checkpoint in another precision, whose fingerprint cannot be compared."""
    if not sae.fingerprint or sae.model != model.name or sae.fingerprint == model.fingerprint:
        return sae
    warnings.warn(
        f"{sae.name!r} was trained on {sae.model!r} in another precision or on other weights; in "
        f"{model.dtype} it cannot be checked which.",
        stacklevel=3,
    )
    return replace(sae, fingerprint="")
