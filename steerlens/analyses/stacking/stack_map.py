"""What every subset of some interventions does, and what of it is more than the sum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.ratios import Bounds
from steerlens.arguments import ArgumentError
from steerlens.report.numbers import format_interval, format_signed, in_words
from steerlens.results import Column, Result
from steerlens.stats import Interval, group_numbers

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class StackMap(Result):
    """The effects of all subsets of some interventions, example by example.

    `values[quantity]` has a row for each subset: "gain" is the change of log-odds, "KL" the cost on
    ordinary text, "writing" the change of a judge's score, and each other name the change of log-odds
    on other questions. Everything else is derived.
    """

    kind: ClassVar[str] = "stack"

    arms: tuple[str, ...]
    subsets: tuple[tuple[int, ...], ...]
    """Indices of the arms of each subset; the last one has all."""
    values: dict[str, Float[Tensor, "subset _example"]]
    groups: dict[str, tuple[str, ...]]
    """The group of each example of a quantity, the unit of its intervals."""
    units: dict[str, str]
    made_by: dict[str, Any]

    @property
    def quantities(self) -> tuple[str, ...]:
        """What was measured."""
        return tuple(self.values)

    def effect(self, quantity: str, *arms: str) -> Interval:
        """The mean effect of a subset, with its 95% interval over groups.

        Args:
            arms: Names of the subset; all of them where none is given.

        Raises:
            ArgumentError: If the quantity was not measured, or an arm is not known.
        """
        return self._interval(quantity, self._row(quantity, arms or self.arms))

    def interaction(self, quantity: str, *arms: str) -> Interval:
        """What a subset does minus the sum of what its members do alone, with its interval.

        Args:
            arms: Names of the subset; all of them where none is given.
        """
        chosen = arms or self.arms
        singles = [self._row(quantity, (name,)) for name in chosen]
        joint = self._row(quantity, chosen)
        return self._interval(quantity, joint - torch.stack(singles).sum(0))

    def matrix(self, quantity: str) -> Bounds:
        """Single effects on the diagonal, interactions of two beside it: value, low, high."""
        n = len(self.arms)
        out = torch.full((3, n, n), torch.nan)
        for i, one in enumerate(self.arms):
            for j, other in enumerate(self.arms):
                found = (
                    self.effect(quantity, one) if i == j else self.interaction(quantity, one, other)
                )
                out[:, i, j] = torch.tensor([found.value, found.low, found.high])
        return out[0], out[1], out[2]

    def shapley(self, quantity: str) -> dict[str, float]:
        """The part of the effect of all that is due to each: its mean addition over all orders."""
        n = len(self.arms)
        means: dict[frozenset[int], float] = {frozenset(): 0.0}
        for subset, row in zip(self.subsets, self.values[quantity], strict=True):
            means[frozenset(subset)] = float(row.mean())
        found = dict.fromkeys(self.arms, 0.0)
        for i, name in enumerate(self.arms):
            for subset in means:
                if i not in subset:
                    ways = math.factorial(len(subset)) * math.factorial(n - len(subset) - 1)
                    added = means[subset | {i}] - means[subset]
                    found[name] += ways / math.factorial(n) * added
        return found

    def removal_order(self, quantity: str = "gain") -> tuple[str, ...]:
        """The order in which to take arms away so that least of the effect is lost each time."""
        left, order = list(range(len(self.arms))), []
        rows = dict(zip(self.subsets, self.values[quantity].mean(-1).tolist(), strict=True))
        while len(left) > 1:
            best = max(left, key=lambda i: rows[tuple(k for k in left if k != i)])
            left.remove(best)
            order.append(self.arms[best])
        return (*order, self.arms[left[0]])

    def loses(self, quantity: str = "gain") -> dict[str, Interval]:
        """Subsets that do more than all together: how much, where the interval is above 0."""
        joint = self._row(quantity, self.arms)
        found = {}
        for subset in self.subsets[:-1]:
            names = tuple(self.arms[i] for i in subset)
            less = self._interval(quantity, self._row(quantity, names) - joint)
            if less.low > 0:
                found[" + ".join(names)] = less
        return found

    def _row(self, quantity: str, arms: tuple[str, ...]) -> Float[Tensor, " example"]:
        if quantity not in self.values:
            raise ArgumentError(
                f"{quantity!r:.80} was not measured. It has {', '.join(self.quantities)}."
            )
        if unknown := [name for name in arms if name not in self.arms]:
            raise ArgumentError(f"{unknown[0]!r:.80} is none of {', '.join(self.arms)}.")
        index = tuple(sorted({self.arms.index(name) for name in arms}))
        return self.values[quantity][self.subsets.index(index)]

    def _interval(self, quantity: str, values: Float[Tensor, " example"]) -> Interval:
        return stats.interval_of_mean(values, group_numbers(self.groups[quantity]))

    def columns(self) -> list[Column]:
        """The mean of every quantity in every subset."""
        return [Column(name, ("subset",), rows.mean(-1)) for name, rows in self.values.items()]

    def coordinates(self, axis: str, size: int) -> Any:
        """Subsets by the names of their arms."""
        if axis == "subset" and size == len(self.subsets):
            return {axis: [" + ".join(self.arms[i] for i in subset) for subset in self.subsets]}
        return super().coordinates(axis, size)

    def summary(self) -> str:
        """All together, their interaction, what each adds, and whether the stack loses something."""
        lines = [f"{' + '.join(self.arms)} together, and what is more than the sum of each alone:"]
        for quantity in self.quantities:
            effect, more = self.effect(quantity), self.interaction(quantity)
            shares = self.shapley(quantity)
            parts = in_words([f"{name} {format_signed(value)}" for name, value in shares.items()])
            lines.append(
                f"{quantity} ({self.units[quantity]}): {format_interval(effect)}, interaction "
                f"{format_interval(more, format_signed)}; due to {parts}"
            )
        lost = self.loses()
        if lost:
            worst = max(lost, key=lambda name: lost[name].value)
            lines.append(
                f"Warning: the stack loses gain that a part of it has: {worst} alone gains "
                f"{format_interval(lost[worst])} nats more than all together."
            )
        else:
            lines.append("No part of the stack is shown to gain more than the whole.")
        lines.append(f"Take away in this order: {', '.join(self.removal_order())}.")
        return "\n".join(lines)

    def plot(self, quantity: str = "gain") -> go.Figure:
        """Single effects on the diagonal and interactions beside it."""
        values, low, high = self.matrix(quantity)
        return plots.token_heatmap(
            {quantity: tuple(x.tolist() for x in (values, low, high))},
            rows=list(self.arms), tokens=list(self.arms), unit=self.units[quantity],
            title=f"Do the effects add up? {quantity}",
            note="Diagonal: each alone. Beside it: both together minus the sum of both.",
        )  # fmt: skip
