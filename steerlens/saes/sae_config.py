"""What an SAE's config states: whether it can steer a residual stream, and at which site."""

from __future__ import annotations

from typing import Any

from steerlens.directions.basis import KNOWN
from steerlens.saes.sae_errors import SAEError
from steerlens.saes.sae_lens_library import sae_lens
from steerlens.sites import Site

FACTS = "steerlens"
"""The key under which an SAE's metadata holds what sae_lens has no name for."""
_HOOKS_OF_BRIDGES = {"hook_in": "hook_resid_pre", "hook_out": "hook_resid_post"}


def require_trained(sae: Any) -> None:
    """Raises SAEError if this is not an SAE of sae_lens for inference."""
    lens = sae_lens()
    if not isinstance(sae, lens.SAE):
        raise SAEError(
            f"`SAE` wraps a sae_lens SAE, not {type(sae).__name__}. For a folder or a "
            "release write SAE.load(…)."
        )
    if isinstance(sae, lens.TrainingSAE):
        raise SAEError(
            f"{type(sae).__name__} is an SAE in training, which may encode a token depending on the "
            "rest of the batch. Save it, sae.save_inference_model(folder), and load the folder."
        )


def require_steerable(cfg: Any) -> None:
    """Raises SAEError if an SAE with this config cannot steer a residual stream."""
    architecture = cfg.architecture()
    if "transcoder" in architecture or cfg.metadata.get("hook_name_out"):
        raise SAEError(
            f"This is a {architecture}: it reads one stream and writes another, so what it decodes "
            "cannot be added to what it reads. Load an SAE."
        )
    if architecture == "temporal":
        raise SAEError(
            "A temporal SAE encodes a token by looking at the tokens before it, which it does not get "
            "in cached and padded runs. Load an SAE that encodes each token by itself."
        )
    site_of(cfg)


def site_of(cfg: Any) -> Site:
    """The site that an SAE's config names.

    Raises:
        SAEError: If it names none of a d_model-wide stream.
    """
    name = str(cfg.metadata.get("hook_name") or "")
    head = cfg.metadata.get("hook_head_index")
    block, _, hook = name.rpartition(".")
    try:
        if head is not None or cfg.reshape_activations != "none":
            raise ValueError("Single heads are not such streams.")
        site = Site.from_hook(f"{block}.{_HOOKS_OF_BRIDGES.get(hook, hook)}")
        if site.is_inside:
            raise ValueError("Heads and neurons are not such streams.")
        return site
    except ValueError as error:
        raise SAEError(
            f"This SAE reads {name or 'a hook that it does not name'}"
            f"{'' if head is None else f', head {head}'}, and steering edits streams as wide as "
            f"d_model: {error} Load an SAE of resid_pre, resid_mid, resid_post, attn_out or mlp_out."
        ) from error


def processing_of(kwargs: dict[str, Any]) -> str:
    """The processing that these arguments of from_pretrained ask for, as steerlens names it."""
    return "+".join(name for name in KNOWN if kwargs.get(name)) or "raw"
