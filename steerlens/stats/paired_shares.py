"""Changes of a share on the same examples, with intervals: arrays in, arrays out."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from steerlens.stats.grouped import Groups
from steerlens.stats.shares import Bounds, share_interval


def share_change_interval(
    before: Float[Tensor, "*grid example"],
    after: Float[Tensor, "*grid example"],
    groups: Groups = None,
    *,
    level: float = 0.95,
) -> Bounds:
    """Share after minus share before, of examples that are 0 or 1: value, low, high.

    The change is the share of examples that rise minus the share that fall. Wilson's intervals of
    both are joined, with the correlation that they have since no example does both. Not empty where
    no example changes; below 8 groups the ends are NaN.

    Args:
        groups: The group of each example, the unit of the interval.

    Source: Newcombe 1998, doi:10.1002/(SICI)1097-0258(19981130)17:22<2635::AID-SIM954>3.0.CO;2-C,
    and Zou and Donner 2008, doi:10.1002/sim.3095, for joining intervals; departure: of the shares
    that rise and fall, not of those before and after, so that groups can be resampled as one.
    """
    change = after - before
    up, up_low, up_high = share_interval(change.clamp(min=0), groups, level=level)
    down, down_low, down_high = share_interval((-change).clamp(min=0), groups, level=level)
    odds = (up * down / ((1 - up) * (1 - down)).clamp(min=1e-12)).clamp(max=1.0)
    together = -odds.sqrt()

    def reach(one: Tensor, other: Tensor) -> Tensor:
        squares = one.square() + other.square() - 2 * together * one * other
        return squares.clamp(min=0).sqrt()

    value = up - down
    low = value - reach(up - up_low, down_high - down)
    high = value + reach(up_high - up, down - down_low)
    return value, low.clamp(min=-1.0), high.clamp(max=1.0)
