"""Edits of the stream of rank one and more, as functions of one token's own vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.interventions.residual import like_stream, per_row
from steerlens.protocols import Strength

Activation = Literal["identity", "silu", "gelu", "relu"]
"""What is between the two matrices of a bottleneck."""

_ACTIVATIONS = {"identity": lambda x: x, "silu": F.silu, "gelu": F.gelu, "relu": F.relu}


def require_activation(activation: str) -> None:
    """Raises ValueError unless a bottleneck has such an activation."""
    if activation not in _ACTIVATIONS:
        raise ValueError(
            f"activation={activation!r:.80} is not known. Use one of {', '.join(_ACTIVATIONS)}."
        )


@dataclass(frozen=True, eq=False)
class AddVector:
    """h' = h + strength · vector."""

    vector: Float[Tensor, " d_model"]

    @property
    def d_model(self) -> int:
        return self.vector.shape[0]

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        return resid + per_row(strength, resid) * like_stream(self.vector, resid)


@dataclass(frozen=True, eq=False)
class Bottleneck:
    """h' = h + strength · (up φ(down h) + constant): an update of low rank."""

    down: Float[Tensor, "rank d_model"]
    up: Float[Tensor, "d_model rank"]
    activation: Activation = "identity"
    constant: Float[Tensor, " d_model"] | None = None

    @property
    def d_model(self) -> int:
        return self.down.shape[1]

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        inside = _ACTIVATIONS[self.activation](F.linear(resid, like_stream(self.down, resid)))
        constant = None if self.constant is None else like_stream(self.constant, resid)
        added = F.linear(inside, like_stream(self.up, resid), constant)
        if not isinstance(strength, Tensor) and strength == 1:  # the same bits without a product
            return resid + added
        return resid + per_row(strength, resid) * added


@dataclass(frozen=True, eq=False)
class Subspace:
    """h' = h + strength · basisᵀ (read h + offset - basis h): LoReFT's edit of a subspace."""

    basis: Float[Tensor, "rank d_model"]
    """Orthonormal rows."""
    read: Float[Tensor, "rank d_model"]
    offset: Float[Tensor, " rank"]

    @property
    def d_model(self) -> int:
        return self.basis.shape[1]

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        basis = like_stream(self.basis, resid)
        # (read - basis) h rather than read h - basis h: exactly zero where both are equal.
        wanted = F.linear(
            resid, like_stream(self.read, resid) - basis, like_stream(self.offset, resid)
        )
        return resid + per_row(strength, resid) * (wanted @ basis)


class OfWholeTexts(ABC):
    """A `TextEdit` that can be called as an edit of single tokens is."""

    @abstractmethod
    def of_texts(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        strength: Strength,
        chosen: Bool[Tensor, "batch pos"],
    ) -> Float[Tensor, "batch pos d_model"]:
        """The edit of texts, of which only what it gives at the chosen tokens is taken."""

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        """The edit of texts without padding whose every token is chosen."""
        chosen = torch.ones(resid.shape[:-1], dtype=torch.bool, device=resid.device)
        return self.of_texts(resid, strength, chosen)


@dataclass(frozen=True, eq=False)
class TopLatents(OfWholeTexts):
    """h' = h + strength · gate · mean(top-k of ReLU(h · w)) · w, while it is trained: a `TextEdit`.

    The k largest latents are those of the text's chosen tokens, of all where there are fewer. It
    notes the mean that it multiplied w by in `amount`, as batch normalisation notes what it saw.
    """

    w: Float[Tensor, " d_model"]
    gate: Float[Tensor, ""]
    amount: Float[Tensor, ""]
    """A running mean, written in place."""
    top_k: int

    MOMENTUM = 0.1

    @property
    def d_model(self) -> int:
        return self.w.shape[0]

    def of_texts(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        strength: Strength,
        chosen: Bool[Tensor, "batch pos"],
    ) -> Float[Tensor, "batch pos d_model"]:
        """The edit of texts by the latents of their chosen tokens."""
        w = like_stream(self.w, resid)
        latents = torch.relu(resid @ w).masked_fill(~chosen, -1.0)  # no latent is below 0
        top = latents.topk(min(self.top_k, latents.shape[1]), dim=1).values
        count = (top >= 0).sum(1)
        mean = top.clamp(min=0).sum(1) / count.clamp(min=1)
        with torch.no_grad():
            seen = self.gate * mean.sum() / (count > 0).sum().clamp(min=1)
            self.amount.lerp_(seen.to(self.amount), self.MOMENTUM)
        push = like_stream(self.gate, resid) * mean[:, None, None] * w
        return resid + per_row(strength, resid) * push
