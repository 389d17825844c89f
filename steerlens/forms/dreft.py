"""D-ReFT: a neighbourhood of edits of a subspace, trained by sampling from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import SupportsFloat, SupportsIndex

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import as_int, as_positive
from steerlens.forms.form import Parameters, read_place, require_parameters, zeros
from steerlens.forms.loreft import LoReFT
from steerlens.forms.ranks import require_rank
from steerlens.forms.stream_edits import Subspace
from steerlens.interventions.changes import Composed
from steerlens.interventions.composition import EditAtSite
from steerlens.interventions.residual import like_stream, per_row
from steerlens.models.model import Model
from steerlens.protocols import Strength
from steerlens.sites import Positions, Site

LOG_VARIANCES = (-14.0, -3.2)
SPREADS = (0.001, 0.2)
"""Between what the authors' code clamps the logarithm of the variance, and then the spread."""
START = -7.0
"""The logarithm of the variance before training: a spread of .03, inside of both clamps."""


@dataclass(frozen=True)
class DReFT:
    """h' = h + m · Rᵀ(z - R h), z normal about W h + b with a spread that depends on h.

    While it is trained z is drawn at every token, log σ² = W_σ h + b_σ, so that a neighbourhood of
    edits is trained to work; in use z is its mean, and the edit is LoReFT's. The draws of a step are
    seeded by `seed` and the number of the step.

    Source: arXiv:2506.06686 and `chili-lab/D-Intervention`, whose clamps are taken over: log σ² in
    [-14, -3.2] and then σ in [.001, .2]. Departures: the mean starts as the identity and the spread
    at .03; the mean is used and not a draw; no term that holds the distribution to a standard
    normal one, so that only the objective keeps σ from shrinking (`spread` says where it is); `unit`.
    """

    site: Site
    rank: int = 4
    positions: Positions = Positions.all()
    unit: float = 1.0
    """What σ is multiplied by. The clamps are lengths in the stream: where the stream varies by 30
    along a row of R, a spread of .2 is hardly a neighbourhood, and unit=30 makes it one."""
    seed: int = 0
    rate: float = 0.01

    def __post_init__(self) -> None:
        read_place(self)
        object.__setattr__(self, "rank", as_int("rank", self.rank))
        require_rank(self.rank)
        unit: SupportsFloat = self.unit
        seed: SupportsIndex = self.seed
        object.__setattr__(self, "unit", as_positive("unit", unit))
        object.__setattr__(self, "seed", as_int("seed", seed, least=0))

    @property
    def mean(self) -> LoReFT:
        """The form of the mean."""
        return LoReFT(self.site, self.rank, self.positions)

    def _shapes(self, model: Model) -> dict[str, tuple[int, ...]]:
        spread = {"wide": (self.rank, model.width(self.site)), "wide_offset": (self.rank,)}
        return {**self.mean.shapes(model), **spread, "step": ()}

    def begin(self, model: Model, generator: torch.Generator) -> Parameters:
        """A random subspace, read as it is, with a narrow spread about it."""
        found = self.mean.begin(model, generator)
        added = {name: shape for name, shape in self._shapes(model).items() if name not in found}
        found |= {name: zeros(shape, model) for name, shape in added.items()}
        found["wide_offset"] += START
        return found

    def intervention(self, model: Model, params: Parameters) -> Composed:
        """The edit of the subspace: drawn while it is trained, else by the mean."""
        require_parameters(self, params, self._shapes(model))
        mean = Subspace(params["basis"], params["read"], params["offset"])
        edit: Subspace | SampledSubspace = mean
        if params["basis"].requires_grad and torch.is_grad_enabled():
            step = round(float(params["step"].detach()))
            draws = torch.Generator().manual_seed((self.seed * 1_000_003 + step) % 2**63)
            wide = (params["wide"], params["wide_offset"])
            edit = SampledSubspace(mean, *wide, self.unit, draws)
        return EditAtSite(self.site, edit, self.positions, repr(self))

    def after_step(self, params: Parameters) -> None:
        """Makes the rows of the basis orthonormal again, and counts the step."""
        self.mean.after_step(params)
        with torch.no_grad():
            params["step"].add_(1.0)

    def spread(
        self, params: Parameters, stream: Float[Tensor, "... d_model"]
    ) -> Float[Tensor, "... rank"]:
        """σ at some vectors of the stream, in its units."""
        return self.unit * spread_of(stream, params["wide"], params["wide_offset"])


def spread_of(
    stream: Float[Tensor, "... d_model"],
    weight: Float[Tensor, "rank d_model"],
    offset: Float[Tensor, " rank"],
) -> Float[Tensor, "... rank"]:
    """σ of arXiv:2506.06686: exp of half of W_σ h + b_σ, with both clamps."""
    log_variance = F.linear(stream, like_stream(weight, stream), like_stream(offset, stream))
    return torch.exp(0.5 * log_variance.clamp(*LOG_VARIANCES)).clamp(*SPREADS)


@dataclass(frozen=True, eq=False)
class SampledSubspace:
    """h' = h + strength · basisᵀ (read h + offset + unit · σ(h) · ε - basis h), ε standard normal."""

    mean: Subspace
    weight: Float[Tensor, "rank d_model"]
    offset: Float[Tensor, " rank"]
    unit: float
    draws: torch.Generator
    """On the CPU. Each call draws on."""

    @property
    def d_model(self) -> int:
        return self.mean.d_model

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        sigma = self.unit * spread_of(resid, self.weight, self.offset)
        epsilon = torch.randn(sigma.shape, generator=self.draws, dtype=torch.float32).to(resid)
        drawn = (sigma * epsilon) @ like_stream(self.mean.basis, resid)
        return self.mean(resid, strength) + per_row(strength, resid) * drawn
