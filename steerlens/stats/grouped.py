"""Examples that belong together: the unit of every interval and of every null is the group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

FEWEST = 8
"""Groups below which there is no interval: resampling so few says little of others."""
FEW = 16
"""Effective groups below which an interval covers less often than it says."""

Groups = Int[Tensor, " _example"] | None
"""The group of each example, as a number; None where every example is a group."""

T = TypeVar("T")


def group_numbers(names: Sequence[object]) -> Int[Tensor, " _example"]:
    """Numbers for the names of groups, in the order in which they first occur.

    >>> group_numbers(["a", "b", "a"]).tolist()
    [0, 1, 0]
    """
    known: dict[object, int] = {}
    return torch.tensor([known.setdefault(name, len(known)) for name in names], dtype=torch.long)


@dataclass(frozen=True, eq=False)
class Units:
    """Groups of examples that are drawn together."""

    index: Int[Tensor, " example"]
    """The group of each example, from 0 on."""
    sizes: Float[Tensor, " unit"]
    """Examples of each group."""

    @staticmethod
    def of(groups: Groups, n: int) -> Units:
        """The groups of n examples; each example by itself where none are given.

        Raises:
            ValueError: If there is not a group for each example, or there are no examples.
        """
        if n < 1:
            raise ValueError("An interval needs examples; got none.")
        if groups is None:
            return Units(torch.arange(n), torch.ones(n))
        if len(groups) != n:
            raise ValueError(
                f"There are {len(groups)} groups for {n} examples. Give the group of each example."
            )
        index = group_numbers(groups.tolist())
        return Units(index, torch.bincount(index).float())

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def effective(self) -> float:
        """How many groups of equal size would tell as much (Kish): less if sizes are unequal."""
        return float(self.sizes.sum() ** 2 / self.sizes.square().sum())

    def totals(self, values: Float[Tensor, "*grid example"]) -> Float[Tensor, "*grid unit"]:
        """Sums over the examples of each group."""
        if len(self) == values.shape[-1]:
            order = torch.argsort(self.index)
            return values[..., order]
        out = values.new_zeros(*values.shape[:-1], len(self))
        return out.index_add_(-1, self.index, values)

    def counts(self, draws: int, seed: int) -> Float[Tensor, "draw unit"]:
        """How often each group is in each of some resamples of the groups."""
        return _counts(len(self), draws, seed)


@lru_cache(maxsize=4)  # one report asks for the same resamples a hundred times
def _counts(units: int, draws: int, seed: int) -> Float[Tensor, "draw unit"]:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(units, (draws, units), generator=generator)
    return torch.zeros(draws, units).scatter_add_(1, drawn, torch.ones(draws, units))


def sizes_in_words(groups: Groups, n: int, what: str = "examples") -> str:
    """How many examples in how many groups, with the effective number where it is smaller.

    >>> sizes_in_words(torch.tensor([0, 0, 0, 1, 2]), 5), sizes_in_words(None, 5)
    ('5 examples in 3 groups (effectively 2.3)', '5 examples')
    """
    units = Units.of(groups, n)
    if len(units) == n:
        return f"{n} {what}"
    uneven = "" if units.effective > len(units) - 0.05 else f" (effectively {units.effective:.1f})"
    return f"{n} {what} in {len(units)} groups{uneven}"


def too_few(groups: Groups, n: int, what: str = "examples") -> str:
    """What to say of an interval over few groups; "" where they are enough.

    >>> too_few(None, 20)
    ''
    """
    units = Units.of(groups, n)
    kind = what if len(units) == n else f"groups of {what}"
    if len(units) < FEWEST:
        return (
            f"{len(units)} {kind} are too few for an interval (at least {FEWEST} are needed), so "
            "only the mean is given."
        )
    if units.effective < FEW:
        return (
            f"Intervals over {units.effective:.3g} {kind} are approximate: from {FEW} on they cover "
            "the truth about as often as they say."
        )
    return ""
