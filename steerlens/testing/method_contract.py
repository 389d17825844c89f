"""The contract of a method: paired activations in, one direction out."""

from __future__ import annotations

import torch
from torch import Tensor

from steerlens.directions.methods.method import Method
from steerlens.testing.requiring import require, require_close


def check_method(method: Method, *, control: bool = False) -> None:
    """Checks that a method keeps its contract, on made-up pairs that differ along one direction.

    The vector has the right shape, is finite, depends on the pairs only (not on their order or on a
    global random state; without `paired = True` not on who is paired with whom), and points from
    negative to positive. The arguments are left as they were, and the repr can serve as a label.

    Args:
        control: True for a method that ignores the labels on purpose, whose sign means nothing.

    Raises:
        AssertionError: Naming the first point that fails.

    >>> from steerlens.directions.methods import DiffMean
    >>> check_method(DiffMean())
    """
    name = repr(method)
    require(
        " at 0x" not in name,
        f"repr(method) is {name!r}: it holds a memory address, so it is no label that lasts. Make "
        "the method a frozen dataclass, or write __repr__.",
    )
    paired = bool(getattr(method, "paired", False))
    for pairs in (24, 3):  # more pairs than dimensions, and fewer
        positive, negative = _contrast(pairs, 8)
        vector = _vector(method, name, positive, negative)
        again = _vector(method, name, positive, negative)
        require(
            torch.equal(again, vector),
            f"{name} gave two vectors for the same pairs. Seed what is random in it with a "
            "torch.Generator of its own.",
        )
        order = torch.arange(pairs).roll(1).flip(0)
        moved = _vector(method, name, positive[order], negative[order if paired else order.roll(1)])
        require_close(
            moved,
            vector,
            f"{name} gives another vector when the order of the {'pairs' if paired else 'texts'} "
            "changes. " + ("" if paired else "If it needs true pairs, give it `paired = True`."),
        )
        if control:
            continue
        gap = positive.mean(0) - negative.mean(0)
        flipped = _vector(method, name, negative, positive)
        require(
            float(vector @ gap) > 0 > float(flipped @ gap),
            f"{name} does not point from negative to positive: its cosine with the difference of "
            f"means is {_cosine(vector, gap):.2f}, and {_cosine(flipped, gap):.2f} after the sides "
            "change places. Orient it by that difference.",
        )


def _contrast(pairs: int, d_model: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(pairs)
    common = torch.randn(pairs, d_model, generator=generator)
    noise = 0.3 * torch.randn(2, pairs, d_model, generator=generator)
    concept = torch.randn(d_model, generator=generator)
    return common + concept + noise[0], common - concept + noise[1]


def _vector(method: Method, name: str, positive: Tensor, negative: Tensor) -> Tensor:
    given = positive.clone(), negative.clone()
    vector = method(*given)
    require(
        torch.equal(given[0], positive) and torch.equal(given[1], negative),
        f"{name} changed its arguments in place. Work on copies: others read the same activations.",
    )
    shape = positive.shape[1:]
    require(
        isinstance(vector, Tensor) and vector.shape == shape and vector.is_floating_point(),
        f"{name} returned {getattr(vector, 'shape', type(vector).__name__)}; a direction is a "
        f"floating point tensor of shape {tuple(shape)}.",
    )
    finite = bool(torch.isfinite(vector).all()) and bool(vector.any())
    require(finite, f"{name} returned NaN, infinity or all zeros: {vector}.")
    return vector


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.cosine_similarity(one, other, dim=0))
