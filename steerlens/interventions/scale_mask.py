"""Scaling some elements of a stream: the input's own activation decides by how much they move."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import as_float
from steerlens.interventions.composition import OneEdit
from steerlens.interventions.residual import like_stream, per_row
from steerlens.protocols import Strength
from steerlens.sites import Positions, Site


@dataclass(frozen=True, eq=False)
class ScaleMask(OneEdit):
    """Scales the masked elements of a stream by their own values: h' = h + multiplier · s · (h ⊙ M).

    Of heads (`Site(layer, "z")`), neurons (`Site(layer, "mlp_post")`) or the stream itself. Whatever
    an input has there is amplified, its sign included, so what is added depends on the input.
    `steerlens.operators.sadi` finds masks from pairs.

    Source: SADI, arXiv:2410.12299, at the last token of the prompt.
    """

    site: Site
    mask: Float[Tensor, " d_model"]
    """By how much each element takes part; 0 and 1 in the source."""
    strength: float = 1.0
    """What multiplier 1 adds, in multiples of the element's own value."""
    positions: Positions = Positions.last()

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", as_float("strength", self.strength))
        if self.strength == 0 or not bool(self.mask.any()):
            what = "strength=0" if self.strength == 0 else "A mask without an element"
            raise ValueError(f"{what} scales nothing at {self.site}. Choose some, and a strength.")

    @property
    def d_model(self) -> int:
        """How wide a stream it edits."""
        return len(self.mask)

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        mask = like_stream(self.mask, resid) * self.strength
        return resid + per_row(strength, resid) * (resid * mask)

    def __repr__(self) -> str:
        count = int(self.mask.count_nonzero())
        return f"ScaleMask({count} of {len(self.mask)} elements of {self.site}, {self.strength:g})"
