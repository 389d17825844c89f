"""What each later head and MLP carries of a gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.ratios import ratio_of_means
from steerlens.report.numbers import format_interval, format_number
from steerlens.report.section import Figure, Heading, Printed, Section, Table
from steerlens.results import Column, Result
from steerlens.sites import Site
from steerlens.stats import Interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

SHOWN = 3
"""Components that the summary names."""


@dataclass(frozen=True, order=True)
class Component:
    """One attention head, or the MLP of a block.

    >>> str(Component(3, 2)), str(Component(3, None))
    ('L3 head 2', 'L3 MLP')
    """

    layer: int
    head: int | None
    """None for the MLP."""

    @property
    def site(self) -> Site:
        """Where its output is read and held: a head before its output matrix."""
        return Site(self.layer, "mlp_out" if self.head is None else "z")

    def __str__(self) -> str:
        return f"L{self.layer} MLP" if self.head is None else f"L{self.layer} head {self.head}"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class GainAttribution(Result):
    """Effects of heads and MLPs on the gain of one intervention at one multiplier, in nats.

    `attribute_gain` makes it. A positive effect is gain that goes through the component; a negative
    one says that the component works against the gain.
    """

    kind: ClassVar[str] = "attribution"

    components: tuple[Component, ...]
    """Every head and MLP from the first changed block on."""
    first_order: Float[Tensor, "component example"]
    """Change of the output times the gradient of the log-odds, on the questions that rank."""
    exact: tuple[int, ...]
    """The components that were held, by their numbers, largest first-order effect first."""
    lost: Float[Tensor, "held question"]
    """Gain that is lost when one of them is held at its unsteered output, on other questions."""
    lost_together: Float[Tensor, " question"]
    """The same with all of them held at once."""
    gain: Float[Tensor, " question"]
    mediated: Float[Tensor, " question"]
    """The part of the gain that later blocks make; NaN for an intervention without a step."""
    groups: tuple[str, ...]
    """The group of each question, the unit of the intervals."""
    made_by: dict[str, Any]

    def held(self, number: int) -> Component:
        """The component that was held as number `number`."""
        return self.components[self.exact[number]]

    def interval(self, number: int | None = None) -> Interval:
        """Gain that is lost without one held component, or without all of them, in nats.

        The 95% interval is over groups of questions.
        """
        values = self.lost_together if number is None else self.lost[number]
        return stats.interval_of_mean(values, stats.group_numbers(self.groups))

    def share(self) -> Interval:
        """The part of the gain that is lost when all are held together (Fieller)."""
        groups = stats.group_numbers(self.groups)
        found = ratio_of_means(self.lost_together, self.gain, (groups, groups), matched=True)
        return Interval(*(float(x) for x in found))

    def coordinates(self, axis: str, size: int) -> Mapping[str, Sequence[Any]]:
        """Components and held components by name, with their layers."""
        if axis in ("component", "held"):
            every = self.components if axis == "component" else [*map(self.held, range(size))]
            return {axis: list(map(str, every)), "layer": [part.layer for part in every]}
        return super().coordinates(axis, size)

    def columns(self) -> list[Column]:
        """Effects to first order, and exact ones."""
        return [
            Column("first_order", ("component", "example"), self.first_order),
            Column("lost", ("held", "question"), self.lost),
        ]

    def summary(self) -> str:
        """The components that carry most, and all that were held together."""
        groups = stats.group_numbers(self.groups)
        whole = stats.interval_of_mean(self.gain, groups)
        through = float(self.mediated.mean())
        parts = "" if through != through else f", {format_number(through)} of it mediated"
        lines = [
            f"what carries the gain of {self.made_by['row']} at multiplier "
            f"{self.made_by['multiplier']:+g}: {format_interval(whole)} nats{parts}"
        ]
        for number in self._ranked()[:SHOWN]:
            nats = format_interval(self.interval(number))
            lines.append(f"  without {self.held(number)}: {nats} nats are lost")
        lines.append(
            f"  without these {len(self.exact)} together: {format_interval(self.interval())} nats, "
            f"{format_interval(self.share())} of the gain"
        )
        return "\n".join(lines)

    def _ranked(self) -> list[int]:
        """The held components, the one without which most is lost first."""
        return self.lost.mean(-1).argsort(descending=True, stable=True).tolist()

    def plot(self) -> go.Figure:
        """Gain lost without each held component, with what was expected to first order."""
        order = self._ranked()
        return plots.component_effects(
            {str(self.held(n)): self.interval(n) for n in order}
            | {"all of these": self.interval()},
            expected=[float(self.first_order[self.exact[n]].mean()) for n in order],
            unit="nats",
            title="What the gain loses when one later component is held",
        )

    def section(self, beside: Mapping[str, Result]) -> Section:
        """The figure, and all numbers."""
        head = (
            Heading("component", number=False), Heading("lost without it", "nats"),
            Heading("to first order", "nats"),
        )  # fmt: skip
        rows = tuple(
            (
                str(self.held(n)),
                format_interval(self.interval(n)),
                format_number(float(self.first_order[self.exact[n]].mean())),
            )
            for n in self._ranked()
        )
        caption = (
            "Each of these heads and MLPs is held at its unsteered output at every token while the "
            "model is steered. They were chosen by their first-order effects on other questions. "
            "Components feed each other, so the losses need not add up."
        )
        blocks = (Printed(self.summary()), Figure(self.plot, caption), Table(head, rows))
        return Section("What carries the gain", blocks)
