"""How steerability in distribution carries over to shifted questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.answers import Answers, Bounds, as_lists, interval_at
from steerlens.analyses.generalisation.shift_section import shift_section
from steerlens.analyses.ratios import difference_of_means, ratio_of_means
from steerlens.report.numbers import with_minus
from steerlens.report.section import Figure, Section
from steerlens.results import Column, Result, chosen_cell
from steerlens.results.summary_lines import labelled
from steerlens.sites import Site
from steerlens.stats import Interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

UNIT = "nats per unit multiplier"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ShiftedMap(Answers):
    """Steerability slopes in distribution and on shifted questions, for every row and question.

    All intervals are 95%, each for its own row and set: of many of them some miss the truth by
    chance.
    """

    kind: ClassVar[str] = "shift"
    in_distribution: str
    """The set that the others are compared with."""
    matched: tuple[str, ...] = ()
    """Sets that ask the questions in distribution in another wording, in the same order: compared
    question by question. The others are independent samples."""

    @property
    def shifted(self) -> tuple[str, ...]:
        """The names of the shifted sets."""
        return tuple(name for name in self.sets if name != self.in_distribution)

    def slope_interval(self, name: str) -> Bounds:
        """Mean slope of a set, for every row: value, low, high."""
        return stats.mean_interval(self.slopes(name), self.groups_of(name))

    def anti_steerable(self, name: str) -> Float[Tensor, " row"]:
        """Share of a set's questions whose slope is below zero."""
        return (self.slopes(name) < 0).float().mean(-1)

    def difference(self, name: str) -> Bounds:
        """Mean slope of a shifted set minus that in distribution, for every row.

        Of matched sets the mean of the differences of each question, else with Welch's interval.
        """
        return difference_of_means(
            *self._both(name), self._groups(name), matched=name in self.matched
        )

    def ratio(self, name: str) -> Bounds:
        """Mean slope of a shifted set over that in distribution, for every row (Fieller).

        NaN where the interval of the slope in distribution holds 0. The slope of questions that
        chose the row is biased upwards, which makes the ratio too small: give `shifted` questions
        that had no part in choosing it.

        Source: relative steerability of Tan et al., arXiv:2407.12404; the interval is ours.
        """
        return ratio_of_means(*self._both(name), self._groups(name), matched=name in self.matched)

    def row_correlation(self, name: str) -> Interval:
        """Spearman's correlation over rows of the mean slopes of a shifted set and in distribution.

        Neighbouring layers are not independent, so the interval is somewhat too narrow.
        """
        shifted, original = self._both(name)
        return stats.rank_correlation(original.mean(-1), shifted.mean(-1))

    def example_correlation(self, name: str) -> tuple[Interval, ...]:
        """Spearman's correlation over questions of both slopes of each question, by row.

        Raises:
            ValueError: If the set does not ask the questions in distribution.
        """
        shifted, original = self._both(name)
        if name not in self.matched:
            raise ValueError(
                f"{name!r} does not ask the questions of {self.in_distribution!r} in another "
                "wording, so no question has two slopes to correlate. Make the set with "
                "in_distribution.with_template(…), or use row_correlation."
            )
        groups = self.groups_of(self.in_distribution)
        return tuple(
            stats.rank_correlation(x, y, groups) for x, y in zip(original, shifted, strict=True)
        )

    def _groups(self, name: str) -> tuple[stats.Groups, stats.Groups]:
        return self.groups_of(name), self.groups_of(self.in_distribution)

    def _both(self, name: str) -> tuple[Float[Tensor, "row _one"], Float[Tensor, "row _other"]]:
        return self.slopes(name), self.slopes(self.in_distribution)

    @cached_property
    def steepest(self) -> int:
        """The index of the row with the largest mean slope in distribution."""
        return int(self.slopes(self.in_distribution).mean(-1).argmax())

    def _index(self, row: str | SupportsIndex | Site | None) -> int:
        return self.steepest if row is None else self.find(row)

    # Words and pictures

    def summary(self, row: str | SupportsIndex | Site | None = None) -> str:
        """The slope of each set in one row, by default the one that is steepest in distribution.

        Args:
            row: Its name, site or layer.
        """
        i = self._index(row)
        original = interval_at(self.slope_interval(self.in_distribution), i)
        lines = [
            f"{self.made_by.get('question', 'Steerability on shifted questions')} "
            f"({self.made_by.get('model', '')})",
            f"  {self.rows[i]}, slopes in {UNIT}",
            f"  {self.in_distribution}: {original}, in distribution",
        ]
        for name in self.shifted:
            kind = ", matched" if name in self.matched else ""
            lines.append(
                f"  {name}: {interval_at(self.slope_interval(name), i)}, difference "
                f"{interval_at(self.difference(name), i)}, ratio {self._ratio_at(name, i)}, "
                f"{float(self.anti_steerable(name)[i]):.0%} anti-steerable{kind}"
            )
        for name in self.shifted if len(self.rows) >= 4 else ():
            correlation = self.row_correlation(name)
            lines.append(f"  {name}: ρ = {correlation} over rows, with the slopes in distribution")
        return "\n".join(lines)

    def run_summary(self, beside: Mapping[str, Result]) -> str:
        """The smallest slope on shifted questions, in the row that a map recommends."""
        cell = chosen_cell(beside)
        if cell is None or cell.row not in self.rows:
            return ""
        i = self.rows.index(cell.row)
        slopes = {name: interval_at(self.slope_interval(name), i) for name in self.sets}
        least = min(self.shifted, key=lambda name: slopes[name].value)
        return labelled(
            "shifted",
            f"slope {slopes[self.in_distribution]} {UNIT} in distribution\n"
            f"smallest of {len(self.shifted)} shifted sets: {slopes[least]} on {least}, "
            f"ratio {self._ratio_at(least, i)}",
        )

    def _ratio_at(self, name: str, i: int) -> str:
        ratio = interval_at(self.ratio(name), i)
        return "not known" if ratio.value != ratio.value else str(ratio)

    def plot(self) -> go.Figure:
        """Slope on shifted questions over slope in distribution: a panel per set."""
        correlations = {name: self.row_correlation(name) for name in self.shifted}
        return plots.shift_scatter(
            as_lists(self.slope_interval(self.in_distribution)),
            {name: as_lists(self.slope_interval(name)) for name in self.shifted},
            rows=self.row_labels,
            unit=UNIT,
            title=self._finding(self.steepest),
            correlations={k: r for k, r in correlations.items() if r.value == r.value},
        )

    def plot_sets(self, row: str | SupportsIndex | Site | None = None) -> go.Figure:
        """Every set's slope with its interval in one row, by default the steepest.

        Args:
            row: Its name, site or layer.
        """
        i = self._index(row)
        names = (self.in_distribution, *self.shifted)
        return plots.shift_dots(
            {name: interval_at(self.slope_interval(name), i) for name in names},
            in_distribution=self.in_distribution,
            ratios={name: interval_at(self.ratio(name), i) for name in self.shifted},
            unit=UNIT,
            title=self._finding(i),
        )

    def _finding(self, i: int) -> str:
        ratios = [interval_at(self.ratio(name), i) for name in self.shifted]
        where = f"{self.rows[i]}:" if self.layers is None else f"At {self.row_name(i)}"
        if any(ratio.value != ratio.value for ratio in ratios):
            return f"{where} the interval of the slope in distribution holds 0"
        least, most = (f"{bound([r.value for r in ratios]):.2f}" for bound in (min, max))
        span = f"{least} to {most}"
        if len(ratios) == 1:
            span = f"{least} [{ratios[0].low:.2f}, {ratios[0].high:.2f}]"
        return f"{where} shifted slopes are {with_minus(span)} of that in distribution"

    def section(self, beside: Mapping[str, Result]) -> Section:
        """How far steering carries over, in every row and in the one that a map recommends."""
        cell = chosen_cell(beside)
        return shift_section(
            Figure(self.plot),
            self.summary(cell.row if cell is not None and cell.row in self.rows else None),
            in_distribution=self.in_distribution,
            rows="rows" if self.layers is None else "layers",
        )

    # Tables

    def columns(self) -> Sequence[Column]:
        """Slopes, differences and ratios of every row and set, with their intervals."""
        missing = (torch.full((len(self.rows),), torch.nan),) * 3
        compared = {
            "slope": [self.slope_interval(name) for name in self.sets],
            "difference": [
                self.difference(name) if name in self.shifted else missing for name in self.sets
            ],
            "ratio": [self.ratio(name) if name in self.shifted else missing for name in self.sets],
        }
        found = []
        for name, each in compared.items():
            for end, parts in zip(("", "_low", "_high"), zip(*each, strict=True), strict=True):
                found.append(Column(f"{name}{end}", ("row", "set"), torch.stack(parts, -1)))
        wrong = torch.stack([self.anti_steerable(name) for name in self.sets], -1)
        counts = torch.tensor([self.of(name).shape[-1] for name in self.sets])
        return [
            *found,
            Column("anti_steerable", ("row", "set"), wrong),
            Column("questions", ("set",), counts),
            Column("in_distribution", ("set",), self._flags(self.in_distribution)),
            Column("matched", ("set",), self._flags(*self.matched)),
        ]

    def _flags(self, *names: str) -> Tensor:
        return torch.tensor([name in names for name in self.sets])
