"""LoReFT: an edit of a low-rank subspace at one site."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from steerlens.arguments import as_int
from steerlens.forms.form import Parameters, read_place, require_parameters, zeros
from steerlens.forms.ranks import orthonormal_, require_rank
from steerlens.forms.stream_edits import Subspace
from steerlens.interventions.changes import Composed
from steerlens.interventions.composition import EditAtSite
from steerlens.models.model import Model
from steerlens.sites import Positions, Site


@dataclass(frozen=True)
class LoReFT:
    """h' = h + m · Rᵀ(W h + b - R h), where R has orthonormal rows.

    Source: arXiv:2404.03592. Departures: W starts equal to R and b at zero, so that nothing is
    changed at first (the paper draws W); R is made orthonormal again after each step, by its polar
    factor, rather than held orthonormal by its parametrisation; one R for all positions.
    """

    site: Site
    rank: int = 4
    positions: Positions = Positions.all()
    rate: float = 0.01

    def __post_init__(self) -> None:
        read_place(self)
        object.__setattr__(self, "rank", as_int("rank", self.rank))
        require_rank(self.rank)

    def shapes(self, model: Model) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter."""
        wide = (self.rank, model.width(self.site))
        return {"basis": wide, "read": wide, "offset": (self.rank,)}

    def begin(self, model: Model, generator: torch.Generator) -> Parameters:
        """A random subspace, read as it is."""
        model.require_site(self.site)
        require_rank(self.rank, model.width(self.site))
        shape = (self.rank, model.width(self.site))
        basis = torch.randn(shape, generator=generator, dtype=torch.float32)
        orthonormal_(basis)
        basis = basis.to(model.device)
        return {"basis": basis, "read": basis.clone(), "offset": zeros((self.rank,), model)}

    def intervention(self, model: Model, params: Parameters) -> Composed:
        """The edit of the subspace."""
        require_parameters(self, params, self.shapes(model))
        edit = Subspace(params["basis"], params["read"], params["offset"])
        return EditAtSite(self.site, edit, self.positions, repr(self))

    def after_step(self, params: Parameters) -> None:
        """Makes the rows of the basis orthonormal again."""
        orthonormal_(params["basis"])
