"""How long a steerability experiment will take: the work of each part, as its analysis would do it."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

import torch

from steerlens.analyses.prediction.predict_layers import TEXTS
from steerlens.analyses.probe.measure_probe import CONTROLS, FOLDS
from steerlens.analyses.steerability.runners_up import COUNT
from steerlens.analyses.writing.text_batches import batch_rows
from steerlens.data import ContrastSet
from steerlens.directions import Direction
from steerlens.directions.methods import Logistic
from steerlens.experiment.forecast import Forecast, ForecastPart, forecast_of
from steerlens.experiment.steerability_inputs import Questions
from steerlens.interventions.residual import Add
from steerlens.measures.divergence import cost_work
from steerlens.measures.ordinary_texts import BATCH, TOKENS
from steerlens.measures.reading import PAIRS
from steerlens.measures.sweep import plan
from steerlens.measures.tokenised import neutral_texts_of
from steerlens.models.model import Model
from steerlens.models.speed import NOTHING, Work, passes, speed_of, writing_steps
from steerlens.sites import Positions, Site

LOOKS = 4.5
"""How often lengths at equal KL are tried, about."""
CELLS = 1 + COUNT
"""Cells whose texts are confirmed, about: the recommended one and its runners-up. The best one by the
mediated gain is often among them."""
BACKWARD, HOOKED = 2.0, 2.5
"""A backward pass takes as long as so many forward passes; and so does a pass with hooks."""


@runtime_checkable
class Asked(Protocol):
    """The fields of a steerability experiment that decide how long it takes."""

    @property
    def multipliers(self) -> tuple[float, ...]: ...
    @property
    def positions(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def budget(self) -> float: ...
    @property
    def nulls(self) -> int: ...
    @property
    def null_products(self) -> str | None: ...
    @property
    def n_neutral(self) -> int: ...
    @property
    def written_layers(self) -> tuple[int, ...] | None: ...
    @property
    def new_tokens(self) -> int: ...
    @property
    def attributed(self) -> int: ...
    @property
    def strengths(self) -> int: ...
    def sites(self, model: Model) -> tuple[Site, ...]: ...


def steerability_forecast(asked: Asked, model: Model, inputs: Questions) -> Forecast:
    """The parts of the experiment in their order, with what they will take."""
    speed, n_layers = speed_of(model), model.n_layers
    sites, rule = asked.sites(model), getattr(Positions, asked.positions)()
    arms = [Add(Direction(torch.ones(model.d_model), site), rule, 1.0) for site in sites]
    strengths, steered = asked.multipliers, len(asked.multipliers) - 1

    def texts_of(pairs: ContrastSet) -> tuple[int, float]:
        both = [
            len(model.ids(pair.prompt + text))
            for pair in pairs
            for text in (pair.positive, pair.negative)
        ]
        return len(both), sum(both) / len(both)

    def part(name: str, work: Work, without: str = "", at_most: bool = False) -> ForecastPart:
        return ForecastPart(name, speed.seconds(work), without, at_most)

    def swept(
        pairs: ContrastSet, edits: list[Add], multipliers: tuple[float, ...], odds: bool = False
    ) -> Work:
        return plan(model, pairs, edits, multipliers, log_odds_only=odds).work or NOTHING

    rows, width = texts_of(inputs.fit)
    reading = passes(n_layers, rows, width, rows / (2 * PAIRS))
    count = asked.n_neutral if inputs.neutral is None else len(inputs.neutral)
    if inputs.neutral is None:
        ordinary = writing_steps(n_layers, count, 1, TOKENS, count / BATCH)
        half = [_like_written(model, inputs.choose)] * (count // 2)
    else:
        ordinary, half = NOTHING, inputs.neutral[: count // 2]
    looks = NOTHING
    if asked.unit == "equal_kl":
        looks = cost_work(model, half, arms, (0.0, 1.0)) * LOOKS
    every = (
        swept(inputs.choose, arms * asked.nulls, strengths, odds=True) if asked.nulls else NOTHING
    )
    fast = speed_of(model, asked.null_products)
    nulls = ForecastPart("null maps", fast.seconds(every * 2), "nulls 0", True)
    asking, prompt = texts_of(inputs.choose)
    questions = passes(n_layers, asking / 2, prompt)
    whole = Work(states=len(sites) * asking / 2)
    predicted = (
        questions * (1 + HOOKED + BACKWARD) + whole + cost_work(model, half[:TEXTS], arms, (0, 1))
    )
    confirmed = _confirmed(asked, model, inputs, n_layers)
    in_layers = len(sites) if asked.written_layers is None else len(asked.written_layers) + 1
    texts = len(inputs.prompts) * (1 + in_layers * steered)
    long, batches = _mean_length(model, inputs.prompts), 0.0
    if inputs.prompts:
        batches = texts / batch_rows(model, inputs.prompts, asked.new_tokens)
    written = writing_steps(n_layers, texts, long, asked.new_tokens, batches)
    written += passes(n_layers, texts, asked.new_tokens, batches)
    written += Work(states=texts * asked.new_tokens)
    held = questions * (2 * (HOOKED + BACKWARD) + HOOKED * (asked.attributed + 3))
    shifts = sum((swept(p, arms, strengths) for p in inputs.shifts.shifted.values()), NOTHING)
    also = arms[:1] * (1 + asked.nulls)
    others = sum((swept(p, also, strengths, True) for p in inputs.others.values()), NOTHING)
    far = tuple(float(k) for k in range(asked.strengths))
    return forecast_of(
        [
            part("activations", reading),
            ForecastPart("probe", _fit_seconds(model.d_model, len(inputs.fit)) * len(sites)
                         * (1 + CONTROLS) * FOLDS),
            part("ordinary texts", ordinary) if inputs.neutral is None else None,
            part("lengths at equal KL", looks) if asked.unit == "equal_kl" else None,
            part("map", swept(inputs.choose, arms, strengths)),
            part("cost (KL)", cost_work(model, half, arms, strengths)),
            nulls if asked.nulls else None,
            part("predictors of each layer", predicted) if asked.budget > 0 else None,
            part("confirmed in writing", confirmed, "confirmed 0") if inputs.confirming else None,
            part("writing in every cell", written, "written 0") if inputs.prompts else None,
            part("shifted questions", shifts, "shifts") if inputs.shifts.shifted else None,
            part("what carries the gain", held, "attributed 0") if asked.attributed else None,
            part("validity curves", swept(inputs.report, arms[:1], far), "strengths 0")
            if asked.strengths else None,
            part("other concepts", others, "others") if inputs.others else None,
        ]
    )  # fmt: skip


def _confirmed(asked: Asked, model: Model, inputs: Questions, n_layers: int) -> Work:
    """Texts at some cells and under two contexts, each read under both contexts."""
    prompts, new = len(inputs.confirming), asked.new_tokens
    if not prompts:
        return NOTHING
    long = _mean_length(model, inputs.confirming)
    context = sum(len(model.ids(p.positive)) for p in inputs.fit) / len(inputs.fit)
    alike, placed = prompts * (1 + 2 * CELLS), 2 * prompts
    found = writing_steps(n_layers, alike, long, new)
    found += writing_steps(n_layers, placed, long + context, new)
    reads = 2 * (alike + placed)
    found += passes(n_layers, 2 * prompts, long + context, 2) + passes(n_layers, reads, new, 2)
    return found + Work(states=reads * new)


def _like_written(model: Model, asked: ContrastSet) -> str:
    """Words of the questions, about as long as the texts that the model would write."""
    text, length = "", min(TOKENS, model.n_ctx // 2)
    for word in " ".join(neutral_texts_of(asked)).split():
        if text and len(model.ids(text)) >= length:
            break
        text = f"{text} {word}".strip()
    return text


def _mean_length(model: Model, texts: list[str]) -> float:
    return sum(len(model.ids(text)) for text in texts) / max(1, len(texts))


def _fit_seconds(d_model: int, pairs: int) -> float:
    """Seconds of one fit of a probe, on numbers that tell the sides apart."""
    generator = torch.Generator().manual_seed(0)
    sides = [torch.randn(pairs, d_model, generator=generator) + k for k in (0.5, 0.0)]
    fit = Logistic()
    fit(*sides)
    start = time.perf_counter()
    fit(*sides)
    return time.perf_counter() - start
