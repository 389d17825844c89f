"""How long a vector may be before it costs a given KL: strength as cost, so that layers compare."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from steerlens.directions import Direction
from steerlens.interventions.residual import Add
from steerlens.measures.sweep import divergence
from steerlens.models.model import Model, as_model
from steerlens.sites import Positions

GRID = tuple(2.0**k for k in range(-8, 5))
"""First look: multiples of the median residual norm, from far below to far above what is used."""
ROUNDS, STEPS = 2, 9
TOLERANCE = 0.01
"""How far below the asked KL the found length may stay; it is never above."""


class CalibrationError(ValueError):
    """A direction that cannot be made to cost what was asked."""


def equal_kl(
    model: Model,
    directions: Sequence[Direction],
    texts: Sequence[str],
    *,
    kl: float = 0.1,
    positions: Positions | None = None,
    progress: bool = True,
) -> tuple[float, ...]:
    """The length of each direction at which adding it costs the same KL on ordinary text.

    With ``Add(direction, positions, unit=length)`` multiplier 1 costs `kl` nats per token at
    every layer, so that layers, directions and methods are compared at equal cost. The length is
    where KL first reaches `kl` on the way up, in the direction's own sense (multiplier above 0);
    against it the cost may differ.

    Args:
        texts: Ordinary texts. Measure the cost that you report on others.
        kl: Nats per token of `divergence`.
        positions: Which tokens are steered; by default from the prompt's end on.

    Returns:
        Lengths in the units of the residual stream, at most 1% of `kl` below what was asked.

    Raises:
        CalibrationError: If a direction states no resid_norm, or costs less than `kl` even at 16
            times the stream's median norm, or more than it at a 256th.
    """
    model = as_model(model)
    if not (kl > 0 and math.isfinite(kl)):
        raise CalibrationError(f"kl={kl} is no cost to aim at. Give nats per token above 0.")
    units = [_norm(direction) for direction in directions]
    positions = positions or Positions.from_prompt_end()

    def costs(lengths: list[float], steps: Sequence[float]) -> Tensor:
        edits = [Add(d, positions, n) for d, n in zip(directions, lengths, strict=True)]
        return divergence(model, texts, edits, steps, progress=progress).mean(-1).double()

    found = costs(units, (0.0, *GRID))[:, 1:]
    low, ratio = [], GRID[1] / GRID[0]
    for direction, unit, row in zip(directions, units, found, strict=True):
        over = int((row > kl).float().argmax()) if bool((row > kl).any()) else -1
        if over < 1:
            raise CalibrationError(
                f"Adding {direction} costs {float(row[0]):.3g} to {float(row.max()):.3g} nats of KL "
                f"per token between {GRID[0] * unit:.3g} and {GRID[-1] * unit:.3g} long, so no "
                f"length of it costs {kl:g}. Leave that layer out, or use unit='resid_norm'."
            )
        low.append(GRID[over - 1] * unit)
    for _ in range(ROUNDS):
        steps = [ratio ** (k / (STEPS - 1)) for k in range(STEPS)]
        rows = costs(low, (0.0, *steps))[:, 1:]
        # Rounding can put an end of the bracket on the other side: the steps stay inside.
        last = [
            max(0, min(int((row > kl).float().argmax()) or STEPS - 1, STEPS - 1) - 1)
            for row in rows
        ]
        low = [length * steps[k] for length, k in zip(low, last, strict=True)]
        ratio = steps[1]
    ends = costs(low, (0.0, 1.0, ratio))[:, 1:]
    return tuple(
        _between(length, ratio, float(a), float(b), kl)
        for length, (a, b) in zip(low, ends, strict=True)
    )


def _between(low: float, ratio: float, at_low: float, at_high: float, kl: float) -> float:
    """A length between two close ones, on the log-log line through both, a little below."""
    aim = kl * (1 - TOLERANCE / 4)
    if not at_low < aim < at_high:
        return low
    share = math.log(aim / at_low) / math.log(at_high / at_low)
    return low * ratio**share


def _norm(direction: Direction) -> float:
    if direction.resid_norm is None:
        raise CalibrationError(
            f"{direction} does not state resid_norm, so there is no scale to start the search at. "
            "Fit it with steerlens.activations(model, …), or state resid_norm."
        )
    return direction.resid_norm
