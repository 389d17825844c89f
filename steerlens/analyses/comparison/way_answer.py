"""The answer of a comparison of ways, in sentences."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

from steerlens.analyses.comparison.criterion import Criterion
from steerlens.analyses.comparison.share_of_full import listed
from steerlens.report.numbers import format_interval, format_number
from steerlens.stats import Bounds, Interval


@runtime_checkable
class Answered(Protocol):
    """What the answer is made of."""

    @property
    def ways(self) -> tuple[str, ...]: ...
    @property
    def budget(self) -> float: ...
    @property
    def changes_weights(self) -> Bool[Tensor, " way"]: ...
    @property
    def trained(self) -> Bool[Tensor, " way"]: ...
    @property
    def ranked_by(self) -> str: ...
    @property
    def criteria(self) -> tuple[Criterion, ...]: ...
    def criterion(self, name: str) -> Bounds: ...
    def interval(self, name: str, way: str) -> Interval: ...
    def difference(self, name: str, way: str, than: str) -> Interval: ...


def written_of(shown: Answered, criterion: Criterion, way: str) -> str:
    """A criterion of a way with its interval."""
    return format_interval(shown.interval(criterion.name, way), criterion.written)


def named(shown: Answered, name: str) -> Criterion:
    """A criterion that was measured, by its name."""
    return next(one for one in shown.criteria if one.name == name)


def answer(shown: Answered, order: list[str]) -> tuple[str, ...]:
    """Which way is best, and what must be known beside that.

    Args:
        order: The ways, best first.
    """
    best, by = order[0], named(shown, shown.ranked_by)
    top = shown.interval(by.name, best)
    if top.value != top.value:
        return ("No way has a multiplier that costs the budget, so none could be compared.",)
    apart = {way: shown.difference(by.name, best, way) for way in order[1:]}
    # An unknown interval tells nothing apart; a way without a number was not compared.
    near = [
        way for way, by_how in apart.items() if by_how.value == by_how.value and not by_how.low > 0
    ]
    told = f", not told apart from {listed(near)} on the same examples" if near else ""
    sentence = (
        f"**{best}** has the highest {by.short}: {written_of(shown, by, best)} {by.unit}{told}."
    )
    gain = named(shown, "gain")
    gains = shown.criterion("gain")[0].nan_to_num(-1e9)
    most = shown.ways[int(gains.argmax())]
    if by.name != "gain":
        sentence += (
            f" At equal cost ({format_number(shown.budget)} nats of KL per token) **{most}** gains "
            f"most: {written_of(shown, gain, most)} nats. The two rank differently because a gain does "
            "not count text that is broken or pushed too far."
            if most != best
            else f" It also gains most at equal cost: {written_of(shown, gain, most)} nats."
        )
    more = [*_without(shown, order), *_left_in_cache(shown)]
    return (sentence, " ".join(more)) if more else (sentence,)


def _without(shown: Answered, order: list[str]) -> list[str]:
    """The best ways without changed weights, and without training, where the best one has them.

    Ways that were trained on the ideal itself are no choice on another model, so they come first in
    none of these.
    """
    by = named(shown, shown.ranked_by)
    rivals = [way for way in order if not _of_the_ideal(way)]
    first: dict[str, list[str]] = {}
    if rivals and rivals[0] != order[0]:
        first[rivals[0]] = ["were not trained on the ideal itself"]
    for words, has in (
        ("change no weights", shown.changes_weights), ("need no training", shown.trained),
    ):  # fmt: skip
        rest = [way for way in rivals if not bool(has[shown.ways.index(way)])]
        if rest and rest[0] != rivals[0]:
            first.setdefault(rest[0], []).append(words)
    return [
        f"Of the ways that {' and '.join(words)}, **{way}** comes first: {written_of(shown, by, way)} "
        f"{by.unit}."
        for way, words in first.items()
    ]


def _of_the_ideal(way: str) -> bool:
    """Whether a way's name says that it was trained on the exact distribution that is wanted."""
    return way.partition(",")[2].strip() == "ideal"


def _left_in_cache(shown: Answered) -> list[str]:
    """The least and the most that is left in a kept cache."""
    if not any(one.name == "in cache" for one in shown.criteria):
        return []
    left, criterion = shown.criterion("in cache")[0], named(shown, "in cache")
    if len(shown.ways) < 2 or bool(left.isnan().all()):
        return []
    least, most = (
        shown.ways[int(i)]
        for i in (left.nan_to_num(torch.inf).argmin(), left.nan_to_num(-1.0).argmax())
    )
    return [
        "Switched off in the middle of a text whose keys and values are kept, "
        f"**{most}** leaves most in them ({written_of(shown, criterion, most)} nats of KL per token) "
        f"and **{least}** least ({written_of(shown, criterion, least)})."
    ]
