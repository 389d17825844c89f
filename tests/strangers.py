"""Interventions as a stranger would write them: they import nothing of steerlens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LowRank:
    """A low-rank change of one block's MLP output weights: W_out + multiplier · A B.

    For a HookedTransformer. The parameter is exchanged for the length of the `with` and put back
    as it was, bit for bit. It has no site, and one multiplier for all rows of a batch.
    """

    layer: int
    a: Tensor
    """[d_mlp, rank]"""
    b: Tensor
    """[rank, d_model]"""
    per_row = False

    @property
    def first_block(self) -> int:
        return self.layer

    def require_fits(self, model) -> None:
        blocks = getattr(model.wrapped, "blocks", ())
        mlp = getattr(blocks[self.layer], "mlp", None) if self.layer < len(blocks) else None
        weight = getattr(mlp, "_parameters", {}).get("W_out")
        wanted = (self.a.shape[0], self.b.shape[1])
        if weight is None or tuple(weight.shape) != wanted:
            raise ValueError(
                f"LowRank changes blocks.{self.layer}.mlp.W_out of shape {wanted}, and this model "
                f"has {'none' if weight is None else tuple(weight.shape)}. Make it for this model."
            )

    @contextmanager
    def attach(self, model, multiplier) -> Iterator[None]:
        if isinstance(multiplier, Tensor):
            raise TypeError("LowRank takes one multiplier for all rows of a batch.")
        self.require_fits(model)
        mlp = model.wrapped.blocks[self.layer].mlp
        kept = mlp._parameters["W_out"]
        with torch.no_grad():
            changed = kept + float(multiplier) * (self.a @ self.b).to(kept)
        mlp._parameters["W_out"] = torch.nn.Parameter(changed, requires_grad=kept.requires_grad)
        try:
            yield
        finally:
            mlp._parameters["W_out"] = kept

    def __repr__(self) -> str:
        return f"LowRank(layer={self.layer}, rank={self.a.shape[1]})"


def low_rank(model, layer: int, rank: int = 2, share: float = 0.3, seed: int = 0) -> LowRank:
    """A random `LowRank` for a model, whose change has a share of the weights' own norm."""
    weight = model.wrapped.blocks[layer].mlp.W_out.detach()
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(weight.shape[0], rank, generator=generator)
    b = torch.randn(rank, weight.shape[1], generator=generator)
    scale = share * float(weight.norm()) / float((a @ b).norm())
    return LowRank(layer, (a * scale).to(weight.device), b.to(weight.device))


@dataclass(frozen=True)
class LouderHeads:
    """Scales what all heads of a layer write, with a multiplier for each row if asked."""

    layer: int
    per_row = True

    @property
    def first_block(self) -> int:
        return self.layer

    @contextmanager
    def attach(self, model, multiplier) -> Iterator[None]:
        def louder(z, hook):
            m = multiplier[:, None, None, None] if isinstance(multiplier, Tensor) else multiplier
            return z * (1 + m)

        with model.wrapped.hooks(fwd_hooks=[(f"blocks.{self.layer}.attn.hook_z", louder)]):
            yield


@dataclass(frozen=True)
class Silent:
    """The same intervention, of which nothing is stated but how it is attached."""

    intervention: LowRank | LouderHeads

    def attach(self, model, multiplier):
        return self.intervention.attach(model, multiplier)
