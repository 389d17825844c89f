"""LoRA and post-block adapters together, kept from doing the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from steerlens.forms.form import Parameters
from steerlens.forms.lora import LoRA
from steerlens.forms.post_block import PostBlock
from steerlens.forms.ranks import remove_span_
from steerlens.interventions.changes import Composed
from steerlens.interventions.composition import composed
from steerlens.models.model import Model

Orthogonalise = Literal["read", "write", "both", "none"]


@dataclass(frozen=True)
class Joint:
    """A LoRA and post-block adapters, trained together under an orthogonality projection.

    After each step, what the LoRA of a block's down-projection writes is removed from what the
    adapter after the block reads (or writes): trained together without it, both learn the same.

    Source: joint adaptation of arXiv:2603.00425. Its released code projects what is read and one
    description says what is written, so both can be chosen. Departures: it is applied after every
    step, and skipped while the LoRA writes nothing.
    """

    lora: LoRA = field(
        default_factory=lambda: LoRA(rank=8, targets=("q", "k", "v", "o", "in", "down"))
    )
    adapter: PostBlock = field(default_factory=PostBlock)
    orthogonalise: Orthogonalise = "read"
    rate: float = 2e-3

    def __post_init__(self) -> None:
        if self.orthogonalise not in ("read", "write", "both", "none"):
            raise ValueError(
                f"orthogonalise={self.orthogonalise!r:.80} is not known. Use 'read', 'write', "
                "'both' or 'none'."
            )
        if self.orthogonalise != "none" and "down" not in self.lora.targets:
            raise ValueError(
                "The projection removes what the LoRA of the down-projection writes, and the LoRA "
                f"changes {', '.join(self.lora.targets)}. Add 'down' to its targets, or use "
                "orthogonalise='none'."
            )

    def begin(self, model: Model, generator: torch.Generator) -> Parameters:
        """The parameters of both."""
        lora, adapter = self.lora.begin(model, generator), self.adapter.begin(model, generator)
        return {
            **{f"lora.{name}": tensor for name, tensor in lora.items()},
            **{f"adapter.{name}": tensor for name, tensor in adapter.items()},
        }

    def intervention(self, model: Model, params: Parameters) -> Composed:
        """The changes of both, under one multiplier."""
        parts = (
            self.lora.intervention(model, _of(params, "lora.")),
            self.adapter.intervention(model, _of(params, "adapter.")),
        )
        return composed([change for part in parts for change in part.changes(model)], repr(self))

    def after_step(self, params: Parameters) -> None:
        """Removes what the LoRA writes from what the adapters read or write."""
        if self.orthogonalise == "none":
            return
        written, down, up = params["lora.down.b"], params["adapter.down"], params["adapter.up"]
        of_lora = _numbered(self.lora.layers, len(written))
        of_adapter = _numbered(self.adapter.layers, len(down))
        for layer in sorted(of_lora.keys() & of_adapter.keys()):
            own, k = written[of_lora[layer]].detach(), of_adapter[layer]
            if self.orthogonalise in ("read", "both"):
                remove_span_(down.detach()[k], own)
            if self.orthogonalise in ("write", "both"):
                remove_span_(up.detach()[k].T, own)


def _of(params: Parameters, start: str) -> Parameters:
    """The parameters of one part, by their own names."""
    return {name[len(start) :]: one for name, one in params.items() if name.startswith(start)}


def _numbered(layers: tuple[int, ...] | None, count: int) -> dict[int, int]:
    """The place of each layer among those that are changed."""
    return {layer: k for k, layer in enumerate(range(count) if layers is None else layers)}
