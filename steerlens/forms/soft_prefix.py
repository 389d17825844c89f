"""Trained vectors in front of every text."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from steerlens.arguments import as_int
from steerlens.forms.form import Parameters, require_parameters, zeros
from steerlens.interventions.changes import Composed, PromptChange
from steerlens.interventions.composition import composed
from steerlens.models.model import Model
from steerlens.sites import Site, TokenBatch


@dataclass(frozen=True)
class SoftPrefix:
    """Vectors that enter block 0 after BOS, as a prompt of so many tokens, with a dial.

    The final states are mixed, base + m · g · (prefixed - base), with a gate g that is trained and
    starts at 0, so that nothing is changed at first. The vectors start as embedded tokens that are
    drawn at random. It takes two passes, one with and one without the prefix.

    Source: prompt tuning, arXiv:2104.08691, and the gate of arXiv:2303.16199. Departures: the gate
    scales the difference of the final states rather than attention to the prefix, and the vectors
    are what enters block 0, learned positions included.
    """

    length: int = 8
    rate: float = 0.05

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", as_int("length", self.length, least=1))

    def begin(self, model: Model, generator: torch.Generator) -> Parameters:
        """Embedded tokens, and a gate that is closed."""
        if self.length >= model.n_ctx:
            raise ValueError(
                f"length={self.length} leaves no room for text in the context of {model.name!r}, "
                f"{model.n_ctx} tokens. Use a shorter prefix."
            )
        drawn = torch.randint(model.cfg.d_vocab, (1, self.length), generator=generator)
        lead = torch.tensor([model.texts.lead], dtype=torch.long)
        tokens = torch.cat([lead, drawn], 1).to(model.device)
        real = torch.ones_like(tokens, dtype=torch.bool)
        end = torch.tensor([tokens.shape[1]], device=model.device)
        batch = TokenBatch(tokens, mask=real, special=~real, prompt_end=end)
        site = Site(0, "resid_pre")
        vectors = model.cache(batch, [site])[site][0, lead.shape[1] :]
        return {"prefix": vectors.float().clone(), "gate": zeros((), model)}

    def intervention(self, model: Model, params: Parameters) -> Composed:
        """The prefix as a prompt."""
        shapes: dict[str, tuple[int, ...]] = {"prefix": (self.length, model.d_model), "gate": ()}
        require_parameters(self, params, shapes)
        gate = params["gate"]
        tokens = torch.zeros(self.length, dtype=torch.long, device=model.device)
        weight = gate if gate.requires_grad else float(gate)
        return composed([PromptChange(tokens, params["prefix"], weight)], repr(self))

    def after_step(self, params: Parameters) -> None:
        """Nothing must be restored."""
