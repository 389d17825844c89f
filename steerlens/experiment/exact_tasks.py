"""Tasks with exact scores by name: of the reference world, or of files.

A new task of the reference world is one more function and its row in `TASKS`.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypedDict

from steerlens.analyses.comparison.exact_task import Accuracy, ExactTask
from steerlens.data import ContrastSet
from steerlens.experiment.comparison_data import LENGTH, VALIDATION, Stating, world_task
from steerlens.experiment.experiment_data import ExperimentError, text_lines
from steerlens.measures.ordinary_texts import text_halves
from steerlens.models.model import Model
from steerlens.store.files import expanded
from steerlens.testbed import reviews, task_pairs
from steerlens.testbed.pole_target import PoleTarget
from steerlens.testbed.style_transfer import StyleTransfer

FIT = "fit.jsonl"
"""The file of a folder's training pairs."""
CONTEXTS = 24
"""Contexts in which one edited fact is asked."""
KEPT = 4
"""Contexts in which each other fact is asked."""

ExactTaskMaker = Callable[[Stating, Model], ExactTask]


def _labels(stated: Stating, model: Model, *, new: bool) -> ExactTask:
    """The stars of a review: those of the language, or words that never counted stars."""
    seed = 1000 * stated.seed
    asked = task_pairs.star_labels(2 * (stated.n_report // 2), seed + 5, new=new)
    known = {pair.prompt for pair in asked}
    fit, validation = [], []
    for repeat in range(stated.repeats):
        count = 2 * round(stated.n_fit * (1 + VALIDATION) / 2)
        drawn = task_pairs.star_labels(count + len(known), seed + 20 + repeat, new=new)
        first = {pair.prompt: pair for pair in drawn if pair.prompt not in known}
        fresh = ContrastSet(drawn.name, tuple(first.values())[:count], source=drawn.source)
        for part, kept in zip(_parts(fresh, stated.seed), (fit, validation), strict=True):
            kept.append(part)
    return ExactTask(
        concept=asked.name,
        texts=tuple(task_pairs.with_stars(one) for one in fit),
        fit=tuple(fit),
        validation=tuple(validation),
        measures=(Accuracy(asked),),
        **_ordinary(stated),
    )


def _truth(stated: Stating, model: Model) -> ExactTask:
    """The facts of two countries, of a model that is made to tell the truth about the other two."""
    held = {fact.entity for fact in task_pairs.facts()[2:4]}
    seed, count = 1000 * stated.seed, round(stated.n_fit * (1 + VALIDATION))

    def others(pairs: ContrastSet, n: int) -> ContrastSet:
        kept = [
            pair for pair in pairs
            if held.isdisjoint(f"{pair.prompt} {pair.positive} {pair.negative}".split())
        ]  # fmt: skip
        return dataclasses.replace(pairs, pairs=tuple(kept[:n]))

    fit, validation, texts = [], [], []
    for repeat in range(stated.repeats):
        own = seed + 40 + repeat
        drawn = others(reviews.continuations("truth", 4 * count, own, length=LENGTH), count)
        for part, kept in zip(_parts(drawn, stated.seed), (fit, validation), strict=True):
            kept.append(part)
        texts.append(others(reviews.contexts("truth", 4 * stated.n_fit, own), stated.n_fit))
    asked = [fact for fact in task_pairs.facts() if fact.entity in held]
    alone = task_pairs.fact_questions(asked, 2, seed + 6)
    misled = task_pairs.fact_questions(asked, 2 * KEPT, seed + 6, after="untruthful")
    return ExactTask(
        concept="facts",
        texts=tuple(texts),
        fit=tuple(fit),
        validation=tuple(validation),
        target=PoleTarget(model, "truth"),
        measures=(
            Accuracy(
                alone, "alone",
                "share of questions about countries that were not trained on which are answered "
                "right, with nothing before them",
            ),
            Accuracy(misled, "misled", "the same after the start of a text that tells falsehoods"),
        ),
        **_ordinary(stated),
    )  # fmt: skip


def _edit(stated: Stating, model: Model) -> ExactTask:
    """One fact with a new value: said in other words, and other facts kept."""
    seed, fact = 1000 * stated.seed, task_pairs.edited_fact()
    others = [one for one in task_pairs.facts() if one.name != fact.name]

    def asked(facts: Any, n: int, own: int, **options: Any) -> ContrastSet:
        return task_pairs.fact_questions(facts, n, seed + own, after="truthful", **options)

    fit, validation, texts = [], [], []
    for repeat in range(stated.repeats):
        own = asked([fact], stated.n_fit, 30 + repeat, phrases=("plain",), by="prompt")
        # The value that is true in the grammar stands first among the wrong ones.
        pairs = tuple({pair.prompt: pair for pair in reversed(own.pairs)}.values())[::-1]
        drawn = dataclasses.replace(own, pairs=pairs)
        for part, kept in zip(_parts(drawn, stated.seed), (fit, validation), strict=True):
            kept.append(part)
        texts.append(_whole(fit[-1]))
    trained = {pair.prompt for part in (*fit, *validation) for pair in part}
    fresh = asked([fact], 2 * CONTEXTS, 7, phrases=("plain",), by="prompt")
    fresh = dataclasses.replace(
        fresh, pairs=tuple(pair for pair in fresh if pair.prompt not in trained)
    )
    return ExactTask(
        concept="one fact",
        texts=tuple(texts),
        fit=tuple(fit),
        validation=tuple(validation),
        measures=(
            Accuracy(fresh, "edited", "share of other texts after which the new value is said, "
                     "asked in the words of training"),
            Accuracy(
                asked([fact], CONTEXTS, 8, phrases=("possessive",), by="prompt"), "paraphrased",
                "the same asked in other words",
            ),
            Accuracy(asked(others, KEPT, 9), "other facts",
                     "share of questions about the other 15 facts that are right"),
        ),
        **_ordinary(stated),
    )  # fmt: skip


def _style(stated: Stating, model: Model) -> ExactTask:
    """Casual documents rewritten in formal words."""
    made = world_task(stated, model, "register")
    return ExactTask(
        concept="formal style",
        texts=made.texts,
        fit=made.fit,
        validation=made.validation,
        calibrating=made.calibrating,
        neutral=made.neutral,
        target=made.target,
        measures=(StyleTransfer("register", min(32, stated.n_report), 1000 * stated.seed + 9),),
    )


TASKS: Mapping[str, ExactTaskMaker] = MappingProxyType(
    {
        "given labels": lambda stated, model: _labels(stated, model, new=False),
        "new labels": lambda stated, model: _labels(stated, model, new=True),
        "facts": _truth,
        "one fact": _edit,
        "formal style": _style,
    }
)
"""Tasks of the reference world."""


def exact_task(name: str, stated: Stating, model: Model) -> ExactTask:
    """A task by its name.

    Args:
        name: One of `TASKS`; a folder with `fit.jsonl`, prompts with a right and a wrong answer to
            train on, and a file of questions for each score, called after it; or module:name for a
            function of the experiment and the model that makes an `ExactTask`.

    Raises:
        ExperimentError: If there is no such task, or its files cannot be used.
    """
    if name in TASKS:
        return TASKS[name](stated, model)
    if (expanded(name) / FIT).is_file():
        return _of_folder(expanded(name), stated, model)
    if re.fullmatch(r"\w+(\.\w+)*:\w+", name):
        module, _, function = name.partition(":")
        try:
            made = getattr(importlib.import_module(module), function)(stated, model)
        except (ImportError, AttributeError, TypeError) as error:
            raise ExperimentError(
                f"The task {name!r} cannot be made ({error}). Name a function of the experiment and "
                "the model."
            ) from error
        if not isinstance(made, ExactTask):
            raise ExperimentError(f"{name!r} made {made!r:.80}, which is not an ExactTask.")
        return made
    raise ExperimentError(
        f"There is no task {name!r}. Use {', '.join(TASKS)} in the reference world, a folder that "
        f"holds {FIT} and a file of questions for each score, or module:name for one of your own."
    )


def _of_folder(folder: Path, stated: Stating, model: Model) -> ExactTask:
    """The task of a folder: `fit.jsonl`, and every other file is a score."""
    trained = ContrastSet.load(folder / FIT)
    measures = []
    for path in sorted(folder.glob("*.jsonl")):
        if path.name != FIT:
            asked = ContrastSet.load(path).without(trained)
            measures.append(Accuracy(stated.in_chat(model, asked), path.stem.replace("_", " ")))
    if not measures:
        raise ExperimentError(
            f"{folder} holds {FIT} alone, so nothing can be scored. Add a file of questions for each "
            "score, e.g. accuracy.jsonl."
        )
    if stated.neutral is None:
        raise ExperimentError(
            f"The task of {folder} needs ordinary texts for its cost. Give neutral=<a file of texts, "
            "one a line>."
        )
    fit, validation = (stated.in_chat(model, part) for part in _parts(trained, stated.seed))
    return ExactTask(
        concept=folder.name.replace("_", " "),
        texts=(_whole(fit),) * stated.repeats,
        fit=(fit,) * stated.repeats,
        validation=(validation,) * stated.repeats,
        measures=tuple(measures),
        **_ordinary(stated),
    )


def _parts(pairs: ContrastSet, seed: int) -> tuple[ContrastSet, ContrastSet]:
    """Pairs to train on and to stop by, which share no group."""
    held = VALIDATION / (1 + VALIDATION) / 2
    fit, *rest = pairs.split(seed, (1 - 2 * held, held, held))
    return fit, rest[0].merged(rest[1], name=pairs.name)


def _whole(pairs: ContrastSet) -> ContrastSet:
    """Prompts and answers as whole texts, for directions and prompts."""
    whole = (
        dataclasses.replace(
            pair, prompt="", positive=pair.positive_text, negative=pair.negative_text
        )
        for pair in pairs
    )
    return dataclasses.replace(pairs, pairs=tuple(whole))


class _Ordinary(TypedDict):
    calibrating: tuple[str, ...]
    neutral: tuple[str, ...]


def _ordinary(stated: Stating) -> _Ordinary:
    """The texts for the cost."""
    texts = (
        reviews.neutral_texts(stated.n_neutral, seed=1000 * stated.seed + 3)
        if stated.neutral is None
        else text_lines(stated.neutral, stated.n_neutral)
    )
    calibrating, neutral = text_halves(texts)
    return {"calibrating": tuple(calibrating), "neutral": tuple(neutral)}
