"""The strength that costs a given KL or utility, so that interventions compare at equal cost.

`equal_kl` finds it exactly for a few interventions of any kind and refuses those that have none.
`lengths_of_equal_kl` and `lengths_of_equal_utility` find the lengths of many directions with far
fewer forward passes; a direction without such a length is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsFloat

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import as_float, as_int, as_positive
from steerlens.data.contrast_set import PairsLike
from steerlens.directions import Direction
from steerlens.interventions.arms import Arms, Steering
from steerlens.interventions.residual import Add
from steerlens.interventions.scaled import scaled
from steerlens.measures import scores
from steerlens.measures.divergence import divergence
from steerlens.measures.repeated_cost import RepeatedCost
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention
from steerlens.sites import Positions
from steerlens.stats import Groups, mean_interval
from steerlens.store.cells import Cells, cells_or_none
from steerlens.units import BUDGET

GRID = tuple(2.0**k for k in range(-8, 5))
"""First look: multiples of where the search starts, from far below to far above what is used."""
ROUNDS, STEPS = 2, 9
TOLERANCE = 0.01
"""How far below the asked KL the found length may stay; it is never above."""

NEAR, LOOKS = 0.02, 12
"""Of many directions at once: how far from the asked cost a length may be, as a share of it, and
how often lengths are tried at most."""
FIRST, LEAST, MOST = 0.25, 2.0**-8, 16.0
"""The length that is tried first, and the bounds, in median norms of the stream."""


class CalibrationError(ValueError):
    """An intervention that cannot be made to cost what was asked."""


def equal_kl(
    model: Model,
    arms: Arms,
    texts: Sequence[str],
    *,
    kl: SupportsFloat = BUDGET,
    positions: Positions | None = None,
    progress: bool = True,
    cells: Cells | None = None,
) -> tuple[float, ...]:
    """The multiplier at which each intervention costs the same KL on ordinary text.

    A direction stands for adding it with length 1, so that its multiplier is a length: with
    ``Add(direction, positions, unit=length)`` multiplier 1 costs `kl` nats per token at every
    layer, and layers, directions and methods are compared at equal cost. Any other intervention is
    compared by ``scaled(intervention, multiplier)``. The multiplier is the first at which KL
    reaches `kl` on the way up from 0; below 0 the cost may differ.

    Args:
        arms: Interventions of any kind, or directions.
        texts: Ordinary texts. Measure the cost that you report on others.
        kl: Nats per token of `divergence`.
        positions: Which tokens directions are added to; by default from the prompt's end on.
        cells: Where finished units of texts are kept and found; by default nowhere.

    Returns:
        One multiplier for each arm, which costs at most 1% of `kl` less than what was asked.

    Raises:
        CalibrationError: If an arm costs less than `kl` even at 16 times the strength where the
            search starts, or more than it at a 256th. It starts at the stream's median norm for a
            direction and an `Add`, which must state it, and at multiplier 1 for other arms.
        ValueError: If an intervention does not fit the model.
    """
    model, kl = as_model(model), _cost("kl", kl)
    given = list(arms.values()) if isinstance(arms, Mapping) else list(arms)
    where = positions or Positions.from_prompt_end()
    units = [Add(arm, where, 1.0) if isinstance(arm, Direction) else arm for arm in given]
    starts = [_start(arm, of) for arm, of in zip(units, given, strict=True)]
    kept = cells_or_none(cells, "cost", progress)
    looks = 0

    def costs(factors: list[float], steps: Sequence[float]) -> Tensor:
        nonlocal looks
        looks += 1
        edits = [scaled(arm, n) for arm, n in zip(units, factors, strict=True)]
        look = kept.part(f"look-{looks}", factors=repr(factors))
        found = divergence(model, texts, edits, steps, progress=progress, cells=look)
        return found.mean(-1).double()

    found = costs(starts, (0.0, *GRID))[:, 1:]
    low, ratio = [], GRID[1] / GRID[0]
    for arm, start, row in zip(given, starts, found, strict=True):
        over = int((row > kl).float().argmax()) if bool((row > kl).any()) else -1
        if over < 1:
            what = "length" if isinstance(arm, Direction) else "multiplier"
            raise CalibrationError(
                f"{arm} costs {float(row[0]):.3g} to {float(row.max()):.3g} nats of KL per token "
                f"between {what} {GRID[0] * start:.3g} and {GRID[-1] * start:.3g}, so no {what} of "
                f"it costs {kl:g}. Leave it out, or choose another kl."
            )
        low.append(GRID[over - 1] * start)
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


def _start(arm: Intervention, given: Steering) -> float:
    """The multiplier where the search for a cost starts.

    Of a vector that does not know the stream's norm, such as a trained one, it is 1, as of anything
    else; a bare direction must know it.
    """
    if not isinstance(arm, Add):
        return 1.0
    if arm.direction.resid_norm is None and not isinstance(given, Direction):
        return 1.0
    return _norm(arm.direction) / arm.length


def _between(low: float, ratio: float, at_low: float, at_high: float, kl: float) -> float:
    """A length between two close ones, on the log-log line through both, a little below."""
    aim = kl * (1 - TOLERANCE / 4)
    if not 0 < at_low < aim < at_high:
        return low
    share = math.log(aim / at_low) / math.log(at_high / at_low)
    return low * ratio**share


def lengths_of_equal_kl(
    model: Model,
    directions: Sequence[Direction],
    texts: Sequence[str],
    *,
    kl: SupportsFloat = BUDGET,
    positions: Positions | None = None,
    tolerance: float = NEAR,
    first: Sequence[float] | None = None,
    progress: bool = True,
) -> Float[Tensor, " direction"]:
    """The length of each of many directions at which adding it costs the same KL.

    A secant search in the logarithms of length and KL: three or four evaluations instead of the
    thirty of `equal_kl`.

    Args:
        texts: Ordinary texts. Measure the cost that you report on others.
        kl: Nats per token of `divergence`.
        positions: Which tokens are steered; by default from the prompt's end on.
        tolerance: How far from `kl` the cost may be, as a share of it.
        first: The lengths that are tried first; by default a quarter of the stream's median norm.

    Returns:
        Lengths in the units of the residual stream; NaN for a direction that costs less than `kl`
        even at 16 times the stream's median norm, or more than it at a 256th.

    Raises:
        CalibrationError: If a direction states no resid_norm, or `kl` is not positive.
    """
    kl, near = _cost("kl", kl), as_positive("tolerance", tolerance)
    positions = positions or Positions.from_prompt_end()

    units = [_norm(direction) for direction in directions]
    arms = [Add(direction, positions, 1.0) for direction in directions]
    measured = RepeatedCost(as_model(model), texts, arms, progress=progress)

    def cost(chosen: list[int], lengths: list[float]) -> list[float]:
        return measured(chosen, lengths).double().mean(-1).tolist()

    return torch.tensor(strengths_of_cost(cost, units, kl, near, first))


def lengths_within_budget(
    model: Model,
    directions: Sequence[Direction],
    texts: Sequence[str],
    *,
    budget: SupportsFloat = BUDGET,
    positions: Positions | None = None,
    groups: Groups = None,
    first: Sequence[float] | None = None,
    progress: bool = True,
) -> tuple[float, ...]:
    """The length of each direction at which adding it is just sure to be within a budget.

    That is where the upper end of the 95% interval of its KL, over texts, is the budget, or at most
    4% below. So the mean KL is lower, the more so the fewer the texts. Where the texts are too few
    for an interval, it is the mean. A direction that costs less even at 16 times the stream's median
    norm gets that length, and one that costs more at a 256th of it gets that one.

    Args:
        texts: Ordinary texts. Measure the cost that you report on others.
        budget: Nats of KL per token.
        positions: Which tokens are steered; by default from the prompt's end on.
        groups: The group of each text, the unit of the interval.
        first: The lengths that are tried first; by default a quarter of the stream's median norm.

    Raises:
        CalibrationError: If a direction states no resid_norm, or the budget is not positive.
    """
    found = LengthsWithinBudget(
        model, directions, texts, budget=budget, positions=positions, groups=groups,
        progress=progress,
    )  # fmt: skip
    return found(range(len(directions)), first)


def strengths_within_budget(
    model: Model,
    arms: Sequence[Intervention],
    texts: Sequence[str],
    *,
    budget: SupportsFloat = BUDGET,
    units: Sequence[float] | None = None,
    groups: Groups = None,
    first: Sequence[float] | None = None,
    progress: bool = True,
) -> tuple[float, ...]:
    """The multiplier of each intervention at which it is just sure to be within a budget.

    As `lengths_within_budget`, for interventions of any kind.

    Args:
        units: Multipliers are looked for from a 256th to 16 times these; by default 1.
        first: The multipliers that are tried first; by default a quarter of `units`.

    Raises:
        CalibrationError: If the budget is not positive.
    """
    found = StrengthsWithinBudget(
        model, arms, texts, budget=budget, units=units, groups=groups, progress=progress
    )
    return found(range(len(arms)), first)


class StrengthsWithinBudget:
    """`strengths_within_budget` of some interventions, as often as it is called.

    What the unsteered model computes for the texts is computed once, where it can be kept.
    """

    def __init__(
        self,
        model: Model,
        arms: Sequence[Intervention],
        texts: Sequence[str],
        *,
        budget: SupportsFloat = BUDGET,
        units: Sequence[float] | None = None,
        groups: Groups = None,
        progress: bool = True,
    ) -> None:
        self.budget, self.groups = _cost("budget", budget), groups
        self.units = [1.0] * len(arms) if units is None else list(units)
        self._measured = RepeatedCost(as_model(model), texts, arms, progress=progress)

    def __call__(
        self, chosen: Sequence[int], first: Sequence[float] | None = None
    ) -> tuple[float, ...]:
        """The multipliers of some interventions, given by their numbers.

        Args:
            first: The multipliers that are tried first; by default a quarter of their units.
        """
        scale = [self.units[i] for i in chosen]

        def cost(some: list[int], multipliers: list[float]) -> list[float]:
            kls = self._measured([chosen[k] for k in some], multipliers).double()
            mean, _, high = mean_interval(kls, self.groups, least=0.0)
            return torch.where(high.isnan(), mean, high).tolist()

        found = strengths_of_cost(cost, scale, self.budget * (1 - NEAR), NEAR, first)
        missing = [k for k, strength in enumerate(found) if math.isnan(strength)]
        if missing:
            least = cost(missing, [LEAST * scale[k] for k in missing])
            for k, value in zip(missing, least, strict=True):
                found[k] = (MOST if value < self.budget else LEAST) * scale[k]
        return tuple(found)


class LengthsWithinBudget(StrengthsWithinBudget):
    """`lengths_within_budget` of some directions, as often as it is called."""

    def __init__(
        self,
        model: Model,
        directions: Sequence[Direction],
        texts: Sequence[str],
        *,
        positions: Positions | None = None,
        **options: Any,
    ) -> None:
        where = positions or Positions.from_prompt_end()
        units = [_norm(direction) for direction in directions]
        arms = [Add(direction, where, 1.0) for direction in directions]
        super().__init__(model, arms, texts, units=units, **options)


def strengths_of_cost(
    cost: Callable[[list[int], list[float]], list[float]],
    units: Sequence[float],
    aim: float,
    tolerance: float,
    first: Sequence[float] | None = None,
) -> list[float]:
    """The strengths at which a cost that grows about as a power of the strength is `aim`.

    A secant search in the logarithms of strength and cost, of all arms at once.

    Args:
        cost: Of some arms, by their index, each at one strength.
        units: Where each arm's strengths are looked for: from a 256th to 16 times it, and first at
            a quarter.
        tolerance: How far from `aim` the cost may be, as a share of it.
        first: The strengths that are tried first, where they are known better.

    Returns:
        One strength for each arm; NaN for an arm that has none in its bounds.
    """
    tried = [FIRST * unit for unit in units] if first is None else first
    lengths = [
        min(MOST * unit, max(LEAST * unit, length))
        for unit, length in zip(units, tried, strict=True)
    ]
    found = [math.nan] * len(units)
    # The nearest lengths known to cost too little and too much, as logarithms (length, cost).
    below: list[tuple[float, float] | None] = [None] * len(units)
    above: list[tuple[float, float] | None] = [None] * len(units)
    going = list(range(len(units)))
    for _ in range(LOOKS):
        if not going:
            break
        costs = cost(going, [lengths[i] for i in going])
        still = []
        for i, value in zip(going, costs, strict=True):
            if abs(value / aim - 1) <= tolerance:
                found[i] = lengths[i]
                continue
            at = (math.log(lengths[i]), math.log(max(value, 1e-12) / aim))
            if value < aim:
                below[i] = at
            else:
                above[i] = at
            step = _next(below[i], above[i])
            lengths[i] = math.exp(step)
            if LEAST * units[i] <= lengths[i] <= MOST * units[i]:
                still.append(i)
        going = still
    return found


def _next(below: tuple[float, float] | None, above: tuple[float, float] | None) -> float:
    """The next length to try: on the line through both bounds, or by the square law from one."""
    if below is None or above is None:
        x, y = below or above  # type: ignore[misc]
        return x + max(-math.log(4), min(math.log(3), -y / 2))
    (x0, y0), (x1, y1) = below, above
    share = -y0 / (y1 - y0)
    return x0 + min(0.9, max(0.1, share)) * (x1 - x0)


def lengths_of_equal_utility(
    model: Model,
    directions: Sequence[Direction],
    pairs: PairsLike,
    *,
    drop: SupportsFloat,
    positions: Positions | None = None,
    steps: int = 13,
    largest: float = 4.0,
    progress: bool = True,
) -> Float[Tensor, " direction"]:
    """The length of each of many directions at which the mean utility falls by the same amount.

    A little steering may raise the utility: the length is the first at which it has fallen by
    `drop`, interpolated between the two lengths that were tried around it.

    Args:
        pairs: Questions with two answers.
        drop: Nats of the utility log-odds (arXiv:2602.02343).
        positions: Which tokens are steered; by default from the prompt's end on.
        steps: How many lengths are tried, in a geometric sequence up to `largest`.
        largest: The largest length that is tried, in median norms of the stream.

    Returns:
        Lengths in the units of the residual stream; NaN where the utility never falls that far.

    Raises:
        CalibrationError: If a direction states no resid_norm, or `drop` is not positive.
    """
    drop = as_float("drop", drop, finite=False)
    if not (drop > 0 and math.isfinite(drop)):
        raise CalibrationError(f"drop={drop:g} is not a loss of utility. Give nats above 0.")
    steps, largest = as_int("steps", steps, least=1), as_positive("largest", largest)
    positions = positions or Positions.from_prompt_end()
    edits = [Add(d, positions, _norm(d)) for d in directions]
    multipliers = (0.0, *(largest * 2 ** ((k - steps + 1) / 2) for k in range(steps)))
    kept = cells_or_none(None, "utility", progress)
    swept = sweep(model, pairs, edits, multipliers, cells=kept)
    utility = scores.utility(swept).value.double().mean(-1)
    lost = utility[:, :1] - utility  # [direction, multiplier]
    found = []
    for edit, row in zip(edits, lost.tolist(), strict=True):
        over = next((j for j, value in enumerate(row) if value >= drop), None)
        if over is None:
            found.append(math.nan)
            continue
        share = (drop - row[over - 1]) / (row[over] - row[over - 1])
        at = multipliers[over - 1] + share * (multipliers[over] - multipliers[over - 1])
        found.append(at * float(edit.step.norm()))
    return torch.tensor(found)


def _cost(name: str, given: SupportsFloat) -> float:
    """Finite nats above 0."""
    nats = as_float(name, given, finite=False)
    if not (nats > 0 and math.isfinite(nats)):
        raise CalibrationError(f"{name}={nats:g} is not a cost. Give nats per token above 0.")
    return nats


def _norm(direction: Direction) -> float:
    if direction.resid_norm is None:
        raise CalibrationError(
            f"{direction} does not state resid_norm, so the search has no scale to start from. Fit "
            "it with steerlens.activations(model, …), measure the SAE that it is from with "
            "sae = observe(sae, model, texts), or state resid_norm."
        )
    return direction.resid_norm
