"""The linear maps of a Hugging Face model, and the matrices of TransformerLens that they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.interventions.changes import LowRank, WeightChange
from steerlens.interventions.matrices import Matrix, Target, matrices
from steerlens.models.model import Model


@dataclass(frozen=True, eq=False)
class HFModule:
    """One linear map of a Hugging Face model, which holds one or several matrices."""

    path: str
    """The name of the module, e.g. "model.layers.3.self_attn.q_proj"."""
    parts: tuple[tuple[Matrix, Int[Tensor, " writes"]], ...]
    """Each matrix, and which numbers of those that the module writes are the matrix's."""

    @property
    def reads(self) -> int:
        """How many numbers it reads."""
        return self.parts[0][0].reads

    @property
    def writes(self) -> int:
        """How many numbers it writes."""
        return sum(matrix.writes for matrix, _ in self.parts)

    def changes(
        self,
        a: Float[Tensor, "rank reads"],
        b: Float[Tensor, "writes rank"],
        scale: float,
        centred: bool,
    ) -> Iterator[WeightChange]:
        """The change scale · b a of the module's weight, as changes of its matrices.

        Args:
            centred: Whether what writes into the stream has mean zero, by weight processing.
        """
        for matrix, rows in self.parts:
            own = scale * b[rows].T
            if centred and matrix.target in ("o", "down"):
                own = own - own.mean(-1, keepdim=True)
            if bool(own.any()):
                yield WeightChange(matrix.name, matrix.low_rank(a.T, own))

    def factors(self, changes: dict[str, list[LowRank]]) -> tuple[Tensor, Tensor] | None:
        """The factors [rank, reads] and [writes, rank] of changes of its matrices; None for none.

        The ranks of several changes add up.
        """
        a_rows, b_columns = [], []
        for matrix, rows in self.parts:
            for delta in changes.get(matrix.name, ()):
                a, b = matrix.factors(delta)
                column = b.new_zeros(self.writes, b.shape[0])
                column[rows] = b.T
                a_rows.append(a.T)
                b_columns.append(column)
        if not a_rows:
            return None
        return torch.cat(a_rows).contiguous(), torch.cat(b_columns, 1).contiguous()


def hf_modules(model: Model) -> dict[str, HFModule]:
    """Every linear map of the blocks, by its name in Hugging Face's model.

    Raises:
        ValueError: If the architecture is not known, or the model is no HookedTransformer.
    """
    architecture = str(model.cfg.original_architecture)
    if architecture not in _LAYOUTS:
        raise ValueError(
            f"{model.name!r} is of the architecture {architecture!r}, for which it is not known "
            f"which weights the modules of Hugging Face hold. Known are {', '.join(_LAYOUTS)}."
        )
    layout = _LAYOUTS[architecture]
    found: dict[str, HFModule] = {}
    for path, (targets, rows_of) in layout.items():
        columns = [matrices(model, target, tuple(range(model.n_layers))) for target in targets]
        for layer, held in enumerate(zip(*columns, strict=True)):
            parts = tuple((m, rows_of(model, k, m.writes)) for k, m in enumerate(held))
            found[path.format(layer)] = HFModule(path.format(layer), parts)
    return found


def transposed(model: Model) -> bool:
    """Whether the modules hold their weights as [reads, writes] (GPT-2's Conv1D)."""
    return str(model.cfg.original_architecture) == "GPT2LMHeadModel"


Rows = Callable[[Model, int, int], Tensor]
"""Which rows are those of the k-th matrix of a module, which writes so many numbers."""


def _in_a_row(model: Model, k: int, writes: int) -> Tensor:
    """One matrix after the other."""
    return torch.arange(writes) + k * writes


def _by_head(model: Model, k: int, writes: int) -> Tensor:
    """NeoX: of each head its query, its key and its value."""
    head = torch.arange(model.cfg.n_heads)[:, None] * 3 * model.cfg.d_head
    return (head + k * model.cfg.d_head + torch.arange(model.cfg.d_head)).flatten()


_Layout = dict[str, tuple[tuple[Target, ...], Rows]]
_LLAMA: _Layout = {
    "model.layers.{}.self_attn.q_proj": (("q",), _in_a_row),
    "model.layers.{}.self_attn.k_proj": (("k",), _in_a_row),
    "model.layers.{}.self_attn.v_proj": (("v",), _in_a_row),
    "model.layers.{}.self_attn.o_proj": (("o",), _in_a_row),
    "model.layers.{}.mlp.up_proj": (("in",), _in_a_row),
    "model.layers.{}.mlp.gate_proj": (("gate",), _in_a_row),
    "model.layers.{}.mlp.down_proj": (("down",), _in_a_row),
}
_GPT2: _Layout = {
    "transformer.h.{}.attn.c_attn": (("q", "k", "v"), _in_a_row),
    "transformer.h.{}.attn.c_proj": (("o",), _in_a_row),
    "transformer.h.{}.mlp.c_fc": (("in",), _in_a_row),
    "transformer.h.{}.mlp.c_proj": (("down",), _in_a_row),
}
_NEOX: _Layout = {
    "gpt_neox.layers.{}.attention.query_key_value": (("q", "k", "v"), _by_head),
    "gpt_neox.layers.{}.attention.dense": (("o",), _in_a_row),
    "gpt_neox.layers.{}.mlp.dense_h_to_4h": (("in",), _in_a_row),
    "gpt_neox.layers.{}.mlp.dense_4h_to_h": (("down",), _in_a_row),
}
_LAYOUTS: dict[str, _Layout] = {
    "GPT2LMHeadModel": _GPT2,
    "GPTNeoXForCausalLM": _NEOX,
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": _LLAMA,
    "Gemma2ForCausalLM": _LLAMA,
}
"""The modules of each architecture's blocks, and the matrices that they hold."""
