"""The data of an experiment: three parts that share no question, and ordinary texts."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from steerlens.data import ContrastPair, ContrastSet
from steerlens.measures.ordinary_texts import WRITTEN
from steerlens.models.model import Model
from steerlens.results import Result
from steerlens.store.files import expanded
from steerlens.testbed import reviews
from steerlens.testbed.grammar import CONCEPTS
from steerlens.testbed.review_grammar import TOPICS

R = TypeVar("R", bound=Result)
WORLD = "reviews/"
"""Contrasts of the reference world are named "reviews/sentiment", "reviews/register", …"""


class ExperimentError(ValueError):
    """An experiment that cannot be run as it is written."""


class DataWarning(UserWarning):
    """What the report on an experiment's data warns of."""


def remarks_on(data: Mapping[str, ContrastSet]) -> dict[str, dict[str, list[str]]]:
    """Warnings and notes of the report on each part of the data, where there are any."""
    found = {part: pairs.report for part, pairs in data.items()}
    return {
        part: {"warnings": list(report.warnings), "notes": list(report.notes)}
        for part, report in found.items()
        if report.warnings or report.notes
    }


def warn_of_data(remarks: Mapping[str, Mapping[str, list[str]]]) -> None:
    """Warns of what the reports on the data warn of: each warning once, with the parts it is about."""
    parts: dict[str, list[str]] = {}
    for part, remark in remarks.items():
        for text in remark["warnings"]:
            parts.setdefault(text, []).append(part)
    for text, where in parts.items():
        warnings.warn(f"{', '.join(where)}: {text}", DataWarning, stacklevel=5)


class Data(NamedTuple):
    """Three parts that share no question, and ordinary texts for the cost."""

    fit: ContrastSet
    choose: ContrastSet
    report: ContrastSet
    neutral: list[str] | None
    """None for texts that the unsteered model writes."""
    ordinary: str = WRITTEN
    """What the ordinary texts are, in words."""


def load_data(
    contrast: str,
    questions: str | None,
    sizes: tuple[int, int, int],
    n_neutral: int,
    seed: int,
    neutral: str | None = None,
) -> Data:
    """The three parts of an experiment's data.

    Args:
        contrast: "reviews/<concept>", or a file that `ContrastSet.load` reads. Directions are
            fitted on it.
        questions: A second file, whose prompts are scored; None to split `contrast` in three.
        sizes: Most pairs to fit, choose and report on.
        n_neutral: Most ordinary texts.
        neutral: A file of ordinary texts, one a line; None for documents of the reference world, and
            for a contrast of one's own those that the unsteered model writes.

    Raises:
        ContrastError: If a file cannot be read or has too few questions.
        ExperimentError: If nothing in the data has a prompt with two answers.
    """
    if contrast.startswith(WORLD):
        made = _from_the_world(contrast.removeprefix(WORLD), sizes, n_neutral, seed)
        return made if neutral is None else _with_texts(made, neutral, n_neutral)
    pairs = ContrastSet.load(contrast)
    if questions is None:
        if not all(pair.prompt for pair in pairs):
            raise ExperimentError(
                f"The pairs of {contrast} are texts without a prompt: they can fit a direction, but "
                "have no question whose answers could be scored. Give questions=<file> as well."
            )
        parts = pairs.split(seed)
    else:
        asked = ContrastSet.load(questions)
        known = {text for p in pairs for text in (*p.keys, p.prompt, p.positive, p.negative)}
        fresh = _without(asked, known).without(pairs)
        parts = (pairs, *fresh.halved(seed))
    fit, choose, held = (
        part.subset(min(n, len(part)), seed) for part, n in zip(parts, sizes, strict=True)
    )
    made = Data(fit, choose, held, None)
    return made if neutral is None else _with_texts(made, neutral, n_neutral)


def _with_texts(data: Data, path: str, n: int) -> Data:
    """The data with the ordinary texts of a file."""
    return data._replace(neutral=text_lines(path, n), ordinary=f"texts of {Path(path).name}")


