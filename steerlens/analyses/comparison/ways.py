"""Ways by name: a direction, a prompt, an operator, or any form trained for any objective."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, cast

from steerlens.analyses.comparison.operator_ways import OPERATORS
from steerlens.analyses.comparison.way_data import Way, WayData, WayError
from steerlens.analyses.confirmation.contexts import Contexts, Side
from steerlens.arguments import ArgumentError, as_int
from steerlens.data import ContrastPair
from steerlens.data.formats.chat import render_chat, turns_of
from steerlens.data.formats.text import chat_markers
from steerlens.directions.methods import METHODS, DiffMean, as_method
from steerlens.directions.methods.method import Method
from steerlens.forms import (
    DReFT,
    Form,
    FullWeights,
    Joint,
    LocalWeight,
    LoRA,
    LoReFT,
    LowRankAdapter,
    PostBlock,
    ReFTr1,
    SoftPrefix,
    VectorForm,
)
from steerlens.interventions import Add
from steerlens.interventions.prompt import Prompt
from steerlens.measures.reading import activations
from steerlens.models.model import Model
from steerlens.protocols import Intervention
from steerlens.saes import SAE, FeatureAdapter, SAEError
from steerlens.training.objectives.bipo import BiPO
from steerlens.training.objectives.dpo import DPO
from steerlens.training.objectives.lm import LM
from steerlens.training.objectives.match_distribution import MatchDistribution
from steerlens.training.objectives.objective import Objective
from steerlens.training.objectives.reps import RePS
from steerlens.training.objectives.simpo import SimPO
from steerlens.training.objectives.split import Split
from steerlens.training.trained_intervention import TrainedIntervention
from steerlens.training.trainer import Trainer
from steerlens.training.training_errors import DivergedError

FORMS: Mapping[str, Callable[[WayData], Form]] = MappingProxyType(
    {
        "vector": lambda data: VectorForm(data.site, data.positions),
        # The features of the model's own SAE, of those that ship with steerlens.
        "FSRL": lambda data: FeatureAdapter(_shipped_sae(data), positions=data.positions),
        "LoReFT": lambda data: LoReFT(data.site, 4, data.positions),
        "D-ReFT": lambda data: DReFT(data.site, 4, data.positions),
        "ReFT-r1": lambda data: ReFTr1(data.site, positions=data.positions),
        "adapter": lambda data: LowRankAdapter(data.site, 4, positions=data.positions),
        "post-block": lambda data: PostBlock(4, positions=data.positions),
        # Within 60 steps these two need more than their own rates, which are for longer trainings.
        "LoRA": lambda data: LoRA(4, rate=6e-3),
        "local weight": lambda data: LocalWeight(data.site.layer, rate=5e-3),
        "full weights": lambda data: FullWeights(),
        "joint": lambda data: Joint(
            LoRA(4, targets=("q", "k", "v", "o", "in", "down")),
            PostBlock(4, positions=data.positions),
        ),
        "soft prefix": lambda data: SoftPrefix(8),
    }
)
"""Forms by the names that ways give them; one-site forms act at the layer of the comparison."""
OBJECTIVES: Mapping[str, Callable[[WayData], Objective]] = MappingProxyType(
    {
        "LM": lambda data: LM(),
        "SPLIT": lambda data: Split(),
        "BiPO": lambda data: BiPO(),
        "DPO": lambda data: DPO(),
        "SimPO": lambda data: SimPO(),
        # β of the paper grows with the answers' length until the loss is the positive answer's alone.
        "RePS": lambda data: RePS(cap=3.0),
        "ideal": lambda data: MatchDistribution(_target(data)),
    }
)
"""Objectives by the names that ways give them."""
PROMPT = "prompt"
SHOTS = 3


def way_named(name: str) -> Way:
    """A way by its name.

    Args:
        name: A method of steerlens.directions.methods ("DiffMean", "PCA"); "prompt" or "prompt(5)",
            so many texts of the positive side in front; a form of `FORMS`, trained by LM, or
            "<form>, <objective>" with an objective of `OBJECTIVES`; an operator of `OPERATORS`
            ("turn", "SADI heads"); or "module:name" for one of your own, or for any function that
            makes an intervention of a `WayData`.

    Raises:
        WayError: If there is no such way.

    >>> way_named("vector, SPLIT")
    Trained(form='vector', objective='SPLIT')
    >>> way_named("LoRA"), way_named("prompt(2)")
    (Trained(form='LoRA', objective='LM'), FewShot(shots=2))
    """
    text = name.strip()
    if re.fullmatch(r"\w+(\.\w+)*:\w+", text):
        return _of_module(text)
    if text in OPERATORS:
        return OPERATORS[text]
    form, _, objective = (part.strip() for part in text.partition(","))
    if form in FORMS:
        return Trained(form, objective or "LM")
    if match := re.fullmatch(rf"{PROMPT}(?:\((\d+)\))?", text):
        return FewShot(int(match[1] or SHOTS))
    if text.partition("(")[0] in METHODS:
        try:
            return FromMethod(as_method(text))
        except ArgumentError as error:
            raise WayError(str(error)) from error
    raise WayError(
        f"There is no way {name!r}. Use a method ({', '.join(METHODS)}), {PROMPT!r}, a form "
        f"({', '.join(FORMS)}), with an objective after a comma if it is not LM "
        f"({', '.join(OBJECTIVES)}), an operator ({', '.join(OPERATORS)}), or module:name for one of "
        "your own."
    )


def _of_module(text: str) -> Way:
    module, _, name = text.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
        made: Any = found() if isinstance(found, type) else found
    except (ImportError, AttributeError, TypeError) as error:
        raise WayError(
            f"The way {text!r} cannot be made ({error}). Name a function of a WayData, or a class "
            "that takes no arguments and can be called so."
        ) from error
    if not callable(made):
        raise WayError(
            f"{text!r} is {made!r:.80}, which cannot be called. A way takes a WayData and returns an "
            "intervention."
        )
    return cast(Way, made)  # what it returns is held to the model when it is made


@dataclass(frozen=True)
class FromMethod:
    """A direction of a method, added at one site as it was fitted: no gradients."""

    method: Method = field(default_factory=DiffMean)

    def __call__(self, data: WayData) -> Intervention:
        read = activations(data.model, data.texts, [data.site], progress=False)
        direction = read.direction(data.site, method=self.method)
        return Add(direction, data.positions, unit="direction")


@dataclass(frozen=True)
class FewShot:
    """Texts of the positive side in front of every text.

    In a chat template they are exchanges; else whole sentences of the texts that directions are
    fitted on. They take at most a third of the model's context, so there may be fewer than asked, and
    the first one is the first that fits.
    """

    shots: int = SHOTS

    def __post_init__(self) -> None:
        object.__setattr__(self, "shots", as_int("shots", self.shots, least=1))

    def __call__(self, data: WayData) -> Intervention:
        """The prompt.

        Raises:
            WayError: If not one text fits into a third of the context.
        """
        if chat_markers(data.fit[0].prompt):
            texts = [exchanges(data.model, [pair], "positive") for pair in data.fit]
        else:
            made = Contexts.from_pairs(data.model, data.texts, [data.fit[0].prompt])
            texts = [text.strip() + " " for text in made.positive]
        shown, count, room = "", 0, data.model.n_ctx // 3
        for text in texts:
            if len(data.model.ids(shown + text)) <= room:
                shown, count = shown + text, count + 1
            elif shown:
                break
            if count == self.shots:
                break
        if not shown:
            raise WayError(
                f"No text for the prompt, like {texts[0]!r:.80}, fits into {room} tokens, a third of "
                f"the context of {data.model.name!r}. Leave the prompt out."
            )
        return Prompt(shown)


def exchanges(model: Model, pairs: Sequence[ContrastPair], side: Side) -> str:
    """Prompts in a chat template, each with its answer of one side and the end of that turn."""
    answer = "ANSWER"
    turns = [*turns_of("USER"), {"role": "assistant", "content": answer}, *turns_of("USER")]
    rest = render_chat(model, turns).rpartition(answer)[2]
    end = "\n"
    for stop in (model.text([i]) for i in model.end_ids):
        if stop and stop in rest:
            after = rest[rest.index(stop) + len(stop) :]
            end = stop + after[: len(after) - len(after.lstrip())]
            break
    return "".join(pair.prompt + getattr(pair, side) + end for pair in pairs)


@dataclass(frozen=True)
class Trained:
    """A form that is trained for an objective."""

    form: str
    """One of `FORMS`."""
    objective: str = "LM"
    """One of `OBJECTIVES`."""

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise WayError(
                f"There is no objective {self.objective!r} to train {self.form} by. Use one of "
                f"{', '.join(OBJECTIVES)}."
            )

    def __call__(self, data: WayData) -> TrainedIntervention:
        """The trained form; of several rates, the one with the lowest validation loss.

        Raises:
            DivergedError: If training diverges at every rate.
        """
        form, objective = FORMS[self.form](data), OBJECTIVES[self.objective](data)
        found: list[tuple[float, TrainedIntervention]] = []
        failed: DivergedError | None = None
        for factor in data.rates:
            look = max(5, data.steps // 6)
            trainer = Trainer(
                objective, data.steps, factor * form.rate, data.batch, seed=data.seed,
                look_every=look,
            )  # fmt: skip
            try:
                made = trainer.fit(
                    form,
                    data.model,
                    data.fit,
                    validation=data.validation,
                    progress=data.progress,
                )
            except DivergedError as error:
                failed = error
                continue
            found.append((_loss(made), made))
        if not found:
            assert failed is not None  # there is at least one rate
            raise failed
        return min(found, key=lambda one: one[0])[1]


def _loss(made: TrainedIntervention) -> float:
    """The lowest validation loss; without validation pairs, the mean of the last steps'."""
    history = made.history
    if history.validation.numel():
        return float(history.validation.mean(1).min())
    return float(history.losses[-10:].mean())


def _shipped_sae(data: WayData) -> str:
    """Where the SAE of the model at the comparison's site is."""
    source = f"{data.model.name}/{data.site.layer}"
    try:
        SAE.load(source).require_fits(data.model)
    except SAEError as error:
        raise WayError(
            f"FSRL needs an SAE of {data.model.name!r} at {data.site}, and none ships with steerlens "
            f"({error}). Make a way of your own with FeatureAdapter(<folder>)."
        ) from error
    return source


def _target(data: WayData):
    if data.target is None:
        raise WayError(
            "The objective 'ideal' needs the exact distribution that is wanted, which is known on the "
            "reference model alone. Use LM."
        )
    return data.target
