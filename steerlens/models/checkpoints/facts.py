"""Facts about a loaded model: its processing, its fingerprint, and what its hooks mean."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import xxhash
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from steerlens.models.checkpoints.config import NOT_STORED, plain
from steerlens.models.checkpoints.errors import CheckpointError, some

_NOT_FINGERPRINTED = NOT_STORED | frozenset(
    {
        "model_name",
        "init_mode",
        "initializer_range",
        "default_prepend_bos",
        "tokenizer_prepends_bos",
        "use_attn_result",
        "use_split_qkv_input",
        "use_attn_in",
        "use_hook_mlp_in",
        "use_hook_tokens",
        "ungroup_grouped_query_attention",
    }
)
"""Config fields that cannot change an activation for given token ids."""


def weights_processing(model: HookedTransformer | TransformerBridge) -> str:
    """Which weight processing a model carries, as far as its weights tell.

    Returns:
        "raw", or those of "fold_ln", "center_writing_weights", "center_unembed" and
        "fold_value_biases" that were found, joined by "+", in this order. Centring of writing
        weights is looked for on LayerNorm models only, where TransformerLens does it. Folded value
        biases are seen only where query or key biases show that there were some. A
        `TransformerBridge` in compatibility mode says "bridge_compatibility": whether its weights
        were processed is not recorded in it.
    """
    if isinstance(model, TransformerBridge):
        return "bridge_compatibility" if model.compatibility_mode else "raw"
    kind = model.cfg.normalization_type
    attentions = [block.attn for block in model.blocks]
    found = []
    if kind in ("LNPre", "RMSPre"):
        found.append("fold_ln")
    if kind in ("LN", "LNPre") and not model.cfg.final_rms:
        writers = [model.W_E, *(attn.W_O for attn in attentions)]
        writers += [] if model.cfg.attn_only else [block.mlp.W_out for block in model.blocks]
        if all(_centred(w, -1) for w in writers):
            found.append("center_writing_weights")
    if _centred(model.W_U, -1):
        found.append("center_unembed")
    biased = any(bool(attn.b_Q.any()) or bool(attn.b_K.any()) for attn in attentions)
    if biased and not any(bool(attn.b_V.any()) for attn in attentions):
        found.append("fold_value_biases")
    return "+".join(found) or "raw"


def _centred(weights: Tensor, dim: int) -> bool:
    """Whether means along `dim` are rounding errors.

    The mean of n independent weights of size s is about s/sqrt(n); after centring in float32 and
    rounding to bfloat16 it is 500 times smaller.
    """
    w = weights.detach().float()
    means = w.mean(dim).square().mean().sqrt() * w.shape[dim] ** 0.5
    size = w.square().mean().sqrt()
    return bool(size > 0) and bool(means < 0.02 * size)


def fingerprint(model: HookedTransformer | TransformerBridge) -> str:
    """A hash of every parameter and of the config: 32 hex digits.

    It hashes all bytes of all parameters, so a change of one weight changes it (but for a chance
    of 2**-128), and it does not depend on device, on requires_grad, or on a save and load in the
    same dtype. The tokenizer is no part of it, nor config fields that change no activation.
    A TransformerBridge and a HookedTransformer of the same weights differ, since their names do.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in sorted(model.named_parameters()):
        raw = parameter.detach().to("cpu").contiguous()
        # xxh3: every byte at memory speed; nobody forges weights against a cache key.
        content = xxhash.xxh3_128_digest(raw.reshape(-1).view(torch.uint8).numpy().data)
        digest.update(f"{name} {raw.dtype} {tuple(raw.shape)} ".encode() + content)
    if isinstance(model, TransformerBridge):
        config = plain(cast(Any, model.original_model).config.to_dict())
        dropped = {"transformers_version", "_name_or_path", "dtype"}
    else:
        config, dropped = plain(model.cfg.to_dict()), _NOT_FINGERPRINTED
    kept = {k: v for k, v in config.items() if k not in dropped}
    digest.update(json.dumps(kept, sort_keys=True).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class HookCheck:
    """How well the hook points mean what their names say, over all layers."""

    worst: float
    """Largest absolute difference, as a fraction of the largest residual activation."""
    worst_layer: int
    """Where it is."""
    tolerance: float
    """What rounding explains at this dtype."""
    untrusted: dict[str, str]
    """Streams whose hooks mean something else, each with the reason; {} where all is well."""


def check_hooks(model: HookedTransformer | TransformerBridge) -> HookCheck:
    """`measure_hooks`, which must find nothing.

    Raises:
        CheckpointError: If a hook point is missing, or means something else than its name says,
            with the layer and the difference.
    """
    n_layers, parts = model.cfg.n_layers, _parts(model)
    names = [f"blocks.{layer}.hook_{part}" for layer in range(n_layers) for part in parts]
    if missing := [n for n in names if n not in model.hook_dict]:
        raise CheckpointError(
            f"The model has no hook points {some(missing)}, so activations cannot be read or "
            "steered there. Use a model with the standard residual stream hooks."
        )
    check = measure_hooks(model)
    for reason in check.untrusted.values():
        raise CheckpointError(reason)
    return check


@torch.no_grad()
def measure_hooks(model: HookedTransformer | TransformerBridge) -> HookCheck:
    """Measures on a short random row whether the hook points mean what their names say.

    Two identities at every layer: `resid_pre + attn_out + mlp_out = resid_post` (of sequential,
    parallel and post-normed blocks alike, since TransformerLens hooks what is added), and
    `resid_post` of a layer is `resid_pre` of the next. Costs one forward pass of eight tokens.
    """
    n_layers, parts = model.cfg.n_layers, _parts(model)
    names = [f"blocks.{layer}.hook_{part}" for layer in range(n_layers) for part in parts]
    names = [name for name in names if name in model.hook_dict]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.cfg.d_vocab, (1, min(8, model.cfg.n_ctx)), generator=generator)
    tokens = tokens.to(next(model.parameters()).device)
    _, cache = model.run_with_cache(
        tokens,
        attention_mask=torch.ones_like(tokens),
        names_filter=names,
        return_cache_object=False,
    )
    sums: list[_Gap] = []
    steps: list[_Gap] = []
    for layer in range(n_layers):
        at = {part: cache.get(f"blocks.{layer}.hook_{part}") for part in parts}
        post, later = at.pop("resid_post"), cache.get(f"blocks.{layer + 1}.hook_resid_pre")
        added = [part.float() for part in at.values() if part is not None]
        if post is not None and len(added) == len(at):
            sums.append(_Gap.between(layer, post, torch.stack(added).sum(0)))
        if post is not None and later is not None:
            steps.append(_Gap.between(layer, post, later))
    half = torch.finfo(model.cfg.dtype).eps > 1e-6
    tolerance = 0.05 if half else 1e-4
    untrusted = {}
    if sums and max(sums).size > tolerance:
        reason = max(sums).reason("resid_pre + attn_out + mlp_out", "resid_post", tolerance)
        untrusted |= dict.fromkeys(("resid_mid", "attn_out", "mlp_out"), reason)
    if steps and max(steps).size > tolerance:
        untrusted["resid_post"] = max(steps).reason(
            "resid_post", "the next layer's resid_pre", tolerance
        )
    worst = max([*sums, *steps, _Gap(0.0, 0)])
    return HookCheck(worst.size, worst.layer, tolerance, untrusted)


class _Gap(NamedTuple):
    """How far two streams that should be the same are from each other."""

    size: float
    """Largest difference, as a fraction of the largest number; infinite where only one is NaN."""
    layer: int

    @classmethod
    def between(cls, layer: int, one: Tensor, other: Tensor) -> _Gap:
        one, other = one.float(), other.to(one.device).float()
        overflow = ~torch.isfinite(one) & ~torch.isfinite(other)  # another complaint than ours
        gap = (other - one).masked_fill(overflow, 0).abs().max().item()
        size = gap / (one.masked_fill(overflow, 0).abs().max().item() or 1.0)
        return cls(size if size == size else float("inf"), layer)

    def reason(self, one: str, other: str, tolerance: float) -> str:
        return (
            f"At layer {self.layer}, {one} differs from {other} by {self.size:.3g} of the largest "
            f"activation, where {tolerance:.0e} is rounding: hooks of this model do not mean what "
            "their names say. Steer at resid_pre, or load it as a HookedTransformer."
        )


def _parts(model: HookedTransformer | TransformerBridge) -> list[str]:
    parts = ["resid_pre", "attn_out", "resid_post"]
    return parts if getattr(model.cfg, "attn_only", False) else [*parts, "mlp_out"]
