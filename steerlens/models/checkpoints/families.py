"""Hugging Face configs of each known family as TransformerLens config fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformer_lens.pretrained.weight_conversions.gemma import convert_gemma_weights
from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights
from transformer_lens.pretrained.weight_conversions.llama import convert_llama_weights
from transformer_lens.pretrained.weight_conversions.mistral import convert_mistral_weights
from transformer_lens.pretrained.weight_conversions.neox import convert_neox_weights
from transformer_lens.pretrained.weight_conversions.qwen2 import convert_qwen2_weights

from steerlens.models.checkpoints.errors import NotConverted


def _rope(c: Any, **local: Any) -> dict[str, Any]:
    """Rotary fields; only kinds whose TransformerLens form equals Hugging Face's (tested)."""
    rope = getattr(c, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    fields: dict[str, Any] = {
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_base": rope.get("rope_theta", getattr(c, "rope_theta", None) or 10000.0),
    }
    if kind == "llama3":
        fields |= {
            "use_NTK_by_parts_rope": True,
            "NTK_by_parts_factor": rope["factor"],
            "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
            "NTK_original_ctx_len": rope["original_max_position_embeddings"],
        }
    elif kind == "linear" and not local.get("use_local_attn"):
        # TransformerLens leaves local layers unscaled, Hugging Face scales them all.
        fields["rotary_scaling_factor"] = rope["factor"]
    elif kind != "default":
        raise NotConverted(
            f"This checkpoint uses the rotary scaling {kind!r} ({rope}), which is not converted. "
            "Known are 'default', 'llama3' and, without sliding windows, 'linear'. "
            "Pass a TransformerBridge instead (TransformerBridge.boot_transformers)."
        )
    return fields | local


def _refuse(c: Any, **unsupported: bool) -> None:
    for field, present in unsupported.items():
        if present:
            raise NotConverted(
                f"This {c.model_type} checkpoint has {field}={getattr(c, field, None)!r}, which "
                "TransformerLens's weight converter leaves out. Pass a TransformerBridge instead "
                "(TransformerBridge.boot_transformers)."
            )


def _gpt2(c: Any) -> dict[str, Any]:
    _refuse(c, add_cross_attention=bool(getattr(c, "add_cross_attention", False)))
    return {
        "d_head": c.n_embd // c.n_head,
        "d_mlp": c.n_inner or 4 * c.n_embd,
        "eps": c.layer_norm_epsilon,
        "act_fn": c.activation_function,
        "use_attn_scale": c.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": c.scale_attn_by_inverse_layer_idx,
        "normalization_type": "LN",
    }


def _neox(c: Any) -> dict[str, Any]:
    _refuse(c, attention_bias=not getattr(c, "attention_bias", True))
    d_head = c.hidden_size // c.num_attention_heads
    rope = getattr(c, "rope_parameters", None) or {}
    part = rope.get("partial_rotary_factor", getattr(c, "rotary_pct", 0.25))
    return {
        "d_head": d_head,
        "d_mlp": c.intermediate_size,
        "eps": c.layer_norm_eps,
        "act_fn": c.hidden_act,
        "parallel_attn_mlp": c.use_parallel_residual,
        "normalization_type": "LN",
        "default_prepend_bos": False,  # these models were trained without BOS
        **_rope(c, rotary_dim=int(part * d_head)),
    }


def _rms_gated(c: Any, act_fn: str, **local: Any) -> dict[str, Any]:
    d_head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    return {
        "d_head": d_head,
        "d_mlp": c.intermediate_size,
        "eps": c.rms_norm_eps,
        "act_fn": act_fn,
        "n_key_value_heads": c.num_key_value_heads,
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        **_rope(c, rotary_dim=d_head, **local),
    }


def _window(c: Any, layer_types: list[str]) -> dict[str, Any]:
    if "sliding_attention" not in layer_types:
        return {}
    return {
        "use_local_attn": True,
        "window_size": c.sliding_window,
        "attn_types": ["local" if t == "sliding_attention" else "global" for t in layer_types],
    }


def _llama(c: Any) -> dict[str, Any]:
    _refuse(
        c,
        attention_bias=bool(getattr(c, "attention_bias", False)),
        mlp_bias=bool(getattr(c, "mlp_bias", False)),
    )
    return _rms_gated(c, c.hidden_act)


def _mistral(c: Any) -> dict[str, Any]:
    kind = "sliding_attention" if c.sliding_window else "full_attention"
    return _rms_gated(c, c.hidden_act, **_window(c, [kind] * c.num_hidden_layers))


def _qwen2(c: Any) -> dict[str, Any]:
    window = _window(c, list(c.layer_types)) if c.use_sliding_window else {}
    return _rms_gated(c, c.hidden_act, **window) | {"default_prepend_bos": False}


def _gemma2(c: Any) -> dict[str, Any]:
    _refuse(
        c,
        attention_bias=bool(getattr(c, "attention_bias", False)),
        use_bidirectional_attention=bool(getattr(c, "use_bidirectional_attention", False)),
    )
    return _rms_gated(c, c.hidden_activation, **_window(c, list(c.layer_types))) | {
        "use_normalization_before_and_after": True,
        "attn_scale": c.query_pre_attn_scalar**0.5,
        "attn_scores_soft_cap": c.attn_logit_softcapping or -1.0,
        "output_logits_soft_cap": c.final_logit_softcapping or -1.0,
    }


FAMILIES: dict[str, tuple[Callable[[Any], dict[str, Any]], Callable[..., dict[str, Tensor]]]] = {
    "GPT2LMHeadModel": (_gpt2, convert_gpt2_weights),
    "GPTNeoXForCausalLM": (_neox, convert_neox_weights),
    "LlamaForCausalLM": (_llama, convert_llama_weights),
    "MistralForCausalLM": (_mistral, convert_mistral_weights),
    "Qwen2ForCausalLM": (_qwen2, convert_qwen2_weights),
    "Gemma2ForCausalLM": (_gemma2, convert_gemma_weights),
}

KNOWN_ARCHITECTURES = tuple(sorted(FAMILIES))
"""Hugging Face classes that `load_hf_directory` and `hooked_from_hf` convert."""
