"""SAEs whose features are known: sae_lens's own, with weights set by hand."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import torch

from steerlens.saes.sae import SAE
from steerlens.saes.sae_lens_library import sae_lens
from steerlens.sites import Site


def handmade(
    rows: torch.Tensor, site: Site, *, threshold: float = 0.0, resid_norm: float | None = 4.0
) -> SAE:
    """f = relu(x · rows - threshold), x = f · rows."""
    lens = sae_lens()
    config = lens.StandardSAEConfig(
        d_in=rows.shape[1], d_sae=rows.shape[0], apply_b_dec_to_input=False
    )
    config.metadata.hook_name = site.hook
    sae = lens.StandardSAE(config)
    with torch.no_grad():
        sae.W_enc.copy_(rows.T)
        sae.W_dec.copy_(rows)
        sae.b_enc.fill_(-threshold)
        sae.b_dec.zero_()
    sae.eval().requires_grad_(False)
    return SAE(wrapped=sae, site=site, name="handmade", resid_norm=resid_norm)


_FOLDER = tempfile.TemporaryDirectory(prefix="handmade-saes-")


@cache
def saved(d_model: int, site: Site) -> str:
    """The folder of a handmade SAE of so wide a stream, for this process."""
    rows = random_rows(2 * d_model, d_model)
    return str(handmade(rows, site, threshold=0.3).save(Path(_FOLDER.name) / f"{d_model}-{site}"))


def random_rows(n: int, d_model: int, seed: int = 0) -> torch.Tensor:
    """Unit vectors."""
    rows = torch.randn(n, d_model, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=-1, keepdim=True)


def planted_rows(planted, n: int = 24) -> torch.Tensor:
    """Feature 0 steers, features 1 and 2 are distractors that steer nothing, the rest is random."""
    random = random_rows(n - 3, planted.direction.shape[0], seed=5)
    for known in (planted.direction, planted.answer_direction, *planted.distractors):
        random = random - (random @ known)[:, None] * known  # they know nothing of the concept
    random = random / random.norm(dim=-1, keepdim=True)
    return torch.cat([planted.direction[None], planted.distractors, random])
