"""Every way as a share of full fine-tuning: a hypothesis that was attributed to a paper, measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from steerlens.analyses.comparison.criterion import Criterion
from steerlens.report.numbers import format_interval
from steerlens.report.section import Heading, Listing, Paragraph, Section, Table
from steerlens.stats import Bounds, Interval

FULL = "full weights"
"""The way that others are held against where it is there."""
HYPOTHESIS = (
    "An article attributes to arXiv:2604.14090 that steering reaches 90–95% of the gain of "
    "fine-tuning at under 5% of its compute. No description of that paper contains such numbers; it "
    "has no experiments. Here it is a hypothesis, and this is its measurement:"
)
_OF_FULL = ("share", "gain", "written")


@runtime_checkable
class OfFull(Protocol):
    """What the section is made of."""

    @property
    def ways(self) -> tuple[str, ...]: ...
    @property
    def criteria(self) -> tuple[Criterion, ...]: ...
    def criterion(self, name: str) -> Bounds: ...
    def interval(self, name: str, way: str) -> Interval: ...
    def relative(self, name: str, to: str) -> Bounds: ...


def listed(ways: Sequence[str]) -> str:
    """Ways in a sentence; their names may hold commas."""
    return ", ".join(f"`{way}`" for way in ways)


def against_full(shown: OfFull, order: list[str]) -> Section:
    """Every way as a share of full fine-tuning, by each metric and in compute."""
    short = {one.name: one.short for one in shown.criteria}
    there = [
        name
        for name in _OF_FULL
        if name in short and shown.interval(name, FULL).low > 0  # a share of nothing says nothing
    ]
    bounds = {name: shown.relative(name, FULL) for name in there}
    seconds = shown.criterion("seconds")[0]
    full = float(seconds[shown.ways.index(FULL)])
    rows = []
    verdicts = []
    for name in there:
        reach = [
            w for w in order if w != FULL and float(bounds[name][0][shown.ways.index(w)]) >= 0.9
        ]
        cheap = [w for w in reach if float(seconds[shown.ways.index(w)]) < 0.05 * full]
        verdicts.append(f"By **{short[name]}**, {verdict_on(reach, cheap)}")
    for way in order:
        if way == FULL:
            continue
        i = shown.ways.index(way)
        cells = [
            format_interval(Interval(*(float(part[i]) for part in bounds[name])), _percent)
            for name in there
        ]
        rows.append((way, *cells, _percent(float(seconds[i]) / full)))
    head = (
        Heading("way", number=False),
        *(Heading(short[name], "of full weights") for name in there),
        Heading("seconds to make", "of full weights"),
    )
    return Section(
        title="As a share of full fine-tuning",
        short="Share of full fine-tuning",
        blocks=(
            Paragraph(HYPOTHESIS),
            Listing(tuple(verdicts)),
            Table(
                head, tuple(rows),
                caption="Ratios of means over the same examples of all concepts, with 95% intervals. "
                "A metric is left out where that of full fine-tuning is not clearly above 0.",
            ),
        ),
    )  # fmt: skip


def verdict_on(reach: list[str], cheap: list[str]) -> str:
    """Which ways reach 90% of full fine-tuning, and which of these are cheap."""
    if not reach:
        return "no other way reaches 90% of full fine-tuning."
    if len(reach) == 1:
        took = "under 5%" if cheap else "5% or more"
        return f"{listed(reach)} alone reaches 90% of full fine-tuning, at {took} of its seconds."
    took = (
        f"{listed(cheap)} at under 5% of its seconds"
        if cheap
        else "none at under 5% of its seconds"
    )
    return f"{listed(reach)} reach 90% of full fine-tuning, {took}."


def _percent(value: float) -> str:
    return f"{100 * value:.0f}%".replace("-", "−")
