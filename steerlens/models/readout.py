"""What comes after the last block: the final norm, the unembedding, the scale and cap of logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from steerlens.models.kernel import soft_cap
from steerlens.models.measured import final_norm, measured


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
        weight, bias = self.wrapped.unembed.W_U, self.wrapped.unembed.b_U
        if targets is not None:
            weight, bias = weight[:, targets], bias[targets]
        # One product of all rows: rows that are no view of a matrix would read it once for each.
        rows = states.to(weight.dtype).reshape(-1, states.shape[-1])
        return self.finish((rows @ weight + bias).view(*states.shape[:-1], weight.shape[-1]))

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
        found = measured(self.wrapped)
        if found.readout_differs:
            raise ReadoutError(
                f"The logits of {self.name!r} cannot be computed from its last stream: "
                f"{found.readout_differs}. Its activations can be read; what needs logits cannot "
                "be measured. Use a HookedTransformer of it where there is one."
            )
        return found.logit_scale
