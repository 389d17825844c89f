"""What ways of adapting a model reach on tasks with exact scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.comparison.crossed import crossed_interval
from steerlens.report.numbers import format_interval, format_number
from steerlens.report.section import Figure, Heading, Listing, Paragraph, Section, Table
from steerlens.results import Column, Result, labelled
from steerlens.stats import Bounds, Interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

At = Literal["budget", "trained"]
AT: tuple[At, At] = ("budget", "trained")
"""Where a way is scored: at the multiplier that costs the budget, and at 1."""
ALONE = "the model alone"


@dataclass(frozen=True, eq=False)
class TaskNumbers:
    """The scores of one task, example by example, by their names.

    A way that has no multiplier that costs the budget is NaN there.
    """

    scores: Mapping[str, Float[Tensor, "way repeat at=2 _example"]]
    """At the budget, then as trained."""
    alone: Mapping[str, Float[Tensor, " _example"]]
    """Of the unsteered model."""
    groups: Mapping[str, tuple[str, ...]]
    """The group of each example, the unit of intervals."""
    units: Mapping[str, str]
    shares: Mapping[str, bool]
    """Whether an example's number is between 0 and 1."""
    meanings: Mapping[str, str]
    kl: Float[Tensor, "way repeat at=2 text"]
    """Nats per token on ordinary texts that did not set the strength."""
    multiplier: Float[Tensor, "way repeat"]
    """What costs the budget on the texts that set it."""
    seconds: Float[Tensor, "way repeat"]
    """Processor seconds to make the way."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TaskScores(Result):
    """Exact scores of ways on tasks, at equal cost and as trained, beside the model alone.

    Intervals are over groups of examples and over repetitions. Those of shares are the wider of
    Wilson's over groups (`share_interval`) and `crossed_interval`, since the second is empty where
    every example is right.
    """

    kind: ClassVar[str] = "tasks"

    ways: tuple[str, ...]
    tasks: tuple[str, ...]
    budget: float
    """Nats of KL per token of ordinary text."""
    numbers: Mapping[str, TaskNumbers]
    """By task."""
    made_by: dict[str, Any]

    @property
    def repeats(self) -> int:
        """How often each way was made for each task."""
        return self.numbers[self.tasks[0]].seconds.shape[1]

    @property
    def rows(self) -> tuple[str, ...]:
        """The model alone, then the ways."""
        return (ALONE, *self.ways)

    @property
    def scores(self) -> tuple[tuple[str, str], ...]:
        """Every score as task and name."""
        return tuple((task, name) for task in self.tasks for name in self.numbers[task].scores)

    def bounds(self, task: str, score: str, at: At = "trained") -> Bounds:
        """A score of every row (`rows`): value, low and high.

        Raises:
            ValueError: If the task was not scored so.
        """
        one = self._task(task, score)
        if at not in AT:
            raise ValueError(f"at={at!r} is neither 'budget' nor 'trained'.")
        ways = one.scores[score][:, :, AT.index(at)]
        alone = one.alone[score].expand(1, ways.shape[1], -1)
        values, groups = torch.cat([alone, ways]), stats.group_numbers(one.groups[score])
        value, low, high = crossed_interval([values], [groups])
        if one.shares[score]:
            _, least, most = stats.share_interval(values.mean(1), groups)
            low = torch.minimum(low, least).clamp(min=0.0)
            high = torch.maximum(high, most).clamp(max=1.0)
        unknown = value.isnan()
        return value, low.masked_fill(unknown, torch.nan), high.masked_fill(unknown, torch.nan)

    def interval(self, task: str, score: str, row: str, at: At = "trained") -> Interval:
        """A score of one way, or of "the model alone"."""
        if row not in self.rows:
            raise ValueError(f"{row!r} was not scored. Use one of {', '.join(self.rows)}.")
        i = self.rows.index(row)
        return Interval(*(float(part[i]) for part in self.bounds(task, score, at)))

    def cost(self, task: str, at: At = "trained") -> Bounds:
        """Nats of KL per token [way] on ordinary texts."""
        kl = self._task(task).kl[:, :, AT.index(at)]
        return crossed_interval([kl], [None])

    def _task(self, task: str, score: str | None = None) -> TaskNumbers:
        if task not in self.numbers:
            raise ValueError(f"{task!r} was not scored. Use one of {', '.join(self.tasks)}.")
        one = self.numbers[task]
        if score is not None and score not in one.scores:
            raise ValueError(f"{task} has no score {score!r}. Use one of {', '.join(one.scores)}.")
        return one

    def columns(self) -> Sequence[Column]:
        """Every score of every row with its interval, at the budget and as trained."""
        found = [
            torch.stack([torch.stack(self.bounds(*one, at=at)) for at in AT], -1)
            for one in self.scores
        ]  # [end, row, at] each
        each = torch.stack(found)
        axes = ("score", "row", "at")
        return [Column(name, axes, each[:, k]) for k, name in enumerate(("value", "low", "high"))]

    def coordinates(self, axis: str, size: int) -> Any:
        """Scores by task and name."""
        if axis == "score":
            return {axis: [f"{task}: {name}" for task, name in self.scores]}
        if axis == "row":
            return {axis: list(self.rows)}
        return {axis: list(AT)} if axis == "at" else super().coordinates(axis, size)

    def summary(self) -> str:
        """The first score of every task, as trained."""
        lines = ["Tasks with exact scores, as trained:"]
        for task in self.tasks:
            name = next(iter(self.numbers[task].scores))
            words = [f"{row} {self.interval(task, name, row)}" for row in self.rows]
            lines.append(labelled(f"{task}, {name}", "; ".join(words)))
        return "\n".join(lines)

    def plot(self, at: At = "trained") -> go.Figure:
        """A panel for each score: every way with its interval, and the model alone."""
        where = "as trained" if at == "trained" else f"at {format_number(self.budget)} nats of KL"
        return plots.criteria_dots(
            {
                f"{task}: {name}": (
                    tuple(part.tolist() for part in self.bounds(task, name, at)),
                    self.numbers[task].units[name], False, "more",
                )
                for task, name in self.scores
            },
            rows=self.rows,
            title=f"Exact scores of every way, {where}",
        )  # fmt: skip

    def section(self, beside: Mapping[str, Result]) -> Section:
        """A table for each task, and all scores as figures."""
        parts = tuple(self._part(task) for task in self.tasks)
        told = (
            "Each way is made for each task by itself and scored at two multipliers: 1, as it was "
            f"trained, and the one that costs {format_number(self.budget)} nats of KL per token on "
            "ordinary texts. An equal cost says how much a task disturbs what has nothing to do "
            "with it; a task that needs more shows a low score there."
        )
        figures = (
            Figure(lambda: self.plot("trained"), "As trained, whatever it costs."),
            Figure(lambda: self.plot("budget"), "At equal cost."),
        )
        return Section(
            title="Tasks with exact scores",
            short="Tasks",
            blocks=(Paragraph(told), *figures),
            parts=parts,
        )

    def _part(self, task: str) -> Section:
        one = self.numbers[task]
        bounds = {(name, at): self.bounds(task, name, at) for name in one.scores for at in AT}
        cost = self.cost(task)
        head = [Heading("way", number=False)]
        for at in ("trained", "budget"):
            words = "as trained" if at == "trained" else "at the budget"
            head += [Heading(f"{name}, {words}", one.units[name]) for name in one.scores]
            head += [Heading("KL as trained", "nats")] if at == "trained" else []
        rows = []
        for i, row in enumerate(self.rows):
            cells = [row]
            for at in ("trained", "budget"):
                for name in one.scores:
                    found = Interval(*(float(part[i]) for part in bounds[name, at]))
                    cells.append(format_interval(found))
                if at == "trained":
                    paid = Interval(*(float(part[i - 1]) for part in cost)) if i else None
                    cells.append("0" if paid is None else format_interval(paid))
            rows.append(tuple(cells))
        meanings = tuple(f"**{name}**: {one.meanings[name]}" for name in one.scores)
        return Section(
            title=f"The task {task}",
            short=task,
            blocks=(
                Listing(meanings, quiet=True),
                Table(tuple(head), tuple(rows), caption="Brackets: 95% intervals.", marked=0),
            ),
        )