def text_lines(path: str, n: int) -> list[str]:
    """The first lines of a file of ordinary texts that differ.

    Raises:
        ExperimentError: If it cannot be read, or is not text in UTF-8.
    """
    try:
        text = expanded(path).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(
            f"neutral={path!r} cannot be read ({error}). Give a UTF-8 file of ordinary texts, one a "
            "line."
        ) from error
    if "\x00" in text:
        raise ExperimentError(
            f"neutral={path!r} holds NUL characters, as UTF-16 and binary files do. Save it as UTF-8, "
            "one ordinary text a line."
        )
    lines = map(str.strip, text.splitlines())
    return list(dict.fromkeys(filter(None, lines)))[:n]


def named_parts(data: Data, more: Mapping[str, ContrastSet]) -> dict[str, ContrastSet]:
    """The parts of the data by name, for the manifest.

    Raises:
        ExperimentError: If one of the others has the name of a part.
    """
    parts = {"fit": data.fit, "choose": data.choose, "report": data.report}
    if taken := sorted(parts.keys() & more.keys()):
        raise ExperimentError(
            f"{taken[0]!r} is the name of a part of the data, so a file of questions cannot have "
            "it. Write its path another way, e.g. ./" + taken[0]
        )
    return {**parts, **more}


def stating(found: R, **facts: str) -> R:
    """A result that states more of how it was made, such as `data_name` or `ordinary`."""
    return dataclasses.replace(found, made_by={**found.made_by, **facts})  # type: ignore[type-var]


def neutral_stated(neutral: list[str] | None) -> dict[str, Any]:
    """What a manifest states of the ordinary texts."""
    if neutral is None:
        return {"texts": WRITTEN}
    digest = hashlib.sha256("\0".join(neutral).encode()).hexdigest()
    return {"texts": len(neutral), "hash": digest}


def load_pairs(contrast: str, n: int, seed: int) -> ContrastSet:
    """What `load_data` fits on, where nothing needs to be scored."""
    if contrast.startswith(WORLD):
        fit = reviews.contexts(contrast.removeprefix(WORLD), n, seed=3 * seed)
        return dataclasses.replace(fit, name=f"{contrast.removeprefix(WORLD)} in reviews")
    pairs = ContrastSet.load(contrast)
    return pairs.subset(min(n, len(pairs)), seed)


def _from_the_world(concept: str, sizes: tuple[int, int, int], n_neutral: int, seed: int) -> Data:
    fit = load_pairs(WORLD + concept, sizes[0], seed)
    asked = sum(sizes[1:])
    known = {text for pair in fit for text in (pair.positive, pair.negative)}
    fresh = _without(reviews.questions(concept, 3 * asked, seed=3 * seed + 1), known)
    pairs = fresh.pairs[:asked]
    return Data(
        fit,
        dataclasses.replace(fresh, name=fit.name, pairs=pairs[: sizes[1]]),
        dataclasses.replace(fresh, name=fit.name, pairs=pairs[sizes[1] :]),
        reviews.neutral_texts(n_neutral, seed=3 * seed + 2),
        "documents of the reference world",
    )


def _without(asked: ContrastSet, known: set[str]) -> ContrastSet:
    """The questions, each prompt once, that no known text gives away."""
    kept: dict[str, ContrastPair] = {}
    for pair in asked:
        if pair.prompt not in known and not known.intersection(pair.keys):
            kept.setdefault(pair.prompt, pair)
    return dataclasses.replace(asked, pairs=tuple(kept.values()))


class Shifts(NamedTuple):
    """Questions like those that directions are fitted on, and shifted ones by the name of the shift."""

    in_distribution: ContrastSet
    shifted: dict[str, ContrastSet]


