"""All weights of a model, changed freely: full fine-tuning with a multiplier."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from steerlens.forms.form import Parameters, require_parameters, zeros
from steerlens.interventions.changes import Composed, Dense, WeightChange
from steerlens.interventions.composition import composed
from steerlens.models.exchanged import parameter_shapes
from steerlens.models.model import Model

EMBEDDING, UNEMBEDDING = "embed.W_E", "unembed.W_U"


@dataclass(frozen=True)
class FullWeights:
    """W' = W + m · ΔW for all parameters, or for those whose names match.

    TransformerLens holds the embedding and the unembedding as two matrices. Where they are one in
    the checkpoint (tied), there is one change for both, whose gradient is the sum of both, as in
    Hugging Face's training. The parameters take as much memory again as the model.
    """

    only: str = ""
    """A regular expression: parameters whose names hold a match are changed; by default all."""
    pad_row: int | None = None
    """A token whose embedding gets no gradient as an input, as the `padding_idx` of Hugging Face's
    Llama-like models does (config.pad_token_id); None for none."""
    rate: float = 2e-4

    def __post_init__(self) -> None:
        try:
            re.compile(self.only)
        except re.error as error:
            raise ValueError(
                f"only={self.only!r} is not a regular expression ({error}). Write e.g. "
                r"'blocks\.3\.' for all of block 3."
            ) from None

    def _shapes(self, model: Model) -> dict[str, tuple[int, ...]]:
        shapes = parameter_shapes(model.wrapped)
        found = {name: shape for name, shape in shapes.items() if re.search(self.only, name)}
        if not found:
            some = ", ".join(list(shapes)[:6])
            raise ValueError(
                f"No parameter of {model.name!r} matches only={self.only!r}. It has {some}, …"
            )
        if UNEMBEDDING in found and EMBEDDING in found and tied_scale(model) is not None:
            del found[UNEMBEDDING]
        return found

    def begin(self, model: Model, generator: torch.Generator) -> Parameters:
        """Changes of zeros."""
        return {name: zeros(shape, model) for name, shape in self._shapes(model).items()}

    def intervention(self, model: Model, params: Parameters) -> Composed:
        """A change of every parameter."""
        require_parameters(self, params, self._shapes(model))
        scale = None
        if EMBEDDING in params and UNEMBEDDING not in params and re.search(self.only, UNEMBEDDING):
            scale = tied_scale(model)
        changes = []
        for name, delta in params.items():
            if name == EMBEDDING:
                as_input = self._without_gradient_of_padding(delta)
                own = as_input if scale in (None, 1.0) else as_input * scale
                changes.append(WeightChange(EMBEDDING, Dense(own)))
                if scale is not None:
                    changes.append(WeightChange(UNEMBEDDING, Dense(delta.T)))
            else:
                changes.append(WeightChange(name, Dense(delta)))
        return composed(changes, repr(self))

    def _without_gradient_of_padding(self, delta: Tensor) -> Tensor:
        if self.pad_row is None or not delta.requires_grad:
            return delta
        rows = torch.arange(len(delta), device=delta.device)[:, None]
        return torch.where(rows == self.pad_row, delta.detach(), delta)

    def after_step(self, params: Parameters) -> None:
        """Nothing must be restored."""


@torch.no_grad()
def tied_scale(model: Model) -> float | None:
    """How many times the unembedding the embedding is, where both are one matrix; else None.

    It is 1, or √d_model where the architecture scales what it embeds (Gemma).
    """
    embedding, unembedding = model.wrapped.embed.W_E, model.wrapped.unembed.W_U
    if embedding.shape != unembedding.T.shape:
        return None
    some = slice(0, 256)  # a few hundred rows tell tied matrices from others
    rows, other = embedding[some].float(), unembedding.T[some].float()
    for scale in (1.0, model.d_model**0.5):
        if torch.allclose(rows, scale * other, rtol=1e-2, atol=1e-6):
            return scale
    return None
