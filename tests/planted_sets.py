"""Sets of questions for the planted model: what its direction moves, and what it does not."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from steerlens.data import ContrastSet
from steerlens.results import Cell, Result

FEW = (-1.0, 0.0, 1.0)


def planted_sets(planted_data) -> tuple[ContrastSet, ContrastSet, ContrastSet]:
    """Questions in distribution, other ones, and prompts with answers the direction never moves."""
    _, original, other = planted_data
    pairs = tuple(replace(p, positive=" soup", negative=" bread") for p in original)
    return original.subset(16), other.subset(12), ContrastSet("food", pairs).subset(14, seed=1)


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


class Chosen(Result):
    """A result that recommends a cell."""

    kind = "map"

    def __init__(self, row: str, multiplier: float = 1.0) -> None:
        self.cell, self.made_by = Cell(row, multiplier, None), {}

    @property
    def chosen(self) -> Cell:
        return self.cell
