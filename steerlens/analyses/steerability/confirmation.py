"""The chosen cell on examples that neither made the direction nor chose the cell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float, Int
from torch import Tensor

from steerlens import stats
from steerlens.results import Cell
from steerlens.stats import Interval


@dataclass(frozen=True, eq=False)
class Confirmation:
    """What one cell does to examples that neither made the direction nor chose the cell."""

    cell: Cell
    gains: Float[Tensor, " example"]
    """Propensity steered minus unsteered, in nats, with its sign changed where the multiplier is
    below 0: positive is what was asked for."""
    utilities: Float[Tensor, " example"]
    """Utility log-odds, steered minus unsteered, in nats."""
    kl: Float[Tensor, " text"]
    """Nats per token, on texts that did not choose the cell."""
    direct: Float[Tensor, " example"] | None = None
    """The part of each gain that the step itself makes, in nats and with the sign of `gains`; None
    if the intervention has no step."""
    groups: Int[Tensor, " example"] | None = None
    """The group of each example, the unit of every interval; None where each is a group."""
    text_groups: Int[Tensor, " text"] | None = None
    """The same for the ordinary texts."""

    @cached_property
    def gain(self) -> Interval:
        """Mean gain with its 95% interval, in nats."""
        return stats.interval_of_mean(self.gains, self.groups)

    @cached_property
    def mediated(self) -> Interval | None:
        """Mean mediated part of the gain with its 95% interval, in nats; None if it has no parts."""
        return (
            None
            if self.direct is None
            else stats.interval_of_mean(self.gains - self.direct, self.groups)
        )

    @cached_property
    def utility(self) -> Interval:
        """Mean change of the utility log-odds with its 95% interval, in nats."""
        return stats.interval_of_mean(self.utilities, self.groups)

    @cached_property
    def cost(self) -> Interval:
        """Mean KL with its 95% interval, never below 0."""
        return stats.interval_of_mean(self.kl, self.text_groups, least=0.0)

    @cached_property
    def wrong_way(self) -> Interval:
        """Share of examples that the cell moves the wrong way, with Wilson's interval."""
        found = stats.share_interval((self.gains < 0).float(), self.groups)
        return Interval(*(float(x) for x in found))

    @property
    def examples(self) -> str:
        """How many held-out examples there are, and in how many groups."""
        return stats.sizes_in_words(self.groups, len(self.gains), "held-out examples")

    def __str__(self) -> str:
        parts = "" if self.mediated is None else f", {self.mediated} of it mediated"
        return (
            f"{self.cell}: gain {self.gain} nats{parts}, utility change {self.utility} nats, "
            f"KL {self.cost} nats per token, {self.wrong_way} of examples the wrong way "
            f"({self.examples})"
        )
