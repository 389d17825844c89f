"""Counting in the texts of a grid: nested sequences in, tensors out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Grid = Sequence[Sequence[Sequence[Any]]]
"""Something for every text: [row][multiplier][prompt]."""


def words_of(
    tokens: Int[Tensor, "row multiplier prompt new"], ended: Bool[Tensor, "row multiplier prompt"]
) -> list[list[list[list[int]]]]:
    """The tokens of every text, without the EOS that ended it and the padding after it."""
    ends = ended.tolist()
    return [
        [
            [
                [t for t in text if t >= 0][: -1 if ends[i][j][k] else None]
                for k, text in enumerate(cell)
            ]
            for j, cell in enumerate(row)
        ]
        for i, row in enumerate(tokens.tolist())
    ]


def count_texts(grid: Grid, measure: Callable[[Any], Any]) -> Tensor:
    """A number for every text: [row, multiplier, prompt]."""
    return torch.tensor([[[measure(text) for text in cell] for cell in row] for row in grid])


def count_cells(grid: Grid, measure: Callable[[Sequence[Any]], Any]) -> Tensor:
    """A number, or several, for the texts of every cell: [row, multiplier, …]."""
    return torch.tensor([[measure(cell) for cell in row] for row in grid])


def shape_of(grid: Grid) -> tuple[int, ...]:
    """Rows, multipliers and prompts of a grid; () for a ragged one."""
    rows = {len(row) for row in grid}
    cells = {len(cell) for row in grid for cell in row}
    return (len(grid), *rows, *cells) if len(rows) == len(cells) == 1 else ()
