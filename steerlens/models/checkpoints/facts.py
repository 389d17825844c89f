"""Facts about a loaded model: its weight processing and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from typing import Any, cast

from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from steerlens.models.checkpoints.config import NOT_STORED, plain
from steerlens.models.checkpoints.weight_hashes import weight_hashes

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
    of 2**-128, or of 2**-64 on a GPU), and it does not depend on device, on requires_grad, or on a
    save and load in the same dtype. The tokenizer is no part of it, nor config fields that change no
    activation.
    A TransformerBridge and a HookedTransformer of the same weights differ, since their names do.
    """
    digest = hashlib.blake2b(digest_size=16)
    for one in weight_hashes(model):
        digest.update(one)
    if isinstance(model, TransformerBridge):
        config = plain(cast(Any, model.original_model).config.to_dict())
        dropped = {"transformers_version", "_name_or_path", "dtype"}
    else:
        config, dropped = plain(model.cfg.to_dict()), _NOT_FINGERPRINTED
    kept = {k: v for k, v in config.items() if k not in dropped}
    digest.update(json.dumps(kept, sort_keys=True).encode())
    return digest.hexdigest()
