"""Keeping the projection on a direction inside a range."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import as_float
from steerlens.directions import Direction, DirectionError
from steerlens.interventions.residual import AlongDirection, like_stream, per_row
from steerlens.protocols import Strength
from steerlens.sites import Positions


@dataclass(frozen=True, eq=False)
class ClampRange(AlongDirection):
    """Projects the stream into a range: h' = h + multiplier · (clip(ûᵀh, low, high) - ûᵀh) û.

    At multiplier 1 the projection is inside; a token whose projection is inside already is left as
    it is. `Clamp` is the range of one value. Bounds are in units of the stream; `low=0` with no
    upper bound takes out what points the other way.
    """

    direction: Direction
    low: float = -math.inf
    high: float = math.inf
    positions: Positions = Positions.from_prompt_end()

    def __post_init__(self) -> None:
        self.direction.require_operation("clamp")
        for name in ("low", "high"):
            object.__setattr__(self, name, as_float(name, getattr(self, name), finite=False))
        if not self.low <= self.high or (math.isinf(self.low) and math.isinf(self.high)):
            raise DirectionError(
                f"low={self.low}, high={self.high} is no range into which a projection could be "
                "moved. Give at least one finite bound, and low no larger than high."
            )

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        u = like_stream(self.direction.unit().vector, resid)
        along = (resid @ u)[..., None]
        missing = torch.clamp(along, self.low, self.high) - along
        return resid + per_row(strength, resid) * missing * u
