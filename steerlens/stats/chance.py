"""The best cell of a searched map against the best cells of null maps."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LEVEL = 0.95


class NullTest(NamedTuple):
    """What the best of all cells reaches when nothing is there to find."""

    p_value: float
    """Chance that a null map has a best cell as outstanding as this map's; never 0."""
    p_values: Float[Tensor, "*grid"]
    """The same for every cell: the chance that the *best* cell of a null map stands out as much."""
    outstanding: Float[Tensor, " null"]
    """How outstanding the best cell of each null map is, in units of its cell's spread."""
    maps: int
    """Null maps that the p-value is from."""
    planned: int
    """Null maps that would have been made if the answer had not been clear earlier."""

    @property
    def above(self) -> Bool[Tensor, "*grid"]:
        """Cells with a p-value of at most 0.05."""
        return self.p_values <= 1 - LEVEL + 1e-9


def max_statistic(
    observed: Float[Tensor, "*grid"],
    nulls: Float[Tensor, "null *grid"],
    *,
    planned: int | None = None,
    needed: int | None = None,
    level: float = LEVEL,
) -> NullTest:
    """The p-value of the best cell of a searched map, from maps made under the null.

    The best of many cells is a multiple comparison: so each null map gives its own best cell, and
    the real best one is held against those. Cells are first put on one scale, by the spread of the
    cell over all maps; the real map counts among them, so that under the null it is just one more.

    Null maps may be made in batches until the answer is clear (`clear_after`). The p-value is then
    that of the maps made until then, and no smaller than it may be: maps go on being made only
    while fewer null maps stand out, so whoever stops has a larger p-value than whoever goes on.

    Args:
        observed: The statistic of every cell; larger is stronger.
        nulls: The same, from random directions or shuffled labels, in the order in which they were
            made; at least 19 for level 0.95, unless the answer was clear earlier.
        planned: The most maps that would have been made; None where all were made at once.
        needed: How many maps there must be; by default as many as the level needs.

    Raises:
        ValueError: If there are too few null maps for the level, or cells that are not finite.

    Source: Westfall and Young 1993; Nichols and Holmes 2002, doi:10.1002/hbm.1058; for stopping,
    Besag and Clifford 1991, doi:10.1093/biomet/78.2.301. Departure: it is asked after batches, since
    the scale of the cells changes with every map.

    >>> nulls = torch.randn(19, 3, generator=torch.Generator().manual_seed(0))
    >>> max_statistic(torch.tensor([0.1, 9.0, 0.2]), nulls).p_value
    0.05
    """
    most = len(nulls) if planned is None else planned
    needed = round(level / (1 - level)) if needed is None else needed
    stop = None if planned is None else clear_after(observed, nulls, planned, level=level)
    used = nulls if stop is None else nulls[:stop]
    if most < needed or (stop is None and len(nulls) < most):
        raise ValueError(
            f"{len(nulls)} null maps cannot give a p-value at level {level}: "
            f"at least {max(needed, most)} are needed."
        )
    maps = torch.cat([observed[None], used])
    _require_finite(maps)
    scaled = maps / _scale(maps.square().sum(0), len(maps))
    best = scaled.flatten(1).max(1).values
    reached = (best[1:].view(-1, *[1] * observed.ndim) >= scaled[0]).sum(0)
    p_values = (1 + reached).double() / len(maps)
    p_value = (1 + int((best[1:] >= best[0]).sum())) / len(maps)
    return NullTest(p_value, p_values, best[1:], len(used), most)


def looks(planned: int) -> list[int]:
    """After how many null maps it is asked whether the answer is clear: 4, 12, 28, …, planned.

    >>> looks(20), looks(99)
    ([4, 12, 20], [4, 12, 28, 60, 99])
    """
    found, step = [], 4
    while sum(found[-1:]) + step < planned:
        found.append(sum(found[-1:]) + step)
        step *= 2
    return [*found, planned]


def clear_after(
    observed: Float[Tensor, "*grid"],
    nulls: Float[Tensor, "null *grid"],
    planned: int,
    *,
    level: float = LEVEL,
) -> int | None:
    """After how many null maps it is clear that p exceeds 1 - level; None if it is not yet.

    That is the first of `looks` at which more null maps have a best cell as outstanding as the
    observed one than would keep all planned maps from being significant, and one more.
    """
    enough = max(1, math.floor((1 - level) * (planned + 1) + 1e-9)) + 1
    for count in looks(planned)[:-1]:
        if count > len(nulls):
            return None
        if _reached(observed, nulls[:count]) >= enough:
            return count
    return None


def _reached(observed: Float[Tensor, "*grid"], nulls: Float[Tensor, "null *grid"]) -> int:
    """Null maps whose best cell is at least as outstanding as the observed one."""
    maps = torch.cat([observed[None], nulls])
    best = (maps / _scale(maps.square().sum(0), len(maps))).flatten(1).max(1).values
    return int((best[1:] >= best[0]).sum())


def _scale(squares: Float[Tensor, "*grid"], maps: int) -> Float[Tensor, "*grid"]:
    """The spread of every cell over all maps."""
    scale = (squares / maps).sqrt()
    # A cell that hardly moves at all is rounding noise, whose tails must not decide; and one that
    # never moves (multiplier 0) can never be the best.
    return scale.clamp(min=max(1e-3 * float(scale.max()), 1e-12))


def _require_finite(maps: Tensor) -> None:
    if not bool(torch.isfinite(maps).all()):
        raise ValueError(
            "Some cells are NaN or infinite, so nothing can be said of the best one. "
            "Use float32 or bfloat16, and smaller multipliers."
        )
