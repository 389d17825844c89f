"""What steering one concept does to the questions about other concepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, SupportsFloat, SupportsIndex

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.answers import Answers, Bounds, as_lists, interval_at
from steerlens.analyses.ratios import ratio_of_means
from steerlens.analyses.side_effects.spillover_section import spillover_section
from steerlens.report.numbers import format_signed
from steerlens.report.section import Figure, Section
from steerlens.results import Column, Result, chosen_cell
from steerlens.results.grid import find_multiplier, steering_of
from steerlens.results.summary_lines import labelled
from steerlens.sites import Site

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SpilloverMap(Answers):
    """Gain of every intervention on its target concept and on all other concepts.

    Gains are changes of propensity as they are: at negative multipliers a gain below 0 is in the
    direction of steering. All intervals are 95%, each for its own cell.
    """

    kind: ClassVar[str] = "spillover"
    targets: tuple[str, ...]
    """For each row the set that it is meant to move."""
    null_gains: Float[Tensor, "null row multiplier set"]
    """Mean gain of each null map on the same questions; of random directions as long as the real
    ones, where `made_by` states no others."""
    matched: tuple[tuple[str, str], ...] = ()
    """Sets that ask about the same prompts in the same order, so that they vary together."""
    unrelated: Mapping[str, Float[Tensor, "row multiplier _example"]] = field(default_factory=dict)
    """The other way round, by the name of another concept: propensities of the target's questions
    under that concept's own direction, in the place of each row's. Empty where nobody asked."""

    @cached_property
    def mean_gain(self) -> Float[Tensor, "row multiplier set"]:
        """Mean gain of every cell on every set, in nats."""
        return torch.stack([self.gains(name).mean(-1) for name in self.sets], -1)

    @cached_property
    def gain_interval(self) -> Bounds:
        """Mean gain with its interval over questions, each [row, multiplier, set]."""
        each = [self._interval(name, self.gains(name)) for name in self.sets]
        value, low, high = (torch.stack(parts, -1) for parts in zip(*each, strict=True))
        return value, low, high

    @cached_property
    def size_interval(self) -> Bounds:
        """Mean absolute gain with its interval over questions, each [row, multiplier, set].

        Where the mean gain is near 0, gains of both signs may cancel, e.g. of negated questions.
        """
        each = [self._interval(name, self.gains(name).abs()) for name in self.sets]
        value, low, high = (torch.stack(parts, -1) for parts in zip(*each, strict=True))
        return value, low, high

    def _interval(self, name: str, values: Tensor) -> Bounds:
        """The mean of each cell over a set's questions; 0 by definition where nothing is steered."""
        found = stats.mean_interval(values, self.groups_of(name))
        mean, low, high = (part.masked_fill(self.multipliers == 0, 0.0) for part in found)
        return mean, low, high

    @property
    def is_target(self) -> Bool[Tensor, "row set"]:
        """Which set is the target of each row."""
        return torch.tensor([[name == target for name in self.sets] for target in self.targets])

    @cached_property
    def relative(self) -> Bounds:
        """Mean gain over the row's gain on its target, each [row, multiplier, set] (Fieller).

        Above 0 where both have the same sign; NaN where the interval of the gain on the target
        holds 0.
        """
        shape = self.mean_gain.shape
        out = tuple(torch.full(shape, torch.nan) for _ in range(3))
        for i, target in enumerate(self.targets):
            own = self.gains(target)[i]
            for k, name in enumerate(self.sets):
                matched = self._together(name, target)
                groups = self.groups_of(name), self.groups_of(target)
                found = ratio_of_means(self.gains(name)[i], own, groups, matched=matched)
                for part, values in zip(out, found, strict=True):
                    part[i, :, k] = values
        return out[0], out[1], out[2]

    @cached_property
    def selectivity(self) -> Bounds:
        """Gain on the target over the largest absolute gain on another concept.

        Each [row, multiplier]. The sign is that of the gain in the direction of steering: above 0,
        the target moves as asked, also at negative multipliers. Infinite where nothing else moves,
        NaN at multiplier 0. The interval is of resampled questions (percentiles). Noise makes the
        largest of several gains too large, so the value and the interval are biased downwards.
        """
        means = {
            name: stats.bootstrap_means(
                self.gains(name), self.groups_of(name), seed=self._seed(name)
            )
            for name in self.sets
        }
        draws = torch.stack([means[name] for name in self.sets], -1)
        found = [self._selectivity(gains) for gains in (self.mean_gain[None], draws)]
        ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
        # Where nothing else moves the ratio is infinite, and an order statistic can be taken of
        # that, but no interpolation.
        low, high = torch.quantile(found[1].double(), ends, dim=0, interpolation="nearest")
        return found[0][0], low.float(), high.float()

    def _selectivity(self, gains: Float[Tensor, "draw row multiplier set"]) -> Tensor:
        own = self.is_target[None, :, None]
        target = (gains * own).sum(-1) * self.multipliers.sign()
        return target / gains.abs().masked_fill(own, 0.0).amax(-1)

    def _seed(self, name: str) -> int:
        """Sets of the same prompts are resampled together."""
        return min(i for i, other in enumerate(self.sets) if self._together(name, other))

    def _together(self, one: str, other: str) -> bool:
        return one == other or (one, other) in self.matched or (other, one) in self.matched

    # The other way round

    @cached_property
    def unrelated_interval(self) -> dict[str, Bounds]:
        """Mean gain on the target under another concept's direction, each [row, multiplier]."""
        zero = find_multiplier(self.multipliers, 0.0)
        groups = self.groups_of(self.targets[0])
        found = {}
        for name, odds in self.unrelated.items():
            bounds = stats.mean_interval(odds - odds[:, zero, None], groups)
            mean, low, high = (x.masked_fill(self.multipliers == 0, 0.0) for x in bounds)
            found[name] = (mean, low, high)
        return found

    def unrelated_in_words(self, row: int, multiplier: int) -> str:
        """How far unrelated directions move the target, beside the row's own; "" if none were asked.

        Of every concept, with the sign of steering that moves the target further in the direction
        of the row's own strength.

        Args:
            row: By its index, like `multiplier`, at whose strength of either sign they are compared.
        """
        if not self.unrelated:
            return ""
        size = self.multipliers[multiplier].abs()
        both = (self.multipliers.abs() == size).nonzero()[:, 0].tolist()
        found = []
        for name, bounds in self.unrelated_interval.items():
            asked = self.multipliers[multiplier].sign()
            j = max(both, key=lambda j: float(asked * bounds[0][row, j]))
            found.append(
                f"{name} {interval_at(bounds, row, j)} at {format_signed(self.multipliers[j])}"
            )
        own = interval_at(self.gain_interval, row, multiplier, self.sets.index(self.targets[row]))
        return (
            f"directions of other concepts in its place change {self.targets[row]} by "
            f"{', '.join(found)} nats; its own by {own}"
        )

    # Compared with null maps

    @property
    def has_null(self) -> bool:
        """Whether there are null maps, and so thresholds and a p-value."""
        return len(self.null_gains) > 0

    @property
    def null_name(self) -> str:
        """What the null maps are; or, if there are none, why: "because …"."""
        return str(self.made_by.get("null", "null maps" if self.has_null else ""))

    @property
    def others(self) -> Bool[Tensor, "row multiplier set"]:
        """Cells of other concepts than the target, at multipliers other than 0."""
        return ~self.is_target[:, None] & (self.multipliers != 0)[:, None]

    @cached_property
    def null(self) -> stats.NullTest:
        """How far the null maps move the other concepts, with either sign.

        It compares the most extreme of all cells of other concepts. They are flattened in the order
        of [row, multiplier, set]; `p_values` has them in place.

        Raises:
            ValueError: If there are fewer than 19 null maps.
        """
        cells = self.others
        return stats.max_statistic(self.mean_gain[cells].abs(), self.null_gains[:, cells].abs())

    @cached_property
    def p_values(self) -> Float[Tensor, "row multiplier set"]:
        """How often the largest gain of a null map stands out as much as that of each cell.

        NaN on the target, at multiplier 0 and without null maps.
        """
        out = torch.full(self.mean_gain.shape, torch.nan)
        if self.has_null:
            out[self.others] = self.null.p_values.to(out)
        return out

    @property
    def spills(self) -> Bool[Tensor, "row multiplier set"]:
        """Cells that move another concept further than the null maps do.

        False does not mean that there is no spill-over: see `gain_interval` and `size_interval`.
        """
        return self.p_values <= 1 - stats.LEVEL + 1e-9

    # Words and pictures

    def _column(self, multiplier: SupportsFloat | None) -> int:
        if multiplier is None:
            return int(self.multipliers.argmax())
        return find_multiplier(self.multipliers, multiplier)

    def summary(self, multiplier: SupportsFloat | None = None) -> str:
        """Gains of every row on every set at one multiplier, by default the largest."""
        j = self._column(multiplier)
        lines = [
            f"{self.made_by.get('question', 'Spill-over')} ({self.made_by.get('model', '')})",
            f"  gains in nats at multiplier {float(self.multipliers[j]):+g}",
        ]
        return "\n".join([*lines, *(f"  {line}" for line in self._gains_at(j))])

    def _gains_at(self, j: int) -> list[str]:
        lines = []
        for i, (row, target) in enumerate(zip(self.rows, self.targets, strict=True)):
            own = interval_at(self.gain_interval, i, j, self.sets.index(target))
            parts = [f"{target} {own} (target)"]
            for k, name in enumerate(self.sets):
                if name != target:
                    beyond = self.has_null and bool(self.spills[i, j, k])
                    more = f" (more than {self.null_name})" if beyond else ""
                    parts.append(f"{name} {interval_at(self.gain_interval, i, j, k)}{more}")
            parts.append(f"selectivity {interval_at(self.selectivity, i, j)}")
            lines.append(f"{row}: " + ", ".join(parts))
            lines += filter(None, [self.unrelated_in_words(i, j)])
        return [*lines, self._null_line()]

    def _null_line(self) -> str:
        if not self.has_null:
            return f"no null maps {self.null_name}, so there is no p-value"
        return (
            f"null: p = {self.null.p_value:.3g} against {self.null_name} (largest of all "
            f"{int(self.others.sum())} cells of other concepts, {len(self.null_gains)} null maps)"
        )

    def run_summary(self, beside: Mapping[str, Result]) -> str:
        """The gains at the multiplier that a map recommends."""
        cell = chosen_cell(beside)
        lines = self._gains_at(self._column(None if cell is None else cell.multiplier))
        return labelled("other concepts", "\n".join(lines))

    def plot(self, multiplier: SupportsFloat | None = None) -> go.Figure:
        """Row x set at one multiplier, by default the largest: mean gain, targets outlined."""
        j = self._column(multiplier)
        below = ~(self.spills[:, j] | self.is_target) if self.has_null else None
        dotted = f"; dotted: no more than {self.null_name}" if self.has_null else ""
        return plots.gain_heatmap(
            self.mean_gain[:, j].tolist(),
            rows=self.row_labels,
            sets=self.sets,
            targets=self.targets,
            unit="nats",
            title=self._finding(j),
            note=f"Mean gain in log-odds at multiplier {float(self.multipliers[j]):g}{dotted}",
            below_null=None if below is None else below.tolist(),
            hover=[
                [self._hover(i, j, k) for k in range(len(self.sets))] for i in range(len(self.rows))
            ],
        )

    def plot_lines(self, row: str | SupportsIndex | Site | None = None) -> go.Figure:
        """Gain over multipliers on every set, for one row: by default the one that gains most.

        Args:
            row: Its name, site or layer.
        """
        most = int(self._target_gain()[:, int(self.multipliers.argmax())].argmax())
        i = most if row is None else self.find(row)
        target = self.targets[i]
        names = [target, *(name for name in self.sets if name != target)]
        value, low, high = self.gain_interval
        series = {}
        for name in names:
            k = self.sets.index(name)
            label = f"{name} (target)" if name == target else name
            series[label] = as_lists((value[i, :, k], low[i, :, k], high[i, :, k]))
        return plots.gain_lines(
            series,
            multipliers=self.multipliers.tolist(),
            unit="nats",
            title=f"What {steering_of(self.rows[i], self.sites[i])} does to each concept",
        )

    def _target_gain(self) -> Float[Tensor, "row multiplier"]:
        return (self.mean_gain * self.is_target[:, None]).sum(-1)

    def _hover(self, i: int, j: int, k: int) -> str:
        lines = [f"gain {interval_at(self.gain_interval, i, j, k)} nats"]
        if not self.is_target[i, k]:
            lines.append(f"{interval_at(self.relative, i, j, k)} of the gain on the target")
            if self.has_null and float(self.multipliers[j]):
                lines.append(f"p = {float(self.p_values[i, j, k]):.3g} against {self.null_name}")
        return "<br>".join(lines)

    def _finding(self, j: int) -> str:
        gains = self.mean_gain[:, j].masked_fill(self.is_target, 0.0)
        i, k = divmod(int(gains.abs().argmax()), len(self.sets))
        other, own = (f"{format_signed(x)}" for x in (gains[i, k], self._target_gain()[i, j]))
        most = f"{other} nats on {self.sets[k]}, {own} on {self.targets[i]} ({self.rows[i]})"
        if self.has_null and not bool(self.spills[:, j].any()):
            return f"No spill-over beyond that of {self.null_name}: at most {most}"
        return f"Largest spill-over: {most}"

    def section(self, beside: Mapping[str, Result]) -> Section:
        """What the interventions do to other concepts."""
        cell = chosen_cell(beside)
        row = cell.row if cell is not None and cell.row in self.rows else None
        every = [Figure(self.plot)] if len(self.rows) > 1 else []
        i = 0 if row is None else self.rows.index(row)
        j = self._column(None if cell is None else cell.multiplier)
        return spillover_section(
            [*every, Figure(lambda: self.plot_lines(row))],
            steering=steering_of(self.rows[0], self.sites[0])
            if len(self.rows) == 1
            else "steering",
            p_value=self.null.p_value if self.has_null else None,
            null_name=self.null_name,
            nulls=len(self.null_gains),
            unrelated=self.unrelated_in_words(i, j),
        )

    # Tables

    def columns(self) -> Sequence[Column]:
        """Gains of every cell on every set, with their intervals and p-values."""
        axes = ("row", "multiplier", "set")
        named = {"gain": self.gain_interval, "relative": self.relative, "size": self.size_interval}
        found = [
            Column(f"{name}{end}", axes, part)
            for name, parts in named.items()
            for end, part in zip(("", "_low", "_high"), parts, strict=True)
        ]
        found.append(Column("p_value", axes, self.p_values))
        if self.unrelated:
            unknown = torch.full(self.mean_gain.shape[:2], torch.nan)
            for part, end in enumerate(("", "_low", "_high")):
                each = [
                    self.unrelated_interval[name][part] if name in self.unrelated else unknown
                    for name in self.sets
                ]
                found.append(Column(f"unrelated{end}", axes, torch.stack(each, -1)))
        return [*found, Column("target", ("row", "set"), self.is_target)]
