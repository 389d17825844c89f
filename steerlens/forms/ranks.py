"""Ranks and bases of low-rank forms."""

from __future__ import annotations

from typing import SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import ArgumentError, as_int


def require_rank(rank: SupportsIndex, most: int | None = None) -> None:
    """Raises ArgumentError unless the rank is a whole number from 1, and at most `most`."""
    number = as_int("rank", rank)
    if number < 1:
        raise ArgumentError(
            f"rank={number}: an update of that rank changes nothing. Use rank=1 or more."
        )
    if most is not None and number > most:
        raise ArgumentError(
            f"rank={number} is more than the {most} dimensions of what is changed. Use at most "
            "that."
        )


@torch.no_grad()
def orthonormal_(rows: Float[Tensor, "rank d"]) -> None:
    """Replaces rows, in place, by the nearest orthonormal ones: the factor U Vᵀ of U S Vᵀ."""
    u, _, v = torch.linalg.svd(rows, full_matrices=False)
    rows.copy_(u @ v)


@torch.no_grad()
def unit_(vector: Float[Tensor, " d"]) -> None:
    """Gives a vector unit length, in place; zeros stay."""
    norm = vector.norm()
    if bool(norm > 0):
        vector.div_(norm)


@torch.no_grad()
def remove_span_(
    rows: Float[Tensor, "some d"], spanning: Float[Tensor, "rank d"], least: float = 1e-6
) -> None:
    """Removes from rows, in place, what lies in the span of other rows.

    Rows that are all but zero span nothing: at the start of training they have no direction yet.
    """
    _, sizes, v = torch.linalg.svd(spanning, full_matrices=False)
    basis = v[sizes > least * max(1.0, float(sizes.max()))]
    rows.sub_(rows @ basis.T @ basis)
