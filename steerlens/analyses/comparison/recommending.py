"""Which ways meet some constraints, and why each other one does not: with its number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from steerlens.analyses.comparison.verdicts import Constraints, Judged, verdicts
from steerlens.report.numbers import format_interval
from steerlens.stats import Interval


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
class Decidable(Judged, Protocol):
    """What a recommendation is made of."""

    @property
    def ranked_by(self) -> str: ...
    @property
    def ranking(self) -> list[int]: ...
    def difference(self, name: str, way: str, than: str) -> Interval: ...


def recommend(result: Decidable, asked: Constraints) -> Recommendation:
    """Filters first, then ranks by `ranked_by`.

    Raises:
        ValueError: If a constraint is on something that was not measured.
    """
    excluded: dict[str, list[str]] = {way: [] for way in result.ways}
    unsure: dict[str, list[str]] = {}
    for each in verdicts(result, asked).values():
        for way, verdict in zip(result.ways, each, strict=True):
            if verdict.outcome == "fails" and verdict.why not in excluded[way]:
                excluded[way].append(verdict.why)
            elif verdict.outcome == "unsure":
                unsure.setdefault(way, []).append(verdict.why)
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
