"""The criteria by which ways are compared: what each number is, and how it comes from the examples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from steerlens import stats
from steerlens.analyses.comparison.concept_numbers import Afterwards, ConceptNumbers, Writings
from steerlens.analyses.comparison.criterion import (
    Compared,
    Criterion,
    Examples,
    format_count,
    format_tokens,
)
from steerlens.analyses.comparison.crossed import as_ratio, as_ratios, crossed_interval
from steerlens.analyses.comparison.fading import fading_interval
from steerlens.report.numbers import format_percent, format_signed
from steerlens.stats import Bounds

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
    """The change as a share of what contexts change, each the mean over concepts."""
    parts, scales = [], []
    for one in result.each:
        found, name = _readings(one, 0)
        before = found.unsteered[name]
        parts.append(found.steered[name] - before)
        scales.append((found.in_context[name] - before).expand_as(parts[-1]))
    return as_ratios(parts, scales), [None for _ in result.each]


def _in_context(result: Compared) -> bool:
    """Whether contexts change what is written, on average over concepts, so that there is a scale."""
    if not result.readers:
        return False
    changes = []
    for one in result.each:
        found, name = _readings(one, 0)
        if name not in found.in_context:
            return False
        changes.append(float((found.in_context[name] - found.unsteered[name]).mean()))
    return sum(changes) > 0


def _after(result: Compared, field: str) -> Examples:
    """The mean over the tokens since a way was switched off, of every text."""
    parts = [getattr(one, field).mean(-1) for one in _afterwards(result)]
    return parts, [None for _ in parts]


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


def _fading(result: Compared, field: str) -> Bounds:
    """Tokens until the KL stays below a tenth of its first value."""
    return fading_interval([getattr(one, field) for one in _afterwards(result)])


def _afterwards(result: Compared) -> list[Afterwards]:
    return [one.afterwards for one in result.each if one.afterwards is not None]


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


def _switched_off(result: Compared) -> bool:
    return len(_afterwards(result)) == len(result.each)


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
        "more", made=_well_formed, there=lambda result: len(result.readers) > 1,
        written=format_percent, about="breaks",
    ),
    Criterion(
        "utility", "utility", "nats",
        "change of the log-odds of giving either answer at all, at the budget", "more",
        partial(_of_questions, field="utility"), written=format_signed, about="breaks",
    ),
    Criterion(
        "wrong way", "wrong way", "of questions",
        "share of questions whose log-odds fall (anti-steerable)", "less", made=_wrong,
        written=format_percent, about="breaks",
    ),
    Criterion(
        "other concepts", "other concepts", "nats",
        "mean size of the gain on questions about other concepts", "less", made=_spill,
        there=lambda result: all(one.others for one in result.each), about="breaks",
    ),
    Criterion(
        "kl", "KL", "nats", "KL per token on ordinary texts that did not set the strength", "less",
        _cost, least=0.0, about="breaks",
    ),
    Criterion(
        "seconds", "to make", "s", "processor seconds to make it: mean, least and most", "less",
        made=partial(_range, field="seconds"), log=True, about="takes",
    ),
    Criterion(
        "overhead", "per token", "more time",
        "processor time of a forward pass above that of the model alone, as a share of it", "less",
        made=partial(_range, field="overhead"), written=format_percent, about="takes",
    ),
    Criterion(
        "token", "per written token", "more time",
        "the same of a token that is written, the keys and values before it kept", "less",
        made=partial(_range, field="token"), there=_timed, written=format_percent, about="takes",
    ),
    Criterion(
        "parameters", "parameters", "numbers", "numbers that were trained or fitted", "less",
        made=partial(_count, field="parameters"), log=True, written=format_count,
        about="takes",
    ),
    Criterion(
        "stored", "stored", "bytes", "bytes of these numbers in float32, or of a prompt's text",
        "less", made=partial(_count, field="stored"), log=True, written=format_count,
        about="takes",
    ),
    Criterion(
        "left", "left after removal", "numbers",
        "logits and weights that differ in any bit after the way was removed", "less",
        made=partial(_at_most, field="left"), about="leaves", written=format_count,
    ),
    Criterion(
        "merged", "not restored", "of weights",
        "share of the changed weights that adding in place and subtracting again does not restore",
        "less", made=partial(_at_most, field="merged"), there=_changes_weights,
        written=format_percent, about="leaves",
    ),
    Criterion(
        "kept", "after, cache kept", "nats",
        "KL per token from a run that was never steered, since the way was switched off in the middle "
        "of a text whose keys and values are kept",
        "less", partial(_after, field="kept"), least=0.0, there=_switched_off, about="leaves",
    ),
    Criterion(
        "recomputed", "after, recomputed", "nats",
        "the same with keys and values recomputed: what the text alone leaves, which no way takes back",
        "less", partial(_after, field="recomputed"), least=0.0, there=_switched_off, about="leaves",
    ),
    Criterion(
        "in cache", "in the cache alone", "nats",
        "KL per token from the recomputed to the kept cache, on the same text", "less",
        partial(_after, field="in_cache"), least=0.0, there=_switched_off, about="leaves",
    ),
    Criterion(
        "fading", "until a tenth, kept", "tokens",
        "tokens since the switch-off, the cache kept, until the mean KL stays below a tenth of its "
        "first value; \"more\" than were read",
        "less", made=partial(_fading, field="kept"), there=_switched_off, about="leaves",
        written=format_tokens,
    ),
    Criterion(
        "fading recomputed", "until a tenth, recomputed", "tokens", "the same, recomputed", "less",
        made=partial(_fading, field="recomputed"), there=_switched_off, about="leaves",
        written=format_tokens,
    ),
)  # fmt: skip
"""Every criterion, in the order of tables. Those that were not measured are left out."""


def ranks_by(result: Compared) -> str:
    """The name of the criterion that ranks ways."""
    return "share" if result.has_ideal else "gain"
