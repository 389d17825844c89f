"""The criteria by which ways are compared: what each number is, and how it comes from the examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens import stats
from steerlens.analyses.comparison.concept_numbers import ConceptNumbers, Writings
from steerlens.analyses.comparison.crossed import as_ratio, crossed_interval
from steerlens.report.numbers import NOTHING, format_number, format_percent, format_signed
from steerlens.stats import Bounds, Groups

Examples = tuple[list[Float[Tensor, "way repeat _example"]], list[Groups]]
"""Numbers of every example, and the groups of the examples, for each concept."""
Better = Literal["more", "less"]


@runtime_checkable
class Compared(Protocol):
    """What criteria are computed from."""

    @property
    def each(self) -> tuple[ConceptNumbers, ...]: ...
    @property
    def at_budget(self) -> int: ...
    @property
    def has_ideal(self) -> bool: ...
    @property
    def readers(self) -> tuple[str, ...]: ...
    @property
    def parameters(self) -> Int[Tensor, " way"]: ...
    @property
    def stored(self) -> Int[Tensor, " way"]: ...


@dataclass(frozen=True)
class Criterion:
    """One number of every way."""

    name: str
    short: str
    """Its name in tables and figures."""
    unit: str
    meaning: str
    better: Better
    examples: Callable[[Compared], Examples] | None = None
    """The numbers that it is the mean of, where it is one of examples."""
    made: Callable[[Compared], Bounds] | None = None
    """How it comes about where it is not."""
    there: Callable[[Compared], bool] = lambda result: True
    log: bool = False
    """Whether figures show it on a logarithmic axis."""
    written: Callable[[float], str] = format_number
    takes: bool = False
    """Whether it says what a way takes, rather than what it does."""

    def bounds(self, result: Compared) -> Bounds:
        """Value, low and high of every way; NaN where it was not measured."""
        if self.made is not None:
            return self.made(result)
        assert self.examples is not None
        return crossed_interval(*self.examples(result))


def format_count(value: float) -> str:
    """A whole number with its thousands apart.

    >>> format_count(1681536.0)
    '1,681,536'
    """
    return NOTHING if value != value else f"{int(value):,}"


# Of examples --------------------------------------------------------------------------------------


def _nearness(result: Compared, at: str) -> Examples:
    parts, groups = [], []
    for one in result.each:
        assert one.nearness is not None
        kl = getattr(one.nearness, at)
        parts.append(1 - as_ratio(kl, one.nearness.unsteered.expand_as(kl)))
        groups.append(stats.group_numbers(one.nearness.groups))
    return parts, groups


def _of_questions(result: Compared, field: str) -> Examples:
    """A number of every question, at the budget."""
    k = result.at_budget
    return (
        [getattr(one, field)[:, :, k] for one in result.each],
        [stats.group_numbers(one.question_groups) for one in result.each],
    )


def _cost(result: Compared) -> Examples:
    k = result.at_budget
    return [one.kl[:, :, k] for one in result.each], [None for _ in result.each]


def _readings(one: ConceptNumbers, which: int) -> tuple[Writings, str]:
    """What was written, and the name of a reader by its place: each concept has readers of its own."""
    assert one.writings is not None
    return one.writings, tuple(one.writings.steered)[which]


def _written(result: Compared, which: int, change: bool) -> Examples:
    parts = []
    for one in result.each:
        found, name = _readings(one, which)
        steered = found.steered[name]
        parts.append(steered - found.unsteered[name] if change else steered)
    return parts, [None for _ in result.each]


def _of_context(result: Compared) -> Examples:
    """The change as a share of what contexts change."""
    parts = []
    for one in result.each:
        found, name = _readings(one, 0)
        before = found.unsteered[name]
        steered = found.steered[name] - before
        scale = (found.in_context[name] - before).expand_as(steered)
        parts.append(as_ratio(steered, scale))
    return parts, [None for _ in result.each]


def _in_context(result: Compared) -> bool:
    """Whether contexts change what is written, so that there is a scale."""
    if not result.readers:
        return False
    for one in result.each:
        found, name = _readings(one, 0)
        there = found.in_context.get(name)
        if there is None or float((there - found.unsteered[name]).mean()) <= 0:
            return False
    return True


# Of something else --------------------------------------------------------------------------------


def _wrong(result: Compared) -> Bounds:
    """The share of questions that move the wrong way."""
    k, hits, names = result.at_budget, [], []
    for number, one in enumerate(result.each):
        moved = one.gain[:, :, k]
        hits.append((moved < 0).float().masked_fill(moved.isnan(), torch.nan))
        names += [(number, group) for group in one.question_groups]
    return _share(hits, names)


def _well_formed(result: Compared) -> Bounds:
    """The share of clauses that the second reader, of the reference world, finds well-formed."""
    parts, groups = _written(result, 1, change=False)
    return _share(parts, range(sum(part.shape[-1] for part in parts)))


def _share(hits: Sequence[Tensor], names: Sequence[object]) -> Bounds:
    """The mean of numbers from 0 to 1 [way, repeat, example] of several concepts together.

    The interval, Wilson's, is over groups of examples; each has its mean over repetitions.
    """
    found = stats.share_interval(
        torch.cat([part.mean(1) for part in hits], -1), stats.group_numbers(names)
    )
    missing = found[0].isnan()
    value, low, high = (part.masked_fill(missing, torch.nan) for part in found)
    return value, low, high


def _spill(result: Compared) -> Bounds:
    """Mean size of the gain on other concepts: each with the sign that its mean has."""
    parts, groups = [], []
    for one in result.each:
        for name, gains in one.others.items():
            parts.append(gains * gains.mean((-1, -2), keepdim=True).sign())
            groups.append(stats.group_numbers(one.other_groups[name]))
    value, low, high = crossed_interval(parts, groups)
    return value, low.clamp(min=0.0), high


def _range(result: Compared, field: str) -> Bounds:
    """The mean of all trainings, with the least and the most where there are several."""
    every = torch.cat([getattr(one, field) for one in result.each], 1)
    if every.shape[1] == 1:
        return _alone(every[:, 0])
    return every.mean(1), every.amin(1), every.amax(1)


def _alone(value: Tensor) -> Bounds:
    """A number without an interval."""
    unknown = torch.full_like(value, torch.nan)
    return value, unknown, unknown


def _count(result: Compared, field: str) -> Bounds:
    return _alone(getattr(result, field).float())


def _at_most(result: Compared, field: str) -> Bounds:
    return _alone(torch.cat([getattr(one, field) for one in result.each], 1).amax(1))


def _changes_weights(result: Compared) -> bool:
    return any(bool(one.merged.isfinite().any()) for one in result.each)


def _timed(result: Compared) -> bool:
    return all(one.token is not None for one in result.each)


def _ideal(result: Compared) -> bool:
    return result.has_ideal


CRITERIA: tuple[Criterion, ...] = (
    Criterion(
        "share", "share to ideal", "of the way",
        "1 − KL(p* ‖ p_m) / KL(p* ‖ p_0) at the multiplier that came nearest on other texts",
        "more", partial(_nearness, at="at_best"), there=_ideal,
    ),
    Criterion(
        "share at budget", "share at the budget", "of the way",
        "the same at the multiplier that costs the budget; below 0 it leads away from the ideal",
        "more", partial(_nearness, at="at_budget"), there=_ideal,
    ),
    Criterion(
        "gain", "gain", "nats", "rise of the log-odds of the positive answer at the budget", "more",
        partial(_of_questions, field="gain"), written=format_signed,
    ),
    Criterion(
        "written", "written", "change", "change of what a reader makes of the texts, at the budget",
        "more", partial(_written, which=0, change=True), there=lambda result: bool(result.readers),
        written=format_signed,
    ),
    Criterion(
        "written share", "written, share", "of the context's",
        "the same as a share of what contexts of the positive side change", "more", _of_context,
        there=_in_context,
    ),
    Criterion(
        "well-formed", "well-formed", "of clauses", "share of clauses that the grammar can read",
        "more", made=_well_formed, there=lambda result: len(result.readers) > 1, written=format_percent,
    ),
    Criterion(
        "utility", "utility", "nats",
        "change of the log-odds of giving either answer at all, at the budget", "more",
        partial(_of_questions, field="utility"), written=format_signed,
    ),
    Criterion(
        "wrong way", "wrong way", "of questions",
        "share of questions whose log-odds fall (anti-steerable)", "less", made=_wrong,
        written=format_percent,
    ),
    Criterion(
        "other concepts", "other concepts", "nats",
        "mean size of the gain on questions about other concepts", "less", made=_spill,
        there=lambda result: all(one.others for one in result.each),
    ),
    Criterion(
        "kl", "KL", "nats", "KL per token on ordinary texts that did not set the strength", "less",
        _cost,
    ),
    Criterion(
        "seconds", "to make", "s", "processor seconds to make it: mean, least and most", "less",
        made=partial(_range, field="seconds"), log=True, takes=True,
    ),
    Criterion(
        "overhead", "per token", "more time",
        "processor time of a forward pass above that of the model alone, as a share of it", "less",
        made=partial(_range, field="overhead"), written=format_percent, takes=True,
    ),
    Criterion(
        "token", "per written token", "more time",
        "the same of a token that is written, the keys and values before it kept", "less",
        made=partial(_range, field="token"), there=_timed, written=format_percent, takes=True,
    ),
    Criterion(
        "parameters", "parameters", "numbers", "numbers that were trained or fitted", "less",
        made=partial(_count, field="parameters"), log=True, written=format_count,
        takes=True,
    ),
    Criterion(
        "stored", "stored", "bytes", "bytes of these numbers in float32, or of a prompt's text",
        "less", made=partial(_count, field="stored"), log=True, written=format_count,
        takes=True,
    ),
    Criterion(
        "left", "left after removal", "numbers",
        "logits and weights that differ in any bit after the way was removed", "less",
        made=partial(_at_most, field="left"), takes=True, written=format_count,
    ),
    Criterion(
        "merged", "not restored", "of weights",
        "share of the changed weights that adding in place and subtracting again does not restore",
        "less", made=partial(_at_most, field="merged"), there=_changes_weights,
        written=format_percent, takes=True,
    ),
)  # fmt: skip
"""Every criterion, in the order of tables. Those that were not measured are left out."""


def ranks_by(result: Compared) -> str:
    """The name of the criterion that ranks ways."""
    return "share" if result.has_ideal else "gain"
