"""ReFT-r1: one direction that detects a concept and steers towards it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import as_int
from steerlens.forms.form import Parameters, normal, read_place, require_parameters, zeros
from steerlens.forms.ranks import unit_
from steerlens.forms.stream_edits import AddVector, TopLatents
from steerlens.interventions.changes import Composed
from steerlens.interventions.composition import EditAtSite
from steerlens.models.model import Model
from steerlens.sites import Positions, Site


@dataclass(frozen=True)
class ReFTr1:
    """A unit vector w whose latent ReLU(h · w) detects, and which is added to steer.

    While it is trained the latents of the text itself say how much of w is added: the mean of the
    `top_k` largest among its chosen tokens, prompt and answer together. A running mean of that
    amount is kept, and the trained intervention adds it at all chosen tokens: h' = h + m · amount · w.
    `detect` gives the largest latent of each text.

    Source: arXiv:2501.17148 (AxBench's LsReFT). Departures: a gate g, which starts at 0, multiplies
    the amount, so that nothing is changed at first; w is drawn at random rather than constant, since
    LayerNorm takes constants away; in use the amount is the running mean of training rather than the
    largest latent on an evaluation set; the penalty on other latents is left to the objective; the
    gradient along w is not removed, since w is given unit length after each step; and no latent of
    padding is counted.
    """

    site: Site
    top_k: int = 8
    positions: Positions = Positions.all()
    rate: float = 0.05

    _SHAPES = {"gate": (), "amount": ()}

    def __post_init__(self) -> None:
        read_place(self)
        object.__setattr__(self, "top_k", as_int("top_k", self.top_k, least=1))

    def begin(self, model: Model, generator: torch.Generator) -> Parameters:
        """A random unit vector, and a gate that is closed."""
        model.require_site(self.site)
        w = normal((model.width(self.site),), 1.0, model, generator)
        unit_(w)
        return {"w": w, "gate": zeros((), model), "amount": zeros((), model)}

    def intervention(self, model: Model, params: Parameters) -> Composed:
        """The edit by the text's own latents while w is trained; else by the amount it was given."""
        require_parameters(self, params, {"w": (model.width(self.site),), **self._SHAPES})
        w, amount = params["w"], params["amount"]
        if w.requires_grad and torch.is_grad_enabled():
            edit = TopLatents(w, params["gate"], amount, self.top_k)
        else:
            edit = AddVector(amount.detach() * w)
        return EditAtSite(self.site, edit, self.positions, repr(self))

    def after_step(self, params: Parameters) -> None:
        """Gives w unit length."""
        unit_(params["w"])

    @torch.no_grad()
    def detect(
        self, model: Model, params: Parameters, texts: Sequence[str]
    ) -> Float[Tensor, " text"]:
        """How strongly each text shows the concept: its largest latent at the chosen tokens."""
        batch = model.tokens(list(texts))
        stream = model.cache(batch, [self.site])[self.site]
        latents = torch.relu(stream @ params["w"].to(stream))
        chosen = self.positions.mask(batch)
        return latents.masked_fill(~chosen, 0.0).amax(-1)
