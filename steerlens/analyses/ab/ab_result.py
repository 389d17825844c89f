"""The scores of two configurations on the same prompts, and what may be said of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.report.numbers import format_interval, format_number
from steerlens.results import Column, Result
from steerlens.stats import Interval, Units, group_numbers

if TYPE_CHECKING:
    import plotly.graph_objects as go


def unit_means(
    differences: Float[Tensor, " prompt"], groups: Sequence[str]
) -> Float[Tensor, " unit"]:
    """The mean difference of each group, in the order in which the groups were seen."""
    units = Units.of(group_numbers(groups), len(differences))
    return units.totals(differences) / units.sizes.to(differences)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ABTest(Result):
    """A paired sequential test between two configurations.

    All numbers hold although one looked after every batch: the p-value is 1 over the largest
    e-value so far, and the interval is that of a confidence sequence.
    """

    kind: ClassVar[str] = "ab"

    arms: tuple[str, str]
    prompts: tuple[str, ...]
    """In the order in which they were seen."""
    texts: tuple[tuple[str, ...], tuple[str, ...]]
    """[arm][prompt], without the prompt."""
    scores: Float[Tensor, "arm=2 prompt"]
    groups: tuple[str, ...]
    """The group of each prompt, the unit of the test."""
    stopped: bool
    """Whether the evidence sufficed before all prompts were seen."""
    made_by: dict[str, Any]

    @property
    def differences(self) -> Float[Tensor, " unit"]:
        """The first configuration's score minus the second's, a mean for each group of prompts."""
        return unit_means(self.scores[0] - self.scores[1], self.groups)

    @property
    def evidence(self) -> Float[Tensor, " unit"]:
        """The logarithm of the e-value after each unit."""
        return stats.log_evidence(self.differences)

    @property
    def p_value(self) -> float:
        """The p-value of equal configurations, which holds however often one looked."""
        return float(stats.p_value_anytime(self.evidence))

    @property
    def difference(self) -> Interval:
        """The mean difference with its interval, which holds after every batch."""
        low, high = self._sequence
        return Interval(float(self.differences.mean()), float(low[-1]), float(high[-1]))

    @cached_property
    def _sequence(self) -> tuple[Tensor, Tensor]:
        return stats.confidence_sequence(self.differences, level=self.level)

    @property
    def level(self) -> float:
        """1 minus the share of tests of equal configurations that find a difference."""
        return float(self.made_by["level"])

    @property
    def winner(self) -> str | None:
        """The configuration that scores more; None where the evidence does not say."""
        if float(self.evidence.amax()) < -math.log(1 - self.level):
            return None
        return self.arms[0 if float(self.differences.mean()) > 0 else 1]

    def columns(self) -> list[Column]:
        """Both scores of every prompt."""
        return [Column(name, ("prompt",), self.scores[k]) for k, name in enumerate(self.arms)]

    def summary(self) -> str:
        """The verdict, the difference, and on how many prompts."""
        one, other = self.arms
        units, given = len(self.differences), self.made_by["given"]
        early = f", of {given} given: the evidence sufficed" if self.stopped else ""
        sizes = stats.sizes_in_words(group_numbers(self.groups), len(self.prompts), "prompts")
        means = self.scores.mean(1).tolist()
        verdict = (
            f"no difference is shown between {one!r} and {other!r}"
            if self.winner is None
            else f"{self.winner!r} scores more"
        )
        tested = f"p = {format_number(self.p_value)}, {units} pairs"
        return (
            f"{verdict} ({tested}, paired and sequential)\n"
            f"{one} {format_number(means[0])}, {other} {format_number(means[1])} by "
            f"{self.made_by['judge']}; difference {format_interval(self.difference)} "
            f"on {sizes}{early}"
        )

    def plot(self) -> go.Figure:
        """The mean difference over the prompts seen so far, with its confidence sequence."""
        d = self.differences
        running = d.cumsum(0) / torch.arange(1, len(d) + 1)
        low, high = self._sequence
        one, other = self.arms
        name = "the evidence does not say" if self.winner is None else f"{self.winner} scores more"
        return plots.running_difference(
            (running.tolist(), low.tolist(), high.tolist()),
            quantity=f"{one} minus {other}",
            unit=f"{self.made_by['judge']}",
            title=f"{one} against {other}: {name}",
            note=f"Shaded: {100 * self.level:g}% confidence sequence, which holds at every look.",
        )
