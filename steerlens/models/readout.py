"""What comes after the last block: the final norm, the unembedding and the cap of the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from steerlens.models.kernel import soft_cap


@dataclass(frozen=True, eq=False)
class Readout:
    """From the stream after the last block to logits, in the wrapped model's own weights."""

    wrapped: Any

    def norm(self, resid: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """What the unembedding reads, of the stream after the last block."""
        if self.wrapped.cfg.normalization_type is None:
            return resid
        return self.wrapped.ln_final(resid)

    def logits(
        self, states: Float[Tensor, "*rows d_model"], targets: Tensor | None = None
    ) -> Tensor:
        """Logits of the asked tokens (all without `targets`), without a copy of the matrix."""
        weight, bias = self.wrapped.unembed.W_U, self.wrapped.unembed.b_U
        if targets is not None:
            weight, bias = weight[:, targets], bias[targets]
        return soft_cap(states @ weight + bias, self.wrapped.cfg.output_logits_soft_cap)
