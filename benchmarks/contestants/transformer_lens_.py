"""Naive TransformerLens: `run_with_cache` and `run_with_hooks`, a full forward for every cell."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache

import torch
from contestants.loading import batches, load_huggingface, log_odds
from task import Positions
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights


@cache
def load(model_dir: str) -> HookedTransformer:
    # Conversion copies every weight; the Hugging Face model is let go afterwards.
    huggingface, tokenizer = load_huggingface(model_dir)
    load_huggingface.cache_clear()
    shape = huggingface.config
    config = HookedTransformerConfig(
        n_layers=shape.n_layer,
        d_model=shape.n_embd,
        n_heads=shape.n_head,
        d_head=shape.n_embd // shape.n_head,
        d_mlp=4 * shape.n_embd,
        d_vocab=shape.vocab_size,
        n_ctx=shape.n_positions,
        act_fn=shape.activation_function,
        eps=shape.layer_norm_epsilon,
        use_attn_scale=shape.scale_attn_weights,
        normalization_type="LN",
        original_architecture="GPT2LMHeadModel",
        default_prepend_bos=False,
        init_weights=False,
        device="cpu",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer", category=DeprecationWarning)
        model = HookedTransformer(config, tokenizer, default_padding_side="left")
    model.load_and_process_state_dict(
        convert_gpt2_weights(huggingface, config),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return model.eval()


def _tokens(model: HookedTransformer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    tokens = model.to_tokens(list(texts), prepend_bos=False, padding_side="left")
    return tokens, (tokens != model.tokenizer.pad_token_id).long()


def _adding(shift: Tensor, positions: Positions) -> Callable[[Tensor, HookPoint], Tensor]:
    start = None if positions == "all" else -1

    def hook(resid: Tensor, hook: HookPoint) -> Tensor:
        resid[:, start:] += shift
        return resid

    return hook


@torch.no_grad()
def directions(model_dir: str, pairs: Sequence[tuple[str, str]], *, batch_size: int) -> Tensor:
    model = load(model_dir)
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]
    means = []
    for texts in zip(*pairs, strict=True):
        total = torch.zeros(len(names), model.cfg.d_model)
        for batch in batches(texts, batch_size):
            tokens, mask = _tokens(model, batch)
            _, kept = model.run_with_cache(tokens, names_filter=names, attention_mask=mask)
            total += torch.stack([kept[name][:, -1].sum(0) for name in names])
        means.append(total / len(texts))
    return means[0] - means[1]


@torch.no_grad()
def sweep(
    model_dir: str,
    prompts: Sequence[str],
    answers: Sequence[tuple[str, str]],
    vectors: Tensor,
    multipliers: Sequence[float],
    positions: Positions,
    *,
    batch_size: int,
) -> Tensor:
    model = load(model_dir)
    columns = []
    for batch, pairs in zip(
        batches(prompts, batch_size), batches(answers, batch_size), strict=True
    ):
        tokens, mask = _tokens(model, batch)
        grid = torch.empty(len(vectors), len(multipliers), len(batch))
        for layer, vector in enumerate(vectors):
            name = f"blocks.{layer}.hook_resid_post"
            for i, multiplier in enumerate(multipliers):
                hook = _adding(multiplier * vector, positions)
                logits = model.run_with_hooks(tokens, fwd_hooks=[(name, hook)], attention_mask=mask)
                grid[layer, i] = log_odds(model.tokenizer, logits[:, -1], pairs)
        columns.append(grid)
    return torch.cat(columns, -1)


@torch.no_grad()
def generate(
    model_dir: str,
    prompts: Sequence[str],
    vector: Tensor,
    layer: int,
    multiplier: float,
    n_new: int,
    *,
    batch_size: int,
) -> Tensor:
    model = load(model_dir)
    hook = _adding(multiplier * vector, "all")
    rows = []
    for batch in batches(prompts, batch_size):
        with model.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_post", hook)]):
            tokens = model.generate(
                list(batch),
                max_new_tokens=n_new,
                do_sample=False,
                stop_at_eos=False,
                prepend_bos=False,
                return_type="tokens",
                verbose=False,
            )
        rows.append(tokens[:, -n_new:])
    return torch.cat(rows)
