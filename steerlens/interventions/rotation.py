"""Rotations of the stream, which keep its norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import as_float
from steerlens.directions import Direction, DirectionError
from steerlens.interventions.residual import AlongDirection, like_stream, per_row
from steerlens.interventions.together import Together
from steerlens.protocols import Strength
from steerlens.sites import Positions


@dataclass(frozen=True, eq=False)
class TurnTowards(AlongDirection):
    """Turns every vector towards a direction, in the plane of both, by multiplier · degrees.

    h' = cos(a) h + sin(a) ‖h‖ e, where e is the unit vector along the part of the direction that is
    orthogonal to h. The norm is kept. For small angles it is adding a ‖h‖ e; a vector that has the
    direction already stays.

    Source: the norm-preserving form of addition that RepE (arXiv:2310.01405) and CAST
    (arXiv:2409.05907) offer as an option. Departure: they add and then rescale, which turns by an
    angle that depends on the length of h; here the angle is stated.
    """

    direction: Direction
    degrees: float = 30.0
    positions: Positions = Positions.from_prompt_end()

    def __post_init__(self) -> None:
        object.__setattr__(self, "degrees", _as_angle("degrees", self.degrees))
        if self.degrees == 0:
            raise DirectionError("degrees=0 turns nothing. Give the angle of multiplier 1.")

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        u = like_stream(self.direction.unit().vector, resid)
        norm = resid.norm(dim=-1, keepdim=True)
        own = resid / norm.clamp(min=_TINY)
        across = u - (own @ u)[..., None] * own
        length = across.norm(dim=-1, keepdim=True)
        # Of a vector along the direction what is left is rounding, which has no direction.
        across = torch.where(length > _ROUNDING, across / length.clamp(min=_TINY), 0.0)
        cos, sin = _cos_sin(per_row(strength, resid), math.radians(self.degrees), resid)
        return resid + (cos - 1) * resid * across.any(-1, keepdim=True) + sin * norm * across


@dataclass(frozen=True, eq=False)
class Rotate(AlongDirection):
    """Turns the part of the stream in a fixed plane to a target angle (angular steering).

    The plane has the axes b1, the direction, and b2, the part of `second` orthogonal to it. The
    part in the plane, of angle φ from b1 towards b2, is turned to φ + multiplier · (degrees - φ):
    at multiplier 1 all vectors have the target angle, h' = h - Ph + ‖Ph‖ (cos θ b1 + sin θ b2). The
    norm is kept. The turn to the target is the shorter way round; with `relative` it is by `degrees`
    from wherever the vector is.

    Source: arXiv:2510.26243. Departures: the paper edits the outputs of the norms before attention
    and MLP, this the stream itself; multipliers between 0 and 1 turn part of the way.
    """

    direction: Direction
    second: Direction
    degrees: float
    adaptive: bool = False
    """Only vectors whose projection on b1 is positive are turned."""
    relative: bool = False
    positions: Positions = Positions.all()

    def __post_init__(self) -> None:
        object.__setattr__(self, "degrees", _as_angle("degrees", self.degrees))
        if len(self.second.vector) != len(self.direction.vector):
            raise DirectionError(
                f"The plane of a rotation has axes of {len(self.direction.vector)} and "
                f"{len(self.second.vector)} entries. Give two directions of one model."
            )
        if self.relative and self.degrees == 0:
            raise DirectionError("degrees=0 with relative=True turns nothing. Give an angle.")
        self.plane  # noqa: B018 (raises where the two directions are one)

    @property
    def plane(self) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]:
        """The orthonormal axes b1 and b2."""
        b1 = self.direction.unit().vector
        other = self.second.unit().vector.to(b1)
        rest = other - (other @ b1) * b1
        if float(rest.norm()) < 1e-4:
            raise DirectionError(
                "The two directions of the plane are parallel, so they span no plane. Give a "
                "second one that differs, e.g. that of another layer or a random one."
            )
        return b1, rest / rest.norm()

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        b1, b2 = (like_stream(axis, resid) for axis in self.plane)
        x, y = (resid @ b1)[..., None], (resid @ b2)[..., None]
        turn = math.radians(self.degrees)
        if not self.relative:
            turn = torch.remainder(turn - torch.atan2(y, x) + math.pi, 2 * math.pi) - math.pi
        cos, sin = _cos_sin(per_row(strength, resid), turn, resid)
        if self.adaptive:
            cos, sin = torch.where(x > 0, cos, 1.0), torch.where(x > 0, sin, 0.0)
        return resid + ((cos - 1) * x - sin * y) * b1 + (sin * x + (cos - 1) * y) * b2


_TINY, _ROUNDING = 1e-30, 1e-6


def _as_angle(name: str, value: float) -> float:
    angle = as_float(name, value)
    if not -180 <= angle <= 180:
        raise DirectionError(f"{name}={angle} is not an angle from -180 to 180.")
    return angle


def _cos_sin(
    strength: Tensor | float, angle: Tensor | float, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of strength · angle."""
    turned = torch.as_tensor(strength * angle, dtype=like.dtype, device=like.device)
    return torch.cos(turned), torch.sin(turned)


def angular_steering(
    directions: Sequence[Direction],
    degrees: float,
    *,
    feature: Literal["max_sim", "max_norm"] = "max_sim",
    adaptive: bool = True,
    positions: Positions | None = None,
) -> Together:
    """Rotations in one plane at the site of every direction.

    Args:
        directions: Candidates for one concept, one per site.
        degrees: The target angle, the same at every site.
        feature: Which candidate is b1: the one with the highest mean cosine to the others, or the
            longest. b2 is the first principal component of the candidates, on the side of b1's
            sum.
        positions: By default all tokens.

    Raises:
        DirectionError: If there are fewer than three candidates, or they span no plane.

    Source: arXiv:2510.26243, "max_sim" or "max_norm" with "pca_0".
    """
    if len(directions) < 3:
        raise DirectionError(
            f"{len(directions)} directions give no principal component beside the chosen one. Give "
            "candidates of three or more sites, or make Rotate with two directions."
        )
    stacked = torch.stack([direction.vector.float() for direction in directions])
    lengths = stacked.norm(dim=-1)
    units = stacked / lengths[:, None]
    cosines = (units @ units.T).sum(-1)
    chosen = int((cosines if feature == "max_sim" else lengths).argmax())
    axis = torch.linalg.svd((stacked - stacked.mean(0)).double(), full_matrices=False).Vh[0]
    axis = axis.float() if float(axis.float() @ stacked.sum(0)) >= 0 else -axis.float()
    where = positions or Positions.all()
    return Together(
        tuple(
            Rotate(
                _at(directions[chosen], one),
                _at(directions[chosen], one, axis),
                degrees,
                adaptive,
                positions=where,
            )
            for one in directions
        )
    )


def _at(given: Direction, one: Direction, vector: Tensor | None = None) -> Direction:
    """A direction at the site of another."""
    changed = {} if vector is None else {"vector": vector, "resid_norm": None}
    return replace(given, site=one.site, projection_std=None, **changed)
