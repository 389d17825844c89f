"""The cell of a map to use, and why not the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens import stats
from steerlens.analyses.confirmation.writing_verdict import NOT_LOOKED, WritingVerdict
from steerlens.analyses.steerability.map_numbers import MapNumbers
from steerlens.results import Cell
from steerlens.stats import Interval

MEASURED = (
    "On the reference world p was at most 0.05 in 33 of 2700 maps of shuffled labels (at most 4% of "
    "them), unrelated contrasts and random directions, and in 180 of 180 of real contrasts "
    "(docs/trust.md)."
)
"""The measured type I error and power of the printed p-value."""
UNTESTED = "No null maps were made, so no cell was compared with chance."
"""What is said of a map without nulls, everywhere."""
Quantity = Literal["gain", "mediated"]
"""What a cell is chosen by: its whole gain, or the part that later blocks make of the step."""


@dataclass(frozen=True, eq=False)
class Recommendation:
    """The cell to use, what it gains and costs, and why not the best cell of every other row."""

    cell: Cell | None
    """None when no cell is both above the null and within the budget."""
    gain: Interval | None
    """On the choosing examples, with a 95% interval that accounts for having searched all cells.
    The value itself is too high on average, as the largest of many; see `Confirmation` for one that
    is not. Chosen by the mediated part, it is that part."""
    cost: float | None
    """KL to the unsteered model on ordinary text, nats per token."""
    budget: float
    reasons: tuple[tuple[Cell, str], ...]
    """The best cell of every other row, and why it was not chosen."""
    tested: bool = True
    """Whether there were null maps. Without them a cell only has to gain more than 0."""
    backwards: str = ""
    """That steering works against what is asked, in words; "" where it does not."""
    outside: str = ""
    """That more than half of the cells cost more than the budget, and what to do; "" where less."""
    by: Quantity = "gain"
    """What the cell was chosen by."""
    written: WritingVerdict | None = None
    """What is claimed of the texts written there; None where nobody looked."""

    def __str__(self) -> str:
        if self.cell is None:
            what = "is above the null" if self.tested else "gains more than 0 nats"
            head = f"No cell {what} within {self.budget:g} nats of KL per token."
        else:
            head = (
                f"Best cell: {self.cell}. It gains {self.gain} {_NATS[self.by]} and costs "
                f"{self.cost:.3g} nats of KL per token (budget {self.budget:g})."
            )
            head += f"\nIn writing: {self.written or NOT_LOOKED}."
        reasons = (f"  not {cell}: {why}" for cell, why in self.reasons)
        said = (self.backwards, self.outside, "" if self.tested else UNTESTED)
        return "\n".join([head, *filter(None, said), *reasons])


_NATS: dict[str, str] = {"gain": "nats", "mediated": "nats through later blocks"}


def recommend(
    numbers: MapNumbers,
    *,
    towards: int = 1,
    budget: float | None = None,
    by: Quantity = "gain",
) -> Recommendation:
    """The cell with the largest gain within the budget and above the null, and why not others.

    Args:
        towards: 1 to have more of the behaviour (positive multipliers), -1 to have less.
        budget: KL in nats per token; by default the map's own.
        by: "gain", or "mediated" for the largest part of a gain that later blocks make; rows whose
            gain has no parts are then left out. Whether a cell is above the null is decided by the
            whole gain in both cases.

    Raises:
        ValueError: If there is no multiplier of the asked sign, or no gain has parts.
    """
    budget = numbers.budget if budget is None else budget
    values = _values(numbers, by)
    mean = values.mean(-1)
    asked = numbers.multipliers.sign() == towards
    if not bool(asked.any()):
        raise ValueError(
            f"No multiplier of {numbers.multipliers.tolist()} has the sign of towards={towards:+d}. "
            "Sweep multipliers of both signs."
        )
    tested, outside = bool(numbers.nulls), outside_of(numbers, budget)
    allowed = numbers.affordable(budget) & numbers.exceeds & asked
    if by == "mediated":
        allowed = allowed & (mean > 0)
    if not bool(allowed.any()):
        reasons = _reasons(numbers, values, None, asked, allowed, budget, by)
        backwards = backwards_of(numbers, towards, 0.0)
        return Recommendation(None, None, None, budget, reasons, tested, backwards, outside, by)
    i, j = divmod(int(mean.masked_fill(~allowed, -torch.inf).argmax()), mean.shape[1])
    searched = stats.simultaneous_interval(values[:, asked].nan_to_num(), numbers.groups)
    k = int(asked[:j].sum())
    return Recommendation(
        cell=numbers.cell(i, j),
        gain=Interval(*(float(x[i, k]) for x in searched)),
        cost=float(numbers.cost[i, j]),
        budget=budget,
        reasons=_reasons(numbers, values, (i, j), asked, allowed, budget, by),
        tested=tested,
        backwards=backwards_of(numbers, towards, float(numbers.oriented[i, j].mean())),
        outside=outside,
        by=by,
        written=numbers.written_at(numbers.cell(i, j)),
    )


def backwards_of(numbers: MapNumbers, towards: int, best: float) -> str:
    """That steering works consistently the wrong way, in words; "" if it does not.

    It does where an interval that accounts for the search over all cells is below 0, and, with null
    maps, theirs are not as far below.

    Args:
        best: The largest gain in the right direction: the wrong one must be larger.
    """
    asked = numbers.multipliers.sign() == towards
    mean, low, high = stats.simultaneous_interval(numbers.oriented[:, asked], numbers.groups)
    worst = int(mean.flatten().argmin())
    i, k = divmod(worst, mean.shape[1])
    p = numbers.wrong_way_p_value
    if not float(high[i, k]) < 0 or p > 0.05 or -float(mean[i, k]) <= best:
        return ""
    cell = numbers.cell(i, int(asked.nonzero()[k, 0]))
    gain = Interval(float(mean[i, k]), float(low[i, k]), float(high[i, k]))
    tested = "" if p != p else f" (p = {p:.3g} against null maps)"
    return (
        f"Steering works the wrong way: {cell} changes the oriented gain by {gain} nats{tested}. "
        "If positive and negative are exchanged in the questions or in the pairs, exchange them "
        "back: flipped()."
    )


def outside_of(numbers: MapNumbers, budget: float) -> str:
    """How many cells cost more than the budget, and what to do, where they are more than half."""
    steered = numbers.multipliers != 0
    costly = ~numbers.affordable(budget)[:, steered]
    if float(costly.float().mean()) <= 0.5:
        return ""
    return (
        f"{int(costly.sum())} of {costly.numel()} cells cost more than the budget of {budget:g} nats "
        'of KL per token. Use unit="equal_kl", smaller multipliers, or a larger budget.'
    )


def _values(numbers: MapNumbers, by: Quantity) -> Float[Tensor, "row multiplier example"]:
    """What is compared, in the asked direction."""
    if by == "gain":
        return numbers.oriented
    if by != "mediated":
        raise ValueError(f'by={by!r} is nothing to choose a cell by. Use "gain" or "mediated".')
    if numbers.parts is None:
        raise ValueError(
            'by="mediated" needs the direct part of the gains, which this map does not hold: it was '
            "made without it, or none of its interventions adds a step to the stream. Use "
            'by="gain", or map residual edits such as Add.'
        )
    return numbers.parts.oriented


def _reasons(
    numbers: MapNumbers,
    values: Tensor,
    chosen: tuple[int, int] | None,
    asked: Tensor,
    allowed: Tensor,
    budget: float,
    by: Quantity,
) -> tuple[tuple[Cell, str], ...]:
    """The best cell of every row but the chosen one, and why it was not chosen."""
    mean = values.mean(-1).nan_to_num(-torch.inf)
    reasons = []
    for i in range(len(numbers.rows)):
        if chosen is not None and chosen[0] == i:
            continue
        if chosen is not None and bool(allowed[i].any()):
            j = int(mean[i].masked_fill(~allowed[i], -torch.inf).argmax())
            why = _behind(values, chosen, (i, j), by, numbers.groups)
        else:
            j = int(mean[i].masked_fill(~asked, -torch.inf).argmax())
            why = _refused(numbers, (i, j), budget, by)
        reasons.append((numbers.cell(i, j), why))
    return tuple(reasons)


def _refused(numbers: MapNumbers, cell: tuple[int, int], budget: float, by: Quantity) -> str:
    """Why a cell is not allowed."""
    if by == "mediated" and numbers.parts is not None:
        mediated = float(numbers.parts.oriented[cell].mean())
        if mediated != mediated:
            return "its gain has no direct and mediated part"
        if mediated <= 0:
            return f"later blocks add {mediated:.3g} nats"
    gain = f"gains {float(numbers.oriented[cell].mean()):.3g} nats"
    if not bool(numbers.affordable(budget)[cell]) and bool(numbers.exceeds[cell]):
        cheaper = "is above the null" if numbers.nulls else "gains more than 0"
        return (
            f"{gain} but costs {float(numbers.cost[cell]):.3g} nats of KL per token, and no "
            f"cheaper cell of this row {cheaper}"
        )
    return f"{gain}, no more than the null maps do" if numbers.nulls else f"{gain}, not more than 0"


def _behind(
    values: Tensor,
    chosen: tuple[int, int],
    other: tuple[int, int],
    by: Quantity,
    groups: stats.Groups,
) -> str:
    """How far an allowed cell is behind the chosen one, example by example."""
    gain = f"gains {float(values[other].mean()):.3g} {_NATS[by]} within the budget"
    gap = stats.interval_of_mean(values[chosen] - values[other], groups)
    unclear = "" if gap.low > 0 else ": the two cannot be told apart"
    return f"{gain}, {gap} less{unclear}"
