"""One cell of a grid of arms and multipliers."""

from __future__ import annotations

from typing import NamedTuple

from steerlens.sites import Site


class Cell(NamedTuple):
    """One arm at one multiplier."""

    row: str
    """The name of the arm: its site, where it has no other name."""
    multiplier: float
    site: Site | None = None
    """Where the arm acts; None where that is not one site."""

    def __str__(self) -> str:
        return f"{self.row} at multiplier {self.multiplier:+g}"
