"""Assertions with a text, and how far apart rounding may put two numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steerlens.models.model import Model


def tolerance(model: Model, logits: Sequence[Tensor]) -> float:
    """What rounding explains, at the model's precision and the logits' size."""
    eps = torch.finfo(next(model.wrapped.parameters()).dtype).eps
    return eps**0.5 * max(float(x.abs().max()) for x in logits)


def require(holds: bool, text: str) -> None:
    """Raises AssertionError with the text unless it holds."""
    if not holds:
        raise AssertionError(text)


def require_same(one: Tensor, other: Tensor, model: Model, text: str) -> None:
    """Raises AssertionError if two tensors differ by more than rounding explains."""
    gap = float((one - other).abs().max())
    require(gap <= tolerance(model, [one, other]), f"{text}: they differ by {gap:.2g}.")


def require_close(one: Tensor, other: Tensor, text: str) -> None:
    """Raises AssertionError if two vectors differ by a thousandth of their length."""
    gap = float((one - other).norm() / other.norm())
    require(gap < 1e-3, f"{text} They differ by {gap:.2g} of its length.")
