"""Factors of a strength that depend on the text: by text, read from its prompt; or by token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.sites import Site, TokenBatch

Reader = Callable[[TokenBatch, Sequence[Site]], Mapping[Site, Float[Tensor, "batch pos d_model"]]]
"""Reads streams of texts, without whatever edits and prompts are attached."""


@runtime_checkable
class TextFactor(Protocol):
    """One number per text, which is found on its prompt when a run starts and holds until it ends."""

    def of_texts(self, batch: TokenBatch, read: Reader) -> Float[Tensor, " batch"]: ...


@runtime_checkable
class TokenFactor(Protocol):
    """One number per token. That of a token depends on the text up to it alone."""

    def of_tokens(self, batch: TokenBatch, start: int) -> Float[Tensor, "batch some"]:
        """The numbers of all columns from `start` on."""
        ...


Factor = TextFactor | TokenFactor


@dataclass(eq=False)
class GatedWeights:
    """Changes of weights whose strength is another for each text."""

    change: Callable[[float], Mapping[str, Callable[[Tensor], Tensor]]]
    """For a factor: by the name of each parameter its value as a function of the one there."""
    factors: tuple[Factor, ...]
    ever_ran: bool = False


def product_by_text(
    factors: Sequence[Factor], values: Mapping[int, Float[Tensor, " batch"]]
) -> Float[Tensor, " batch"] | None:
    """The product of the factors that are by text; None where there are none.

    Args:
        values: Of each factor, by its id.
    """
    own = [values[id(factor)] for factor in factors if isinstance(factor, TextFactor)]
    return torch.stack(own).prod(0) if own else None


def groups_of(values: Float[Tensor, "batch gate"]) -> list[Int[Tensor, " row"]]:
    """Rows with the same values, as numbers of rows."""
    _, group = torch.unique(values, dim=0, return_inverse=True)
    return [(group == k).nonzero()[:, 0] for k in range(int(group.max()) + 1)]
