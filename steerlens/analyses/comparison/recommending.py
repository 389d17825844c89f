"""Which ways meet some constraints, and why each other one does not: with its number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

from steerlens.analyses.comparison.criterion import format_tokens
from steerlens.report.numbers import format_interval, format_number, format_percent
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


@dataclass(frozen=True)
class Recommendation:
    """Ways that meet the constraints, best first, and the reason for each exclusion."""

    ranked: tuple[str, ...]
    by: str
    """The criterion that ranks them."""
    values: tuple[Interval, ...]
    """It, of each of them."""
    as_good: tuple[str, ...]
    """Ways whose difference from the first, on the same examples, has an interval that holds 0."""
    excluded: dict[str, str]
    """Way -> why not, with its number."""
    unsure: dict[str, str]
    """Ways that are not excluded, but whose interval holds a bound: which one, with its number."""

    @property
    def first(self) -> str | None:
        """The best way; None where none meets the constraints."""
        return self.ranked[0] if self.ranked else None

    def __str__(self) -> str:
        lines = []
        for way, value in zip(self.ranked, self.values, strict=True):
            more = " (not told apart from the first)" if way in self.as_good else ""
            more += f"; {self.unsure[way]}" if way in self.unsure else ""
            lines.append(f"{way}: {self.by} {format_interval(value)}{more}")
        lines = lines or ["No way meets the constraints."]
        return "\n".join([*lines, *(f"not {way}: {why}" for way, why in self.excluded.items())])

    __repr__ = __str__


@runtime_checkable
class Decidable(Protocol):
    """What a recommendation is made of."""

    @property
    def ways(self) -> tuple[str, ...]: ...
    @property
    def pairs(self) -> int: ...
    @property
    def changes_weights(self) -> Bool[Tensor, " way"]: ...
    @property
    def trained(self) -> Bool[Tensor, " way"]: ...

    @property
    def ranked_by(self) -> str: ...
    @property
    def ranking(self) -> list[int]: ...
    def criterion(self, name: str) -> Bounds: ...
    def difference(self, name: str, way: str, than: str) -> Interval: ...


@dataclass(frozen=True)
class _Bound:
    """A constraint on a criterion."""

    field: str
    criterion: str
    least: bool
    words: str
    form: Callable[[Any], str] = format_number


_BOUNDS = (
    _Bound("seconds", "seconds", False, "processor seconds to make it"),
    _Bound("overhead", "overhead", False, "more time per token", format_percent),
    _Bound("stored", "stored", False, "bytes"),
    _Bound(
        "fades_within", "fading", False, "tokens until a tenth is left in a text", format_tokens
    ),
    _Bound("in_cache", "in cache", False, "nats per token left in the cache"),
    _Bound("utility", "utility", True, "nats of utility"),
    _Bound("wrong_way", "wrong way", False, "of questions move the wrong way", format_percent),
    _Bound("other_concepts", "other concepts", False, "nats on other concepts"),
    _Bound("well_formed", "well-formed", True, "of clauses are well-formed", format_percent),
)


def recommend(result: Decidable, asked: Constraints) -> Recommendation:
    """Filters first, then ranks by `ranked_by`.

    Raises:
        ValueError: If a constraint is on something that was not measured.
    """
    excluded: dict[str, list[str]] = {way: [] for way in result.ways}
    unsure: dict[str, list[str]] = {}
    for i, way in enumerate(result.ways):
        excluded[way] += _kinds(result, asked, i)
    for bound in _BOUNDS:
        limit = getattr(asked, bound.field)
        if limit is None:
            continue
        for way, *numbers in zip(result.ways, *result.criterion(bound.criterion), strict=True):
            found = Interval(*map(float, numbers))
            over = found.value < limit if bound.least else found.value > limit
            words = (
                f"{format_interval(found, bound.form)} {bound.words}, and "
                f"{'at least' if bound.least else 'at most'} {bound.form(limit)} were asked for"
            )
            if over or found.value != found.value:
                excluded[way].append(words)
            elif found.known and found.low < limit < found.high:
                unsure.setdefault(way, []).append(words)
    if asked.reversible or asked.reversible_in_place:
        _require_exact(result, asked, excluded)
    by = result.ranked_by
    bounds = result.criterion(by)
    ranked = []
    for i in result.ranking:
        way = result.ways[i]
        if bool(bounds[0][i].isnan()):
            excluded[way].append(f"no {by} was measured")
        if not excluded[way]:
            ranked.append(i)
    values = [Interval(*(float(part[i]) for part in bounds)) for i in ranked]
    return Recommendation(
        ranked=tuple(result.ways[i] for i in ranked),
        by=by,
        values=tuple(values),
        as_good=tuple(
            result.ways[i]
            for i in ranked[1:]
            if result.difference(by, result.ways[ranked[0]], result.ways[i]).low <= 0
        ),
        excluded={way: "; ".join(why) for way, why in excluded.items() if why},
        unsure={way: "; ".join(why) for way, why in unsure.items() if not excluded[way]},
    )


def _kinds(result: Decidable, asked: Constraints, i: int) -> list[str]:
    """Reasons that lie in what a way is."""
    found = []
    if not asked.weights and bool(result.changes_weights[i]):
        count = int(result.criterion("parameters")[0][i])
        found.append(f"it changes weights ({count:,} numbers trained)")
    if not asked.gradients and bool(result.trained[i]):
        seconds = format_number(result.criterion("seconds")[0][i])
        found.append(f"it is trained ({seconds} processor seconds)")
    if not asked.prompts and int(result.criterion("parameters")[0][i]) == 0:
        found.append(f"it is text in front ({int(result.criterion('stored')[0][i])} bytes)")
    if asked.pairs is not None and asked.pairs < result.pairs:
        found.append(
            f"it was made of {result.pairs} pairs here, which says nothing of {asked.pairs}: compare "
            f"again with n_fit={asked.pairs}"
        )
    return found


def _require_exact(result: Decidable, asked: Constraints, excluded: dict[str, list[str]]) -> None:
    """Excludes ways that leave a bit behind, detached or added in place and subtracted."""
    left = result.criterion("left")[0]
    try:
        merged = result.criterion("merged")[0]
    except ValueError:  # no way changes weights
        merged = torch.full_like(left, torch.nan)
    for i, way in enumerate(result.ways):
        if float(left[i]) > 0:
            excluded[way].append(f"{int(left[i])} logits and weights differ after its removal")
        if asked.reversible_in_place and float(merged[i]) > 0:
            excluded[way].append(
                f"{format_percent(merged[i])} of the weights that it changes are not restored when it "
                "is added in place and subtracted again"
            )
