"""A low-rank update of the stream after one block."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from steerlens.arguments import as_int
from steerlens.forms.form import Parameters, normal, read_place, require_parameters, zeros
from steerlens.forms.ranks import require_rank
from steerlens.forms.stream_edits import Activation, Bottleneck, require_activation
from steerlens.interventions.changes import Composed
from steerlens.interventions.composition import EditAtSite
from steerlens.models.model import Model
from steerlens.sites import Positions, Site


@dataclass(frozen=True)
class LowRankAdapter:
    """h' = h + m · (U φ(D h) + b) at one site: a vector that depends on the token.

    It is the dynamic update h' = (I + m ΔW) h + m Δb of arXiv:2602.02343 for the stream itself, with
    ΔW of low rank. D starts at random and U and b at zero, as LoRA's factors do.
    """

    site: Site
    rank: int = 4
    activation: Activation = "identity"
    constant: bool = True
    """Whether it has the vector b."""
    positions: Positions = Positions.all()
    rate: float = 0.01

    def __post_init__(self) -> None:
        read_place(self)
        object.__setattr__(self, "rank", as_int("rank", self.rank))
        require_rank(self.rank)
        require_activation(self.activation)

    def _shapes(self, model: Model) -> dict[str, tuple[int, ...]]:
        d = model.width(self.site)
        constant = {"constant": (d,)} if self.constant else {}
        return {"down": (self.rank, d), "up": (d, self.rank), **constant}

    def begin(self, model: Model, generator: torch.Generator) -> Parameters:
        """A reading matrix of rows of unit length, about, that writes nothing yet."""
        model.require_site(self.site)
        require_rank(self.rank, model.width(self.site))
        down = normal(
            (self.rank, model.width(self.site)), model.width(self.site) ** -0.5, model, generator
        )
        shapes = {name: shape for name, shape in self._shapes(model).items() if name != "down"}
        return {"down": down, **{name: zeros(shape, model) for name, shape in shapes.items()}}

    def intervention(self, model: Model, params: Parameters) -> Composed:
        """The adapter as an edit."""
        require_parameters(self, params, self._shapes(model))
        edit = Bottleneck(params["down"], params["up"], self.activation, params.get("constant"))
        return EditAtSite(self.site, edit, self.positions, repr(self))

    def after_step(self, params: Parameters) -> None:
        """Nothing must be restored."""
