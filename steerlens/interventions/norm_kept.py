"""Adding a vector without changing how long the stream is."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from steerlens.directions import Direction
from steerlens.interventions.residual import Add, AlongDirection
from steerlens.protocols import Strength
from steerlens.sites import Positions
from steerlens.units import StrengthUnit


@dataclass(frozen=True, eq=False)
class AddKeepingNorm(AlongDirection):
    """Adds the direction and gives every token its old norm: h' = h̃ · ‖h‖ / ‖h̃‖, h̃ = h + m · v.

    So it turns the stream towards the direction, at most as far as onto it, by an angle that depends
    on the length of h; `TurnTowards` turns by a stated angle.

    Source: arXiv:2507.18043 (GrAInS). Departures: the norm is each token's own, as the paper writes
    (the authors' code takes it along the sequence, which keeps each channel's norm over the tokens);
    the factor 10 of their code is part of the multiplier.
    """

    direction: Direction
    positions: Positions = Positions.from_prompt_end()
    unit: StrengthUnit | float = "resid_norm"
    """What multiplier 1 adds before the norm is restored, as of `Add`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "unit", self._add.unit)  # refuses what Add refuses

    @property
    def _add(self) -> Add:
        return Add(self.direction, self.positions, self.unit)

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        added = self._add(resid, strength)
        before, after = (x.float().norm(dim=-1, keepdim=True) for x in (resid, added))
        # A sum of zero has no direction that could be kept: it stays zero.
        return added * (before / after.masked_fill(after == 0, 1.0)).to(resid)
