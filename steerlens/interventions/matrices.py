"""The weight matrices of a block by short names, as [what is read, what is written]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from steerlens.interventions.changes import LowRank
from steerlens.models.exchanged import parameter_shapes
from steerlens.models.model import Model

Target = Literal["q", "k", "v", "o", "in", "gate", "down"]
"""Queries, keys, values and output of attention; what the MLP reads, its gate, what it writes."""

TARGETS: tuple[Target, ...] = get_args(Target)

_WEIGHTS = {
    "q": ("attn.W_Q",), "k": ("attn._W_K", "attn.W_K"), "v": ("attn._W_V", "attn.W_V"),
    "o": ("attn.W_O",), "in": ("mlp.W_in",), "gate": ("mlp.W_gate",), "down": ("mlp.W_out",),
}  # fmt: skip
_BIASES = {
    "q": ("attn.b_Q",), "k": ("attn._b_K", "attn.b_K"), "v": ("attn._b_V", "attn.b_V"),
    "o": ("attn.b_O",), "in": ("mlp.b_in",), "gate": (), "down": ("mlp.b_out",),
}  # fmt: skip


@dataclass(frozen=True)
class Matrix:
    """One matrix of one block of a HookedTransformer."""

    target: Target
    layer: int
    name: str
    """Its parameter."""
    shape: tuple[int, ...]
    """Its shape as it is stored, with the heads in front."""
    bias: str | None
    """The parameter of its bias."""

    @property
    def reads(self) -> int:
        """How many numbers it reads."""
        if self.target == "o":
            return self.shape[0] * self.shape[1]
        return self.shape[-2]

    @property
    def writes(self) -> int:
        """How many numbers it writes."""
        if self.target in ("q", "k", "v"):
            return self.shape[0] * self.shape[2]
        return self.shape[-1]

    def low_rank(self, a: Float[Tensor, "reads rank"], b: Float[Tensor, "rank writes"]) -> LowRank:
        """The change a b of the matrix, as one of its parameter."""
        if self.target in ("q", "k", "v"):
            return LowRank(a, b.unflatten(1, (self.shape[0], self.shape[2])).transpose(0, 1))
        if self.target == "o":
            return LowRank(a.unflatten(0, self.shape[:2]), b)
        return LowRank(a, b)

    def flat(self, delta: Float[Tensor, "..."]) -> Float[Tensor, "reads writes"]:
        """A change of the parameter as one matrix."""
        if self.target in ("q", "k", "v"):
            return delta.transpose(0, 1).flatten(1)
        return delta.flatten(0, -2)

    def factors(self, delta: LowRank) -> tuple[Tensor, Tensor]:
        """The factors [reads, rank] and [rank, writes] of a change of the parameter.

        Raises:
            ValueError: If the change does not have one rank for all heads.
        """
        a, b = delta.a, delta.b
        if self.target in ("q", "k", "v") and a.ndim == 2:
            b = b.transpose(0, 1).flatten(1)
        elif self.target == "o" and b.ndim == 2:
            a = a.flatten(0, 1)
        if a.ndim != 2 or b.ndim != 2:
            raise ValueError(
                f"The change of {self.name} has factors of shapes {tuple(delta.a.shape)} and "
                f"{tuple(delta.b.shape)}: each head has a change of its own. Give one that all "
                "heads share, as of `LoRA`."
            )
        return a, b


def matrices(model: Model, target: Target, layers: tuple[int, ...]) -> list[Matrix]:
    """A matrix of each of some blocks.

    Raises:
        ValueError: If the model has no such matrix, or is no HookedTransformer.
    """
    if target not in TARGETS:
        raise ValueError(f"{target!r:.80} is not a matrix. Use some of {', '.join(TARGETS)}.")
    if model.is_bridge:
        raise ValueError(
            f"{model.name!r} is a TransformerBridge, whose weights have other names and shapes. "
            "Load it as a HookedTransformer to change its weights by name."
        )
    shapes = parameter_shapes(model.wrapped)
    found = []
    for layer in layers:
        name = _first(shapes, layer, _WEIGHTS[target])
        if name is None:
            has = [t for t in TARGETS if _first(shapes, layer, _WEIGHTS[t])]
            none = f"none: the blocks are 0–{model.n_layers - 1}"
            raise ValueError(
                f"Block {layer} of {model.name!r} has no matrix {target!r}. It has "
                f"{', '.join(has) or none}."
            )
        bias = _first(shapes, layer, _BIASES[target])
        found.append(Matrix(target, layer, name, shapes[name], bias))
    return found


def every_matrix(model: Model) -> dict[str, Matrix]:
    """All matrices of a HookedTransformer's blocks, by their parameters; none of a bridge."""
    if model.is_bridge:
        return {}
    shapes = parameter_shapes(model.wrapped)
    found: dict[str, Matrix] = {}
    for layer in range(model.n_layers):
        for target in TARGETS:
            if _first(shapes, layer, _WEIGHTS[target]):
                (matrix,) = matrices(model, target, (layer,))
                found[matrix.name] = matrix
    return found


def _first(shapes: dict[str, tuple[int, ...]], layer: int, names: tuple[str, ...]) -> str | None:
    whole = (f"blocks.{layer}.{name}" for name in names)
    return next((name for name in whole if name in shapes), None)
