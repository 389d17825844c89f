"""What two checkpoints of one architecture differ in, and whether it is a baked-in vector."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steerlens.directions import Direction
from steerlens.interventions.baking import site_of_bias, vector_in
from steerlens.interventions.residual import Add
from steerlens.interventions.weight_delta import require_comparable
from steerlens.models.model import Model, as_model
from steerlens.sites import Site

SHARE = 0.99
"""The rank of a difference is that which holds so much of its squared length."""


@dataclass(frozen=True)
class ChangedParameter:
    """How one parameter differs."""

    name: str
    shape: tuple[int, ...]
    relative: float
    """The length of the difference over the length of the parameter; infinite where that is 0."""
    rank: int
    """The rank that holds 99 % of the squared difference; of a vector it is 1."""


@dataclass(frozen=True)
class FoundStrength:
    """How strongly a known vector was found."""

    strength: float
    """In the multiplier's unit of the `Add`; of a direction, in its own length."""
    cosine: float
    """Of the vector that was found with the known one; 1 where nothing else was changed there."""


@dataclass(frozen=True, eq=False)
class WeightAudit:
    """The differences of two checkpoints."""

    base: str
    tuned: str
    changed: tuple[ChangedParameter, ...]
    """Only those that differ, largest relative difference first."""
    parameters: int
    """How many parameters were compared."""
    vectors: dict[Site, Tensor]
    """The vectors that changed biases add, by the site they add them to. [d_model] each."""
    processing: str

    def directions(self) -> dict[Site, Direction]:
        """The vectors that were found, as directions."""
        return {
            site: Direction(
                vector, site, method=f"found in {self.tuned}", processing=self.processing,
                model=self.base, strength_unit="direction",
            )
            for site, vector in self.vectors.items()
        }  # fmt: skip

    def strength_of(self, known: Add | Direction) -> FoundStrength:
        """How strongly a known vector stands in the tuned checkpoint, at its own site.

        Strength 0, with cosine 0, where no bias that writes there has changed.
        """
        add = known if isinstance(known, Add) else Add(known, unit="direction")
        found = self.vectors.get(_written(add.site))
        if found is None:
            return FoundStrength(0.0, 0.0)
        step = add.step.to(found).double()
        found = found.double()
        along = float(found @ step / step.square().sum())
        cosine = float(found @ step / (found.norm() * step.norm()))
        return FoundStrength(along, cosine)

    def summary(self) -> str:
        """The differences in a few lines."""
        lines = [
            f"{len(self.changed)} of {self.parameters} parameters of {self.base} differ in "
            f"{self.tuned}."
        ]
        for one in self.changed[:20]:
            shape = " x ".join(map(str, one.shape))
            lines.append(
                f"  {one.name} [{shape}]: relative difference {one.relative:.3g}, rank {one.rank}"
            )
        if len(self.changed) > 20:
            lines.append(f"  … and {len(self.changed) - 20} more")
        for site, vector in self.vectors.items():
            lines.append(f"  a vector of length {float(vector.norm()):.4g} is added at {site}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.summary()


def _written(site: Site) -> Site:
    """The site by which a baked vector is found: what enters a block is what left the last one."""
    if site.stream == "resid_pre" and site.layer:
        return Site(site.layer - 1)
    if site.stream == "mlp_out":
        return Site(site.layer)
    return Site(site.layer, "attn_out") if site.stream == "resid_mid" else site


@torch.no_grad()
def audit(base: Model, tuned: Model) -> WeightAudit:
    """Compares two checkpoints, and finds steering vectors that were baked into biases.

    Raises:
        ValueError: If they are of different architectures or weight processing.

    Source: the audit of hidden-directions (moudrkat), which looks for a known vector. Departure:
        every parameter is compared, with the rank of its difference.
    """
    base, tuned = as_model(base), as_model(tuned)
    require_comparable(base, tuned)
    after = dict(tuned.wrapped.named_parameters())
    changed: list[ChangedParameter] = []
    vectors: dict[Site, Tensor] = {}
    before = dict(base.wrapped.named_parameters())
    for name, weight in before.items():
        delta = after[name].to(weight.device).float() - weight.float()
        if not bool(delta.any()):
            continue
        length = float(weight.float().norm())
        relative = float(delta.norm()) / length if length else float("inf")
        changed.append(ChangedParameter(name, tuple(delta.shape), relative, _rank(delta)))
        vector, site = vector_in(base, name, delta), site_of_bias(base, name)
        if vector is not None and site is not None:
            vectors[site] = vector.cpu()
    changed.sort(key=lambda one: -one.relative)
    return WeightAudit(base.name, tuned.name, tuple(changed), len(before), vectors, base.processing)


def _rank(delta: Tensor) -> int:
    """The rank that holds 99 % of a difference; heads that are stored apart count as one matrix."""
    if delta.ndim < 2:
        return 1
    energy = torch.linalg.svdvals(delta.flatten(0, -2)).square()
    share = energy.cumsum(0) / energy.sum()
    return int((share < SHARE).sum()) + 1
