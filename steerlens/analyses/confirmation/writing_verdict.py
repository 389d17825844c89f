"""What is claimed of one cell after its texts were read, as a map keeps it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from steerlens.report.numbers import format_share
from steerlens.results import Cell
from steerlens.stats import Interval

Verdict = Literal["confirmed in writing", "gain without writing", "not looked at"]
ENOUGH = 0.25
"""A share whose lower end is above this is confirmed in writing."""
NOT_LOOKED: Verdict = "not looked at"


@dataclass(frozen=True)
class WritingVerdict:
    """The verdict on one cell."""

    cell: Cell
    verdict: Verdict
    share: Interval
    """Of what the context itself writes; NaN where there is no scale."""
    prompts: int
    """How many prompts were continued."""
    why: str = ""
    """Why it was not looked at."""

    @property
    def is_open(self) -> bool:
        """Whether it is not confirmed and yet its interval reaches above a quarter."""
        return self.verdict == "gain without writing" and self.share.high > ENOUGH

    def same_cell(self, cell: Cell) -> bool:
        """Whether it is about a cell, whose multiplier may be rounded."""
        near = abs(self.cell.multiplier - cell.multiplier) <= 1e-5 * abs(cell.multiplier)
        return near and self.cell.row == cell.row

    def __str__(self) -> str:
        if self.verdict == NOT_LOOKED:
            return f"{NOT_LOOKED}: {self.why}" if self.why else NOT_LOOKED
        return (
            f"{self.verdict}: share {self.share} of what the context itself writes "
            f"({self.prompts} prompts{'; more of them would decide it' if self.is_open else ''})"
        )

    def sentence(self) -> str:
        """The verdict for the page, in bold and with its size."""
        if self.verdict == NOT_LOOKED:
            why = f": {self.why}" if self.why else ""
            return (
                f"**Not looked at in writing**{why}. Whether the model then writes what the gain "
                "promises is not known."
            )
        size = (
            f"texts written there show {format_share(self.share)} of the change that the context "
            f"itself brings about in the unsteered model's texts ({self.prompts} prompts)"
        )
        if self.verdict == "confirmed in writing":
            return f"**Confirmed in writing:** {size}."
        if self.is_open:
            return (
                f"**Gain without writing, so far:** {size}, and the interval holds both a quarter "
                "and less. More prompts would decide it."
            )
        return (
            f"**Gain without writing:** {size}, at most a quarter. The "
            "answers' log-odds change, and what the model writes hardly does."
        )


def not_looked_at(cells: Sequence[Cell], why: str) -> tuple[WritingVerdict, ...]:
    """The verdicts on cells whose texts cannot be read."""
    nothing = Interval(math.nan, math.nan, math.nan)
    return tuple(WritingVerdict(cell, NOT_LOOKED, nothing, 0, why.rstrip(".")) for cell in cells)
