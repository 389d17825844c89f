"""A reader's numbers of texts written at some cells, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens import stats
from steerlens.analyses.confirmation.writing_verdict import ENOUGH, Verdict, WritingVerdict
from steerlens.analyses.confirmation.written_share import (
    auroc_interval,
    is_good_reader,
    share_interval,
    why_no_reader,
)
from steerlens.data.near_duplicates import text_groups
from steerlens.results import Cell, Column, Result
from steerlens.stats import Interval
from steerlens.stats.grouped import FEWEST

Texts = tuple[tuple[str, ...], ...]
"""[prompt][draw]"""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class WrittenNumbers(Result):
    """A reader's numbers of texts written at some cells, unsteered, and under the two contexts.

    The texts of one prompt share their random draws, so that they differ by the steering or the
    context alone. Everything is paired by prompt, and the group of prompts is the unit of all
    intervals.

    The *share* of a cell is (steered - unsteered) / (written under the asked context - unsteered):
    0 where steering writes what the unsteered model writes, 1 where it writes as much of the asked
    side as the context itself makes the model write. Where the unsteered texts show the asked side
    already, a context adds nothing to them and is no scale. The change is therefore divided by half
    the distance between the two contexts' texts where that is larger.
    """

    kind: ClassVar[str] = "written"

    cells: tuple[Cell, ...]
    """The cells that were looked at: the recommended one first, then its runners-up."""
    prompts: tuple[str, ...]
    steered: Float[Tensor, "cell prompt draw"]
    """The reader's number of every text written at a cell."""
    opposite: Float[Tensor, "cell prompt draw"]
    """The same at the same row with the opposite multiplier."""
    unsteered: Float[Tensor, "prompt draw"]
    positive: Float[Tensor, "prompt draw"] | None
    """Of texts that the unsteered model writes under the positive context. None without contexts."""
    negative: Float[Tensor, "prompt draw"] | None
    steered_texts: tuple[Texts, ...]
    """[cell][prompt][draw]"""
    opposite_texts: tuple[Texts, ...]
    unsteered_texts: Texts
    positive_texts: Texts
    """Empty without contexts."""
    negative_texts: Texts
    reader: str
    """What read the texts."""
    unit: str
    """The unit of its numbers."""
    missing: str = ""
    """Why there is no context to compare with; "" where there is one."""
    groups: Int[Tensor, " prompt"] | None = None
    """The group of each prompt; by default near-duplicates are one group."""
    made_by: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def units(self) -> Int[Tensor, " prompt"]:
        """The group of each prompt, as a number: the unit of every interval."""
        names = text_groups(self.prompts) if self.groups is None else self.groups.tolist()
        return stats.group_numbers(names)

    # The reader

    @cached_property
    def reader_auroc(self) -> Interval:
        """Probability that a text written under the positive context is read as more positive than
        one written under the negative context, with its 95% interval over groups of prompts.

        NaN without contexts. The contexts that wrote the texts are not those that read them, where
        there are several.
        """
        if self.positive is None or self.negative is None:
            return Interval(float("nan"), float("nan"), float("nan"))
        return auroc_interval(self.positive, self.negative, self.units)

    @property
    def reader_is_good(self) -> bool:
        """Whether the reader tells the two contexts' texts apart well enough to be used."""
        return is_good_reader(self.reader_auroc)

    # Cells

    def sign(self, cell: int) -> int:
        """1 where more of the positive side is asked for, -1 where less."""
        return 1 if self.cells[cell].multiplier > 0 else -1

    def change(self, cell: int) -> Interval:
        """Steered minus unsteered in the asked direction, in the reader's unit, with its interval."""
        return self._mean((self.steered[cell] - self.unsteered) * self.sign(cell))

    def against_opposite(self, cell: int) -> Interval:
        """Steered minus steered with the opposite multiplier, in the asked direction."""
        return self._mean((self.steered[cell] - self.opposite[cell]) * self.sign(cell))

    def _mean(self, values: Float[Tensor, "prompt draw"]) -> Interval:
        each = values.mean(-1)
        if float(each.std()) == 0:
            return Interval(float(each.mean()), float(each.mean()), float(each.mean()))
        return stats.interval_of_mean(each, self.units)

    def share(self, cell: int) -> Interval:
        """The share of what the asked context achieves, with its 95% bootstrap interval.

        Its scale is the larger of two means over prompts: of the asked context's texts minus the
        unsteered ones, and half of the positive context's texts minus the negative one's. NaN
        without contexts, or where neither is above 0.
        """
        sign = self.sign(cell)
        if self.positive is None or self.negative is None:
            return Interval(float("nan"), float("nan"), float("nan"))
        asked = self.positive if sign > 0 else self.negative
        done = (self.steered[cell] - self.unsteered).mean(-1) * sign
        whole = (asked - self.unsteered).mean(-1) * sign
        half = (self.positive - self.negative).mean(-1) / 2
        return share_interval(done, whole, half, groups=self.units)

    def verdict(self, cell: int) -> Verdict:
        """What is claimed of a cell.

        - "confirmed in writing": the lower end of its share is above 0.25.
        - "gain without writing": it is not. Where the share itself is above 0.25, more prompts may
          confirm it, and the summary says so.
        - "not looked at": the reader is refused, or there is no scale.
        """
        share = self.share(cell)
        if not self.reader_is_good or share.low != share.low:
            return "not looked at"
        return "confirmed in writing" if share.low > ENOUGH else "gain without writing"

    def find(self, cell: Cell | None) -> int | None:
        """The index of a cell; None where it was not looked at."""
        if cell is None:
            return None
        for k, one in enumerate(self.cells):
            gap = abs(one.multiplier - cell.multiplier)
            if one.row == cell.row and gap <= 1e-5 * abs(one.multiplier):
                return k
        return None

    def verdict_of(self, cell: Cell | None) -> Verdict:
        """The verdict of a cell, "not looked at" for any that is not among `cells`."""
        k = self.find(cell)
        return "not looked at" if k is None else self.verdict(k)

    @property
    def verdicts(self) -> tuple[WritingVerdict, ...]:
        """What is claimed of each cell, as `SteerabilityMap.with_writing` keeps it."""
        return tuple(
            WritingVerdict(cell, self.verdict(k), self.share(k), len(self.prompts), self.why_not())
            for k, cell in enumerate(self.cells)
        )

    # Words and tables

    def why_not(self) -> str:
        """Why no verdict is given; "" where one is."""
        if self.missing:
            return self.missing
        if (many := int(self.units.max()) + 1) < FEWEST:
            of = "" if many == len(self.prompts) else f" in {many} groups"
            return f"{len(self.prompts)} prompts{of} are too few: an interval needs {FEWEST}"
        if refused := why_no_reader(self.reader_auroc):
            return refused
        if all(self.share(k).low != self.share(k).low for k in range(len(self.cells))):
            return "the context itself does not change what is written, so there is no scale"
        return ""

    def line(self, cell: int) -> str:
        """One cell in a line."""
        share, change = self.share(cell), self.change(cell)
        size = f"change {change} {self.unit}"
        if share.value == share.value:
            size = f"share {share} of what the context writes, {size}"
        return f"{self.cells[cell]}: {self.verdict(cell)} ({size})"

    def coordinates(self, axis: str, size: int) -> Mapping[str, Sequence[Any]]:
        """Cells by row and multiplier, everything else as in any result."""
        if axis == "cell" and size == len(self.cells):
            return {
                "cell": [str(cell) for cell in self.cells],
                "row": [cell.row for cell in self.cells],
                "multiplier": [cell.multiplier for cell in self.cells],
            }
        return super().coordinates(axis, size)

    def columns(self) -> list[Column]:
        """For every cell its verdict, its share and changes with intervals."""
        cells = range(len(self.cells))
        found = [Column("verdict", ("cell",), np.array([self.verdict(k) for k in cells], object))]
        for name, of in (
            ("share", self.share),
            ("change", self.change),
            ("against_opposite", self.against_opposite),
        ):
            values = torch.tensor([list(of(k)) for k in cells], dtype=torch.float64)
            ends = ("", "_low", "_high")
            found += [Column(name + end, ("cell",), values[:, j]) for j, end in enumerate(ends)]
        return found
