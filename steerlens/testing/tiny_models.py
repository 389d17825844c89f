"""Small random models of every family, made in memory through the real loading path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from steerlens.models.checkpoints import (
    bridge_from_hf,
    hooked_from_hf,
    unchanged_rng,
    word_tokenizer,
)

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Family = Literal["gpt2", "neox", "llama", "gemma2", "mistral", "qwen2"]

FAMILIES: tuple[Family, ...] = ("gpt2", "neox", "llama", "gemma2", "mistral", "qwen2")
"""Every family of `tiny_model`: what differs between them is where steering code breaks."""

WORDS: tuple[str, ...] = tuple(
    """. , ? ! a an the this that it he she we they I you is was are were be not no yes and or but
    so because if then than very quite really too all some one two three good bad great awful nice
    terrible lovely horrid happy sad love hate like dislike enjoy adore detest agree disagree right
    wrong true false cat dog bird fish man woman child friend soup bread cake wine tea room bed
    food place film book song city town capital king queen sat ran slept ate saw said think know
    feel want went came on in at of to from with for by my your his her its our their red blue
    green big small old new fast slow hot cold here there now today A B ( ) : Question Answer
    Choices""".split()  # noqa: SIM905 (a list would be one word a line)
)
"""The vocabulary of the tiny models; any other word becomes <unk>."""


def tiny_hf(
    family: Family,
    *,
    n_layers: int = 3,
    d_model: int = 32,
    seed: int = 0,
    words: Sequence[str] = WORDS,
    padding_side: Literal["left", "right"] = "right",
    **config: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A random Hugging Face model of a family, in float32 on the CPU, with a word tokenizer.

    Weights are large enough that every part matters (logits have a standard deviation near 1), and
    biases and norms are random too, so that a conversion that drops one is seen. Context is 64.

    - gpt2: LayerNorm, learned positions, untied unembedding.
    - neox: LayerNorm, rotary positions on a quarter of each head, attention beside the MLP.
    - llama: RMSNorm, rotary, grouped queries, gated MLP, untied.
    - mistral: as llama, every layer attending to the last 6 tokens only.
    - qwen2: as llama, with query, key and value biases, and tied embeddings.
    - gemma2: norms before and after, soft caps, every second layer sees 4 tokens, tied.

    Args:
        config: Further fields of the Hugging Face config, which win.
    """
    import transformers

    if family not in FAMILIES:
        raise ValueError(f"There is no family {family!r}. Use one of {', '.join(FAMILIES)}.")
    tokenizer = word_tokenizer(words, padding_side=padding_side)
    n_heads = 4
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    usual = {
        "hidden_size": d_model,
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "intermediate_size": 2 * d_model,
        "max_position_embeddings": 64,
        "attn_implementation": "eager",
        **ids,
    }
    grouped = {**usual, "num_key_value_heads": 2, "tie_word_embeddings": False}
    cls, fields = {
        "gpt2": (
            "GPT2",
            {"n_embd": d_model, "n_layer": n_layers, "n_head": n_heads, "n_inner": 2 * d_model}
            | {"n_positions": 64, "tie_word_embeddings": False, "attn_implementation": "eager"}
            | ids,
        ),
        "neox": ("GPTNeoX", {**usual, "tie_word_embeddings": False}),
        "llama": ("Llama", grouped),
        "mistral": ("Mistral", {**grouped, "sliding_window": 6}),
        "qwen2": ("Qwen2", {**grouped, "tie_word_embeddings": True}),
        "gemma2": (
            "Gemma2",
            {**grouped, "tie_word_embeddings": True, "head_dim": d_model // n_heads}
            | {"sliding_window": 4, "query_pre_attn_scalar": 16}
            | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 6.0},
        ),
    }[family]
    head = "GPT2LMHeadModel" if cls == "GPT2" else f"{cls}ForCausalLM"
    with unchanged_rng():
        hf_config = getattr(transformers, f"{cls}Config")(**{**fields, **config})
        model = getattr(transformers, head)(hf_config).eval()
    _randomise(model, seed)
    return model, tokenizer


@torch.no_grad()
def _randomise(model: PreTrainedModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gemma = type(model).__name__.startswith("Gemma")
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.copy_(0.2 * noise + (0.0 if gemma else 1.0))  # Gemma's norms add 1 themselves
        elif parameter.ndim == 1:
            parameter.copy_(0.2 * noise)
        elif "wpe" in name:
            parameter.copy_(0.3 * noise)
        else:
            width = model.config.hidden_size
            parameter.copy_(noise / width**0.5)


def tiny_model(
    family: Family = "gpt2",
    *,
    n_layers: int = 3,
    d_model: int = 32,
    seed: int = 0,
    words: Sequence[str] = WORDS,
    padding_side: Literal["left", "right"] = "right",
    **config: Any,
) -> HookedTransformer:
    """`tiny_hf` as a `HookedTransformer`, through the same conversion as real checkpoints.

    >>> tiny_model("llama", n_layers=2)("the cat sat").shape  # <bos> and three words
    torch.Size([1, 4, 144])
    """
    hf_model, tokenizer = tiny_hf(
        family,
        n_layers=n_layers,
        d_model=d_model,
        seed=seed,
        words=words,
        padding_side=padding_side,
        **config,
    )
    return hooked_from_hf(hf_model, tokenizer, check=False, name=f"tiny-{family}")


def tiny_bridge(
    family: Family = "gpt2",
    *,
    n_layers: int = 3,
    d_model: int = 32,
    seed: int = 0,
    words: Sequence[str] = WORDS,
    padding_side: Literal["left", "right"] = "right",
    **config: Any,
) -> TransformerBridge:
    """`tiny_hf` as a `TransformerBridge`; the same weights as `tiny_model` with the same seed."""
    hf_model, tokenizer = tiny_hf(
        family,
        n_layers=n_layers,
        d_model=d_model,
        seed=seed,
        words=words,
        padding_side=padding_side,
        **config,
    )
    return bridge_from_hf(hf_model, tokenizer, name=f"tiny-{family}")
