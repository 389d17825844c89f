"""Untrained SAEs of every kind that steers, for the tests of `steerlens.saes`."""

from __future__ import annotations

import torch

from steerlens.saes import SAE
from steerlens.saes.sae_lens_library import sae_lens

D_SAE = 48
KINDS = {
    "standard": ("standard", {}),
    "jumprelu": ("jumprelu", {}),
    "gated": ("gated", {}),
    "topk": ("topk", {"k": 6}),
    "topk by decoder norm": ("topk", {"k": 6, "rescale_acts_by_decoder_norm": True}),
    "abstopk": ("abstopk", {"k": 6}),
    "matching_pursuit": ("matching_pursuit", {"residual_threshold": 0.5, "max_iterations": 6}),
    "bias left in the input": ("standard", {"apply_b_dec_to_input": False}),
    "layer_norm": ("topk", {"k": 6, "normalize_activations": "layer_norm"}),
    "constant_norm_rescale": ("jumprelu", {"normalize_activations": "constant_norm_rescale"}),
}


def untrained_sae(
    kind: str = "jumprelu", *, d_in: int = 32, hook: str = "blocks.1.hook_resid_post", seed: int = 0
):
    """A sae_lens SAE whose every weight matters; about half of its features fire at a token."""
    from sae_lens.registry import get_sae_class

    sae_lens()
    architecture, options = KINDS[kind]
    sae_class, config_class = get_sae_class(architecture)
    config = config_class(d_in=d_in, d_sae=D_SAE, **options)
    config.metadata.hook_name = hook
    config.metadata.model_name = "tiny"
    sae = sae_class(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        if architecture == "jumprelu":
            sae.threshold.abs_()
    return sae


def untrained(kind: str = "jumprelu", **options) -> SAE:
    """The same as an `SAE`, with every strength unit."""
    from dataclasses import replace

    found = SAE.of(untrained_sae(kind, **options), name=f"untrained {kind}")
    return replace(found, max_activation=torch.full((D_SAE,), 2.0), resid_norm=3.0)
