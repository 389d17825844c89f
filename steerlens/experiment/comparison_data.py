"""The data of a comparison of ways: of the reference world, or of files."""

from __future__ import annotations

import json
from typing import Any, Protocol, runtime_checkable

from steerlens.analyses.comparison.way_task import WayTask
from steerlens.analyses.comparison.ways import exchanges
from steerlens.analyses.confirmation.contexts import ContextError, Contexts
from steerlens.analyses.confirmation.readers import WordReader
from steerlens.data import ContrastSet
from steerlens.data.formats.text import chat_markers
from steerlens.experiment.experiment_data import (
    WORLD,
    Data,
    ExperimentError,
    first_prompts,
    load_others,
    text_lines,
)
from steerlens.measures.ordinary_texts import text_halves
from steerlens.models.model import Model
from steerlens.store.files import expanded
from steerlens.testbed import reviews
from steerlens.testbed.pole_readers import PoleReader, WellFormedReader
from steerlens.testbed.pole_target import PoleTarget

LENGTH = 6
"""Tokens of the answers that are trained on in the reference world."""
VALIDATION = 0.3
"""Validation pairs for each training pair in the reference world."""
CONTEXTS = 6
"""Contexts that take turns before the prompts, for the scale of what is written."""
EXCHANGES = 3
"""Training pairs in each of them, in a chat template."""


