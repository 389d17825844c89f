"""Random directions at the site of an SAE: the control for any direction there."""

from __future__ import annotations

import torch

from steerlens.directions import Direction
from steerlens.saes.sae import SAE


def random_directions(sae: SAE, n: int, *, seed: int = 0) -> list[Direction]:
    """Isotropic unit vectors at an SAE's site."""
    # Not the bare seed: data that were made with the same seed may hold these very vectors.
    generator = torch.Generator().manual_seed(0x0D1C_0000 + seed)
    drawn = torch.randn(n, sae.d_model, generator=generator)
    return [
        sae.facts.direction(row / row.norm(), f"random {seed}.{i}") for i, row in enumerate(drawn)
    ]
