"""The direct and the mediated part of every gain of a map."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens import stats
from steerlens.analyses.ratios import ratio_of_means
from steerlens.results import Column

MOSTLY = 0.5
"""The share of a gain above which its direct part is most of it."""
CELLS = ("row", "multiplier")
Bounds = tuple[
    Float[Tensor, "row multiplier"],
    Float[Tensor, "row multiplier"],
    Float[Tensor, "row multiplier"],
]
"""Mean, low and high of every cell."""


@dataclass(frozen=True, eq=False)
class GainParts:
    """What the step itself does to the asked logits, and what later blocks make of it."""

    gains: Float[Tensor, "row multiplier example"]
    """Steered minus unsteered propensity, in nats."""
    direct: Float[Tensor, "row multiplier example"]
    """The direct part of it; NaN in rows whose intervention has no step."""
    sign: Float[Tensor, " multiplier"]
    """1 where the multiplier is above 0, -1 where it is below."""
    groups: stats.Groups = None
    """The group of each example, the unit of every interval; None where each is a group."""

    @property
    def mediated(self) -> Float[Tensor, "row multiplier example"]:
        """The gain without its direct part, in nats."""
        return self.gains - self.direct

    @property
    def oriented(self) -> Float[Tensor, "row multiplier example"]:
        """The mediated part in the asked direction: positive is what was asked for."""
        return self.mediated * self.sign[:, None]

    @property
    def known(self) -> Bool[Tensor, " row"]:
        """Rows whose gain can be split."""
        return self.direct.isfinite().all(-1).all(-1)

    @cached_property
    def mediated_interval(self) -> Bounds:
        """Mean oriented mediated gain of each cell with its 95% interval over examples."""
        return self._interval(self.oriented)

    @cached_property
    def direct_interval(self) -> Bounds:
        """Mean oriented direct gain of each cell with its 95% interval over examples."""
        return self._interval(self.direct * self.sign[:, None])

    def _interval(self, values: Float[Tensor, "row multiplier example"]) -> Bounds:
        found = tuple(torch.full(values.shape[:2], torch.nan) for _ in range(3))
        if bool(self.known.any()):
            intervals = stats.mean_interval(values[self.known], self.groups)
            for whole, part in zip(found, intervals, strict=True):
                whole[self.known] = part.masked_fill(self.sign == 0, 0.0)
        return found  # type: ignore[return-value]

    @cached_property
    def share(self) -> Bounds:
        """Mean direct part over mean gain, with Fieller's interval over examples.

        NaN where the gain is not told apart from 0. Above 1 where later blocks work against the
        step, and below 0 where the step itself works against what they make of it.
        """
        return ratio_of_means(self.direct, self.gains, (self.groups, self.groups), matched=True)

    def columns(self) -> list[Column]:
        """Columns of the map's table: parts of the gain, with the sign of the gain."""
        flipped = self.sign < 0
        _, low, high = self.mediated_interval
        return [
            Column("direct", CELLS, self.direct.mean(-1)),
            Column("mediated", CELLS, self.mediated.mean(-1)),
            Column("mediated_low", CELLS, torch.where(flipped, -high, low)),
            Column("mediated_high", CELLS, torch.where(flipped, -low, high)),
        ]