@runtime_checkable
class Stating(Protocol):
    """What the data are made by: a `ComparisonExperiment`."""

    @property
    def contrast(self) -> str: ...
    @property
    def training(self) -> str | None: ...
    @property
    def questions(self) -> str | None: ...
    @property
    def others(self) -> tuple[str, ...] | None: ...
    @property
    def neutral(self) -> str | None: ...
    @property
    def words(self) -> str | None: ...
    @property
    def repeats(self) -> int: ...
    @property
    def n_fit(self) -> int: ...
    @property
    def n_report(self) -> int: ...
    @property
    def n_ideal(self) -> int: ...
    @property
    def n_neutral(self) -> int: ...
    @property
    def written(self) -> int: ...
    @property
    def new_tokens(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def in_chat(self) -> Any: ...


def world_task(stated: Stating, model: Model, concept: str) -> WayTask:
    """The data of one concept of the reference world, whose ideal is known.

    All that is measured on is the same for every repetition, and no training pair shares a prompt
    with it.
    """
    seed = stated.seed
    asked = reviews.questions(concept, stated.n_report, seed=1000 * seed + 1)
    held = reviews.continuations(
        concept, 2 * stated.n_ideal, seed=1000 * seed + 2, length=LENGTH
    )  # fmt: skip
    choosing, reached = held.halved(seed)
    known = {pair.prompt for pair in (*held, *asked)}
    fit, validation, texts = [], [], []
    for repeat in range(stated.repeats):
        own = 1000 * seed + 10 + repeat
        count = round(stated.n_fit * (1 + VALIDATION))
        drawn = reviews.continuations(concept, 2 * count, seed=own, length=LENGTH)
        fresh = ContrastSet(
            drawn.name,
            tuple(pair for pair in drawn if pair.prompt not in known)[:count],
            source=drawn.source,
        )
        parts = fresh.split(seed, (1 / (1 + VALIDATION), VALIDATION / (1 + VALIDATION) / 2,
                                   VALIDATION / (1 + VALIDATION) / 2))  # fmt: skip
        fit.append(parts.fit)
        validation.append(parts.choose.merged(parts.report, name=fresh.name))
        texts.append(reviews.contexts(concept, stated.n_fit, seed=own))
    ordinary = (
        reviews.neutral_texts(stated.n_neutral, seed=1000 * seed + 3)
        if stated.neutral is None
        else text_lines(stated.neutral, stated.n_neutral)
    )
    calibrating, neutral = text_halves(ordinary)
    data = Data(texts[0], asked, asked, None)
    others = load_others(WORLD + concept, stated.others, data, stated.n_report, 1000 * seed + 4)
    prompts = tuple(dict.fromkeys(pair.prompt for pair in reached))[: stated.written]
    return WayTask(
        concept=concept,
        texts=tuple(texts),
        fit=tuple(fit),
        validation=tuple(validation),
        report=asked,
        others=others,
        calibrating=tuple(calibrating),
        neutral=tuple(neutral),
        target=PoleTarget(model, concept),
        choosing=choosing,
        reached=reached,
        prompts=prompts,
        readers={
            f"{concept} of the oracle": PoleReader(concept),
            "well-formed": WellFormedReader(),
        }
        if prompts
        else {},
        contexts=_contexts(model, fit[0], texts[0], list(prompts), stated.new_tokens),
        new_tokens=stated.new_tokens,
        temperature=1.0,
    )


def file_task(stated: Stating, model: Model) -> WayTask:
    """The data of one contrast of files.

    Raises:
        ContrastError: If a file cannot be read, or leaves no question.
        ExperimentError: If the training pairs have no prompts, or a word list cannot be read.
    """
    trained = ContrastSet.load(stated.training or stated.contrast)
    if not all(pair.prompt for pair in trained):
        raise ExperimentError(
            f"The pairs of {stated.training or stated.contrast} are texts without a prompt: nothing "
            "can be trained to answer them. Give training=<file of prompts with two answers>."
        )
    fit, validation, report = trained.split(stated.seed, (0.7, 0.15, 0.15))
    texts = ContrastSet.load(stated.contrast)
    if stated.questions is not None:
        validation = validation.merged(report, name=trained.name)
        report = ContrastSet.load(stated.questions).without(trained, texts)
    fit, validation, report = (
        stated.in_chat(model, part.subset(min(n, len(part)), stated.seed))
        for part, n in (
            (fit, stated.n_fit), (validation, len(validation)), (report, stated.n_report),
        )
    )  # fmt: skip
    texts = texts.subset(min(stated.n_fit, len(texts)), stated.seed)
    data = Data(texts, report, report, None)
    others = load_others(stated.contrast, stated.others, data, stated.n_report, stated.seed)
    others = {name: stated.in_chat(model, part) for name, part in others.items()}
    calibrating, neutral = (
        ([], [])  # those that the model writes are not there yet
        if stated.neutral is None
        else text_halves(text_lines(stated.neutral, stated.n_neutral))
    )
    reader = None if stated.words is None else _word_reader(stated.words)
    prompts = first_prompts(model, report, stated.written, stated.new_tokens) if reader else []
    return WayTask(
        concept=trained.name,
        texts=(texts,) * stated.repeats,
        fit=(fit,) * stated.repeats,
        validation=(validation,) * stated.repeats,
        report=report,
        others=others,
        calibrating=tuple(calibrating),
        neutral=tuple(neutral),
        prompts=tuple(prompts),
        readers={"words": reader} if reader and prompts else {},
        contexts=_contexts(model, fit, texts, prompts, stated.new_tokens),
        new_tokens=stated.new_tokens,
    )


def _contexts(
    model: Model, fit: ContrastSet, texts: ContrastSet, prompts: list[str], room: int
) -> tuple[str, ...]:
    """What stands before the prompts for the scale of what is written; () where nothing can."""
    if not prompts:
        return ()
    if chat_markers(prompts[0]):
        shown = [list(fit)[k : k + EXCHANGES] for k in range(0, len(fit), EXCHANGES)]
        return tuple(exchanges(model, some, "positive") for some in shown[:CONTEXTS])
    try:
        return Contexts.from_pairs(model, texts, prompts, room=room).positive[:CONTEXTS]
    except ContextError:
        return ()


def _word_reader(path: str) -> WordReader:
    """The reader of a file of words."""
    try:
        read = json.loads(expanded(path).read_text("utf-8"))
        return WordReader(tuple(read["positive"]), tuple(read["negative"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExperimentError(
            f"words={path!r} cannot be read ({error!r:.120}). Give a JSON file "
            '{"positive": ["good", …], "negative": ["bad", …]}.'
        ) from error
