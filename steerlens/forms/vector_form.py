"""A vector at one site, trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from steerlens.directions import Direction
from steerlens.forms.form import Parameters, read_place, require_parameters, zeros
from steerlens.forms.stream_edits import AddVector
from steerlens.forms.suppression import TakeOut
from steerlens.interventions.changes import Composed
from steerlens.interventions.composition import EditAtSite
from steerlens.interventions.residual import Add
from steerlens.models.model import Model
from steerlens.sites import Positions, Site


@dataclass(frozen=True)
class VectorForm:
    """A vector that is added to the stream at one site: h' = h + m · v. It starts at zero.

    Source: arXiv:2406.00045 (BiPO) and arXiv:2505.20809 (RePS), whose objectives train it.
    Departure from the latter: no bias beside the strength, no dropout, and a start at zero.
    """

    site: Site
    positions: Positions = Positions.all()
    rate: float = 0.3
    """The learning rate of Adam. Every entry moves by about as much in a step."""

    def __post_init__(self) -> None:
        read_place(self)

    def begin(self, model: Model, generator: torch.Generator) -> Parameters:
        """A vector of zeros."""
        model.require_site(self.site)
        return {"vector": zeros((model.width(self.site),), model)}

    def intervention(self, model: Model, params: Parameters) -> Composed:
        """The vector as an edit; as `Add`, with all that a direction can do, once it is trained."""
        require_parameters(self, params, {"vector": (model.width(self.site),)})
        vector = params["vector"]
        if vector.requires_grad or not bool(vector.any()):
            return EditAtSite(self.site, AddVector(vector), self.positions, repr(self))
        return Add(self.direction(model, params), self.positions, unit="direction")

    def direction(self, model: Model, params: Parameters) -> Direction:
        """The trained vector as a direction.

        Raises:
            DirectionError: If it is zero.
        """
        return Direction(
            params["vector"].detach(), self.site, method=repr(self), processing=model.processing,
            model=model.name, apply_at=self.positions, strength_unit="direction",
            dtype=model.dtype,
        )  # fmt: skip

    def null(self, model: Model, params: Parameters) -> Composed:
        """What suppresses, for `RePS`: it takes the stream's positive projection out."""
        edit = TakeOut(params["vector"])
        return EditAtSite(self.site, edit, self.positions, f"{self!r}, suppressed")

    def after_step(self, params: Parameters) -> None:
        """Nothing must be restored."""