def load_shifts(
    contrast: str, shifts: tuple[str, ...] | None, data: Data, n: int, seed: int
) -> Shifts:
    """Shifted questions about the same contrast: of another topic, register, form or wording.

    Args:
        shifts: Files of questions, or templates with "{prompt}" that reword the reporting ones.
            None takes every topic and register of the reference world and its negations, and
            nothing for a file. The world's questions then all have one form of clause, those in
            distribution too. Otherwise topics would differ in how many questions are negated.
        n: Most questions of a shift.

    Raises:
        ContrastError: If a file cannot be read, or holds no question that is new.
    """
    if shifts is None:
        if not contrast.startswith(WORLD):
            return Shifts(data.report, {})
        return _shifts_in_the_world(contrast.removeprefix(WORLD), data, n, seed)
    found = {}
    for shift in shifts:
        if "{prompt}" in shift:
            found[shift] = data.report.with_template(shift)
        else:
            found[shift] = _fresh(shift, data, n, seed)
    return Shifts(data.report, found)


def _shifts_in_the_world(concept: str, data: Data, n: int, seed: int) -> Shifts:
    plain, negated = ("fact", "negated-fact") if concept == "truth" else ("plain", "negated")

    def asked(name: str, count: int, **kept: str) -> ContrastSet:
        made = reviews.questions(concept, count, seed=3 * seed + 1, **kept)  # type: ignore[arg-type]
        return dataclasses.replace(made.without(*data[:3]), name=name)

    in_distribution = asked(f"{concept}, {plain}", n, form=plain)
    kept: dict[str, dict[str, str]] = {topic: {"topic": topic, "form": plain} for topic in TOPICS}
    if concept != "register":
        kept |= {pole: {"register": pole, "form": plain} for pole in ("formal", "casual")}
    kept["negated"] = {"form": negated}
    shifted = {name: asked(name, n, **f).without(in_distribution) for name, f in kept.items()}
    return Shifts(in_distribution, shifted)


def load_others(
    contrast: str, others: tuple[str, ...] | None, data: Data, n: int, seed: int
) -> dict[str, ContrastSet]:
    """Questions about other concepts by name: what steering should leave alone.

    Args:
        others: Files of questions, or "reviews/<concept>". None takes the other concepts of the
            reference world, and nothing for a file.

    Raises:
        ContrastError: If a file cannot be read, or holds no question that is new.
    """
    if others is None:
        if not contrast.startswith(WORLD):
            return {}
        others = tuple(WORLD + c for c in CONCEPTS if c != contrast.removeprefix(WORLD))
    return {name.removeprefix(WORLD): _fresh(name, data, n, seed) for name in others}


def _fresh(name: str, data: Data, n: int, seed: int) -> ContrastSet:
    """The questions of a file or of the world that the experiment's own parts do not hold."""
    if name.startswith(WORLD):
        asked = reviews.questions(name.removeprefix(WORLD), n, seed=3 * seed + 1)
    else:
        asked = ContrastSet.load(name)
    kept = asked.without(*data[:3])
    return kept.subset(min(n, len(kept)), seed)


def first_prompts(model: Model, asked: ContrastSet, count: int, room: int) -> list[str]:
    """The first few different prompts that leave room for new tokens, one of each group first."""
    fits = [len(model.ids(pair.prompt)) + room <= model.n_ctx for pair in asked]
    firsts: dict[str, str] = {}
    for pair, group, fitting in zip(asked, asked.groups, fits, strict=True):
        if fitting:
            firsts.setdefault(group, pair.prompt)
    others = (pair.prompt for pair, fitting in zip(asked, fits, strict=True) if fitting)
    distinct = dict.fromkeys(itertools.chain(firsts.values(), others))
    return list(itertools.islice(distinct, count))


def prompt_groups(asked: ContrastSet, prompts: Sequence[str]) -> list[str]:
    """The group of each of some prompts of a set of questions."""
    groups = {pair.prompt: group for pair, group in zip(asked, asked.groups, strict=True)}
    return [groups[prompt] for prompt in prompts]
