"""One validity-decay curve: its constants, where it is highest and where it holds.

Preference and utility are each a linear function of the multiplier times the share D(m) of the
state that the later layers can still use. D falls with the distance from the multiplier at which
the steered states are closest to what the model knows. One curve holds for one model, site,
direction and data set: its constants hold for no other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.stats import Interval


class Branch(NamedTuple):
    """Validity on one side of 0: D(m) = (1 + (m - centre)² / width) ** -power.

    Width and power trade off: while |m - centre| is below √width, D depends on power / width only.
    Where a flag says that they are not identified, use the curve and the interval, not the two
    constants.
    """

    centre: float
    """m± of the paper, in multipliers; not a peak of the curve if it is on the other side of 0."""
    width: float
    """L±, in squared multipliers."""
    power: float
    """p±."""

    def at(self, m: Float[Tensor, "*grid"]) -> Float[Tensor, "*grid"]:
        """D at these multipliers by this branch, on both sides of 0."""
        return (1 + (m - self.centre).square() / self.width) ** -self.power

    def reach(self, tau: float) -> float:
        """How far from the centre D falls to tau."""
        # With a power near 0 D stays nearly constant, and the number below overflows.
        exponent = -math.log(tau) / self.power if self.power else math.inf
        return math.sqrt(self.width * math.expm1(exponent)) if exponent < 700 else math.inf


@dataclass(frozen=True, eq=False)
class FittedCurve:
    """y(m) = (slope * m + height) * D(m) + base, and how well it describes the mean curve."""

    slope: float
    """α, nats per multiplier; 0 for utility."""
    height: float
    """β, nats; at least 0 for utility."""
    base: float
    """b, nats: the limit of the curve as D goes to 0."""
    negative: Branch
    """D for m < 0."""
    positive: Branch
    """D for m >= 0; at 0 both agree."""
    r2: float
    """Share of the variance over multipliers that the curve explains; NaN for a constant curve."""
    residuals: Float[Tensor, " multiplier"]
    """Measured mean minus curve, in nats."""
    base_seen: bool
    """Whether the sweep goes far enough to show the base; if not, D rests on an extrapolation."""
    at_bounds: tuple[str, ...]
    """Constants at a bound of the search: the best curve would have others."""
    flags: tuple[str, ...]
    """Reasons not to trust the constants; empty if there are none."""

    def validity(self, multipliers: Float[Tensor, "*grid"]) -> Float[Tensor, "*grid"]:
        """D in (0, 1]; beyond the sweep it is an extrapolation."""
        m = multipliers.double()
        return torch.where(m >= 0, self.positive.at(m), self.negative.at(m))

    def at(self, multipliers: Float[Tensor, "*grid"]) -> Float[Tensor, "*grid"]:
        """The curve in nats; beyond the sweep it is an extrapolation."""
        m = multipliers.double()
        return (self.slope * m + self.height) * self.validity(m) + self.base

    @property
    def tops(self) -> tuple[float, ...]:
        """The multipliers at which D is 1: one, one on either side of 0, or none if constant."""
        sides = (
            (self.negative, self.negative.centre <= 0),
            (self.positive, self.positive.centre >= 0),
        )
        return tuple(branch.centre for branch, own in sides if own and branch.power)

    def holds(self, tau: float, swept: tuple[float, float]) -> ValidInterval:
        """Where D >= tau, within the sweep."""
        left, right = self.negative.reach(tau), self.positive.reach(tau)
        ends = [self.negative.centre - left, self.negative.centre + left]
        ends += [self.positive.centre - right, self.positive.centre + right]
        # Both branches agree at 0, so 0 is in the stretches of both or of neither.
        pieces = [(ends[0], ends[3])]
        if float(self.validity(torch.zeros(()))) < tau:
            pieces = [(ends[0], ends[1])] * (self.negative.centre < 0)
            pieces += [(ends[2], ends[3])] * (self.positive.centre > 0)
            pieces.sort(key=lambda piece: min(map(abs, piece)))
        inside = [(max(low, swept[0]), min(high, swept[1])) for low, high in pieces]
        return ValidInterval(
            *inside[0],
            tau=tau,
            low_beyond=pieces[0][0] < swept[0],
            high_beyond=pieces[0][1] > swept[1],
            base_seen=self.base_seen,
            at_bounds=self.at_bounds,
            second=inside[1] if len(inside) > 1 else None,
        )


class ValidInterval(NamedTuple):
    """The multipliers about 0 at which the fitted validity of utility is at least tau."""

    low: float
    high: float
    tau: float
    low_beyond: bool
    """Utility still holds at the lower end of the sweep: the true end is beyond it."""
    high_beyond: bool
    base_seen: bool
    """Whether the sweep shows the base of utility; if not, D_u and both ends are extrapolated."""
    at_bounds: tuple[str, ...]
    """Constants of the curve at a bound of the search: then D_u is not that of the best curve."""
    second: tuple[float, float] | None
    """Where validity holds on the other side of 0, if it dips below tau at 0 itself."""
    low_interval: Interval | None = None
    """The end with its bootstrap interval over examples, clipped to the sweep."""
    high_interval: Interval | None = None

    @property
    def known(self) -> bool:
        """Whether the interval can be used: the base was seen, and no constant is at its bound."""
        return self.base_seen and not self.at_bounds

    @property
    def stretches(self) -> list[tuple[float, float]]:
        """Where the fitted validity holds: one stretch of multipliers or two."""
        return [(self.low, self.high), *([self.second] if self.second else [])]

    def __str__(self) -> str:
        if not self.known:
            why = (
                f"the best curve is at the bounds of the search ({', '.join(self.at_bounds)})"
                if self.base_seen
                else "the sweep does not show how far utility falls; sweep larger multipliers"
            )
            return f"in an interval that is not known: {why} (D_u >= {self.tau:g})"
        low = f"{'beyond ' * self.low_beyond}{self.low_interval or format(self.low, '.3g')}"
        high = f"{'beyond ' * self.high_beyond}{self.high_interval or format(self.high, '.3g')}"
        more = "" if self.second is None else " and from {:.3g} to {:.3g}".format(*self.second)
        return f"from {low} to {high}{more} (D_u >= {self.tau:g})"
