"""Constraints on ways, and the verdict on each way by each of them: with its number."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

from steerlens.analyses.comparison.criterion import format_tokens
from steerlens.report.numbers import NOTHING, format_interval, format_number, format_percent
from steerlens.stats import Bounds, Interval


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """What a way must keep to; None and True ask nothing.

    A bound is compared with the estimate, not with an end of its interval, so that wide intervals
    exclude nothing. `Recommendation.unsure` names the ways whose interval holds the bound.
    """

    weights: bool = True
    """Whether weights of the model may be changed."""
    gradients: bool = True
    """Whether there may be training; without it directions and prompts remain."""
    prompts: bool = True
    """Whether text may stand in front."""
    pairs: int | None = None
    """Pairs that there are: a comparison that used more says nothing of fewer, so all are excluded."""
    seconds: float | None = None
    """Processor seconds to make it, at most."""
    overhead: float | None = None
    """Time per token above that of the model alone, at most, as a share of it."""
    stored: int | None = None
    """Bytes, at most."""
    reversible: bool = False
    """Whether no bit may be left after removal."""
    reversible_in_place: bool = False
    """Whether no bit may be left either where a change of weights was added in place, to spare its
    time per token, and is subtracted again."""
    fades_within: int | None = None
    """Tokens, at most, from its switch-off in the middle of a text whose keys and values are kept until
    the KL to a run that was never steered stays below a tenth of its first value: reversible within a
    conversation."""
    in_cache: float | None = None
    """KL per token, at most, that the keys and values alone leave after that switch-off, in nats."""
    utility: float | None = None
    """Least change of utility, in nats; e.g. -0.1."""
    wrong_way: float | None = None
    """Share of questions that may move the wrong way, at most."""
    other_concepts: float | None = None
    """Gain on other concepts, in nats, at most."""
    well_formed: float | None = None
    """Least share of well-formed clauses in what is written."""


USUAL = Constraints(
    weights=False, gradients=False, prompts=False, overhead=0.01, reversible=True,
    reversible_in_place=True, fades_within=8, wrong_way=0.05, other_concepts=0.1, well_formed=0.9,
)  # fmt: skip
"""Constraints of a picture for which none were given."""
_NEEDED = {
    "fades_within": "fading",
    "in_cache": "in cache",
    "other_concepts": "other concepts",
    "well_formed": "well-formed",
}
"""By the field of a constraint: the criterion that not every comparison has."""


def usual(measured: Collection[str]) -> Constraints:
    """`USUAL`, of which those are left out that were not measured.

    Args:
        measured: Names of criteria.
    """
    nothing = Constraints()
    gone = [field for field, name in _NEEDED.items() if name not in measured]
    return replace(USUAL, **{field: getattr(nothing, field) for field in gone})


Outcome = Literal["passes", "fails", "unsure"]


@dataclass(frozen=True)
class Verdict:
    """Whether one way meets one constraint."""

    outcome: Outcome
    """"unsure" where the estimate meets a bound that its interval holds."""
    found: str
    """What it came to, in a word or a number."""
    why: str
    """The same in words, with what was asked for."""


@runtime_checkable
class Judged(Protocol):
    """What verdicts are made of."""

    @property
    def ways(self) -> tuple[str, ...]: ...
    @property
    def pairs(self) -> int: ...
    @property
    def changes_weights(self) -> Bool[Tensor, " way"]: ...
    @property
    def trained(self) -> Bool[Tensor, " way"]: ...

    def criterion(self, name: str) -> Bounds: ...


Judge = Callable[[Judged, Any], list[Verdict]]


def verdicts(result: Judged, asked: Constraints) -> dict[str, list[Verdict]]:
    """The verdict on every way by each constraint that asks something, in the order of its fields.

    Raises:
        ValueError: If a constraint is on something that was not measured.
    """
    nothing = Constraints()
    return {
        field: judge(result, getattr(asked, field))
        for field, (_, judge) in _JUDGES.items()
        if getattr(asked, field) != getattr(nothing, field)
    }


def in_words(asked: Constraints) -> dict[str, str]:
    """Each constraint that asks something, by its field, as a heading.

    >>> in_words(Constraints(weights=False, overhead=0.01))
    {'weights': 'no weight changed', 'overhead': 'at most 1% more time per token'}
    """
    nothing = Constraints()
    return {
        field: words if isinstance(words, str) else words(getattr(asked, field))
        for field, (words, _) in _JUDGES.items()
        if getattr(asked, field) != getattr(nothing, field)
    }


def _by(bad: bool, found: str, why: str) -> Verdict:
    return Verdict("fails" if bad else "passes", found if bad else "", why if bad else "")


def _weights(result: Judged, _: bool) -> list[Verdict]:
    counts = result.criterion("parameters")[0].tolist()
    return [
        _by(bad, f"{int(n):,}", f"it changes weights ({int(n):,} numbers trained)")
        for bad, n in zip(result.changes_weights.tolist(), counts, strict=True)
    ]


def _gradients(result: Judged, _: bool) -> list[Verdict]:
    seconds = [format_number(x) for x in result.criterion("seconds")[0]]
    return [
        _by(bad, f"{s} s", f"it is trained ({s} processor seconds)")
        for bad, s in zip(result.trained.tolist(), seconds, strict=True)
    ]


def _prompts(result: Judged, _: bool) -> list[Verdict]:
    counts, stored = (result.criterion(name)[0].tolist() for name in ("parameters", "stored"))
    return [
        _by(n == 0, f"{int(size)} bytes", f"it is text in front ({int(size)} bytes)")
        for n, size in zip(counts, stored, strict=True)
    ]


def _pairs(result: Judged, limit: int) -> list[Verdict]:
    why = (
        f"it was made of {result.pairs} pairs here, which says nothing of {limit}: compare again with "
        f"n_fit={limit}"
    )
    return [_by(limit < result.pairs, str(result.pairs), why) for _ in result.ways]


def _reversible(result: Judged, _: bool) -> list[Verdict]:
    return [
        _by(n > 0, f"{int(n):,}", f"{int(n)} logits and weights differ after its removal")
        for n in result.criterion("left")[0].tolist()
    ]


def _in_place(result: Judged, asked: bool) -> list[Verdict]:
    found = _reversible(result, asked)
    try:
        merged = result.criterion("merged")[0]
    except ValueError:  # no way changes weights
        merged = torch.full((len(result.ways),), torch.nan)
    for i, share in enumerate(merged.tolist()):
        if share > 0 and found[i].outcome == "passes":
            words = format_percent(share)
            found[i] = Verdict(
                "fails", words, f"{words} of the weights that it changes are not restored when it is "
                "added in place and subtracted again",
            )  # fmt: skip
    return found


def _bound(
    result: Judged,
    limit: float,
    *,
    criterion: str,
    words: str,
    least: bool = False,
    form: Callable[[Any], str] = format_number,
) -> list[Verdict]:
    """A bound on a criterion, held against the estimate."""
    found = []
    for numbers in zip(*result.criterion(criterion), strict=True):
        one = Interval(*map(float, numbers))
        missed = one.value < limit if least else one.value > limit
        why = (
            f"{format_interval(one, form)} {words}, and {'at least' if least else 'at most'} "
            f"{form(limit)} were asked for"
        )
        if one.value != one.value:
            found.append(Verdict("fails", NOTHING, why))
        elif not missed and one.known and one.low < limit < one.high:
            found.append(Verdict("unsure", form(one.value), why))
        else:
            found.append(Verdict("fails" if missed else "passes", form(one.value), why))
    return found


def _at_most(words: str, form: Callable[[Any], str] = format_number) -> Callable[[float], str]:
    return lambda limit: f"at most {form(limit)} {words}"


def _at_least(words: str, form: Callable[[Any], str] = format_number) -> Callable[[float], str]:
    return lambda limit: f"at least {form(limit)} {words}"


_JUDGES: Mapping[str, tuple[str | Callable[[Any], str], Judge]] = {
    "weights": ("no weight changed", _weights),
    "gradients": ("no training", _gradients),
    "prompts": ("no text in front", _prompts),
    "pairs": (_at_most("pairs"), _pairs),
    "seconds": (
        _at_most("seconds to make"),
        partial(_bound, criterion="seconds", words="processor seconds to make it"),
    ),
    "overhead": (
        _at_most("more time per token", format_percent),
        partial(_bound, criterion="overhead", words="more time per token", form=format_percent),
    ),
    "stored": (_at_most("bytes"), partial(_bound, criterion="stored", words="bytes")),
    "reversible": ("no bit left", _reversible),
    "reversible_in_place": ("no bit left, added in place", _in_place),
    "fades_within": (
        _at_most("tokens until a tenth is left in a text"),
        partial(
            _bound, criterion="fading", words="tokens until a tenth is left in a text",
            form=format_tokens,
        ),
    ),
    "in_cache": (
        _at_most("nats left in the cache"),
        partial(_bound, criterion="in cache", words="nats per token left in the cache"),
    ),
    "utility": (
        _at_least("nats of utility"),
        partial(_bound, criterion="utility", words="nats of utility", least=True),
    ),
    "wrong_way": (
        _at_most("move the wrong way", format_percent),
        partial(
            _bound, criterion="wrong way", words="of questions move the wrong way",
            form=format_percent,
        ),
    ),
    "other_concepts": (
        _at_most("nats on other concepts"),
        partial(_bound, criterion="other concepts", words="nats on other concepts"),
    ),
    "well_formed": (
        _at_least("well-formed", format_percent),
        partial(
            _bound, criterion="well-formed", words="of clauses are well-formed", least=True,
            form=format_percent,
        ),
    ),
}  # fmt: skip
"""By the field of a constraint: how it is called, and how ways are judged by it."""
