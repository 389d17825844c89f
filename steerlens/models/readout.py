"""What comes after the last block: the final norm, the unembedding, the scale and cap of logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.models.kernel import soft_cap
from steerlens.models.measured import final_norm, measured
from steerlens.models.memory import rows_of_logits

ROWS, TOKENS = 512, 2048
"""Rows and tokens of the logits that a CPU normalises at once: they fit its cache."""


class ReadoutError(ValueError):
    """The logits of a model cannot be computed from its last stream in a way that is known."""


@dataclass(frozen=True, eq=False)
class Readout:
    """From the stream after the last block to logits, in the wrapped model's own weights.

    It was compared with the wrapped model's own logits when the model was wrapped.
    """

    wrapped: Any
    name: str

    def norm(self, resid: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """What the unembedding reads, of the stream after the last block."""
        return final_norm(self.wrapped, resid)

    def logits(
        self, states: Float[Tensor, "*rows d_model"], targets: Tensor | None = None
    ) -> Tensor:
        """Logits of the asked tokens (all without `targets`), without a copy of the matrix.

        Raises:
            ReadoutError: If the wrapped model's own logits were found to be others.
        """
        self.require_known()
        weight, bias = self.wrapped.unembed.W_U, self.wrapped.unembed.b_U
        if targets is not None:
            weight, bias = weight[:, targets], bias[targets]
        # One product of all rows: rows that are no view of a matrix would read it once for each.
        rows = states.to(weight.dtype).reshape(-1, states.shape[-1])
        return self.finish((rows @ weight + bias).view(*states.shape[:-1], weight.shape[-1]))

    def log_normaliser(
        self, states: Float[Tensor, "*rows d_model"], memory: int
    ) -> Float[Tensor, "*rows"]:
        """logsumexp of the logits over the vocabulary, in float64.

        All logits of a row are never held at once on a CPU, which would wait for its memory.

        Args:
            memory: Bytes of working memory, on other devices.

        Raises:
            ReadoutError: If the wrapped model's own logits were found to be others.
        """
        self.require_known()
        weight, bias = self.wrapped.unembed.W_U, self.wrapped.unembed.b_U
        rows, tokens = ROWS, TOKENS
        if weight.device.type != "cpu":
            rows, tokens = rows_of_logits(weight.shape[-1], memory), weight.shape[-1]
        found = []
        for some in states.to(weight.dtype).reshape(-1, states.shape[-1]).split(rows):
            highest, sums = [], []
            for columns, own in zip(weight.split(tokens, 1), bias.split(tokens), strict=True):
                logits = self.finish(torch.addmm(own, some, columns)).float()
                most = logits.amax(-1, keepdim=True)
                sums.append(logits.sub_(most).exp_().sum(-1))
                highest.append(most[:, 0])
            parts = torch.stack(sums, -1).double().log() + torch.stack(highest, -1)
            found.append(parts.logsumexp(-1))
        return torch.cat(found).view(states.shape[:-1])

    def of_tokens(
        self, states: Float[Tensor, "*rows d_model"], tokens: Int[Tensor, "*rows"]
    ) -> Float[Tensor, "*rows"]:
        """The logit of one token for each row, in float32 also of weights in half precision.

        Raises:
            ReadoutError: If the wrapped model's own logits were found to be others.
        """
        self.require_known()
        unembed = self.wrapped.unembed
        products = (states.float() * unembed.W_U.T[tokens].float()).sum(-1)
        return self.finish(products + unembed.b_U[tokens])

    def finish(self, unembedded: Float[Tensor, "*rows token"]) -> Float[Tensor, "*rows token"]:
        """Logits, of what the unembedding gives: scaled and capped as the model does.

        Raises:
            ReadoutError: If the wrapped model's own logits were found to be others.
        """
        scale = self.scale
        scaled = unembedded if scale == 1.0 else unembedded * scale
        return soft_cap(scaled, self.wrapped.cfg.output_logits_soft_cap)

    @property
    def scale(self) -> float:
        """What the model multiplies its logits by, before any cap.

        Raises:
            ReadoutError: If the wrapped model's own logits were found to be others.
        """
        self.require_known()
        return measured(self.wrapped).logit_scale

    def require_known(self) -> None:
        """Raises ReadoutError if the wrapped model's own logits were found to be others."""
        if differs := measured(self.wrapped).readout_differs:
            raise ReadoutError(
                f"The logits of {self.name!r} cannot be computed from its last stream: {differs}. Its "
                "activations can be read; what needs logits cannot be measured. Use a "
                "HookedTransformer of it where there is one."
            )
