"""Which architectures are read and written as Hugging Face does: the table in docs/models.md.

    python benchmarks/architectures.py                     # prints the table, a few minutes
    python benchmarks/architectures.py --only Qwen3 Mpt    # some of them
    python benchmarks/architectures.py --write             # puts the table into docs/models.md

For every architecture a small random model is made on the spot (2 layers, width 32, a vocabulary of
words) and loaded as a HookedTransformer, where it has one, and as a TransformerBridge. Each is
compared with the Hugging Face model itself:

logits     largest difference over an unpadded row of 16 tokens
log-odds   difference of the log-odds of two answers that `sweep` finds at multiplier 0, in nats
cached     whether `generate`, with its key-value cache and as it is by default, writes the 8 tokens
           that Hugging Face's uncached forward pass finds likeliest
padded     whether two texts of different length in one batch are continued as each on its own
sweep      by which path a sweep of two vectors runs, and the largest difference of its log-odds from
           one whole forward pass for each cell, in nats: answers of one and of several words, and
           prompts of different length where padding is read

"uncached" under cached says that the cache was found to give other numbers, and is not used.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import tyro

from steerlens.data import ContrastPair
from steerlens.directions import Direction
from steerlens.interventions import Add
from steerlens.measures.generation import generated_tokens
from steerlens.measures.sweep import sweep
from steerlens.models.checkpoints import (
    KNOWN_ARCHITECTURES,
    CheckpointError,
    bridge_from_hf,
    hooked_from_hf,
    word_tokenizer,
)
from steerlens.models.measured import measured
from steerlens.models.model import Model
from steerlens.sites import Site
from steerlens.testing import WORDS

DOCUMENT = Path(__file__).parents[1] / "docs" / "models.md"
START, END = "<!-- architectures: start -->", "<!-- architectures: end -->"

WIDTH, LAYERS, HEADS, CONTEXT = 32, 2, 4, 64
TEXTS = ["the cat sat on the bed and ran", "you like"]
PAIR = ContrastPair("I think that the soup was", " good", " bad")
LONGER = ContrastPair(
    "the cat sat on the bed and I think that the soup was", " good bed", " bad cat"
)
NEW = 8

USUAL = {
    "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT,
    "head_dim": WIDTH // HEADS,
}  # fmt: skip
GPT = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": CONTEXT}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}

ARCHITECTURES: dict[str, Mapping[str, Any]] = {
    "GPT2": GPT,
    "GPTNeoX": USUAL,
    "Llama": USUAL,
    "Mistral": {**USUAL, "sliding_window": 6},
    "Qwen2": USUAL,
    "Gemma2": {**USUAL, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "Gemma": USUAL,
    "Gemma3": {**USUAL, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "Qwen3": USUAL,
    "Qwen2Moe": {
        **USUAL, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    },
    "Qwen3Moe": {
        **USUAL, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    },
    "Mixtral": {**USUAL, **EXPERTS},
    "Olmo": USUAL,
    "Olmo2": USUAL,
    "Olmo3": {**USUAL, "sliding_window": 6},
    "Olmoe": {**USUAL, "num_experts": 4, "num_experts_per_tok": 2},
    "Granite": {**USUAL, "logits_scaling": 8.0, "residual_multiplier": 0.5},
    "GraniteMoe": {**USUAL, **EXPERTS, "logits_scaling": 8.0},
    "Cohere": {**USUAL, "logit_scale": 0.25},
    "Cohere2": {**USUAL, "logit_scale": 0.25, "sliding_window": 6},
    "Phi": USUAL,
    "Phi3": USUAL,
    "StableLm": USUAL,
    "Starcoder2": USUAL,
    "SmolLM3": USUAL,
    "Nemotron": USUAL,
    "Glm": USUAL,
    "Glm4": USUAL,
    "Helium": USUAL,
    "Arcee": USUAL,
    "Exaone4": {**USUAL, "sliding_window": 6},
    "Ernie4_5": USUAL,
    "SeedOss": USUAL,
    "Falcon": {**USUAL, "alibi": False, "new_decoder_architecture": False},
    "Bloom": {"hidden_size": WIDTH, "n_layer": LAYERS, "n_head": HEADS},
    "Mpt": {"d_model": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "max_seq_len": CONTEXT},
    "OPT": {**USUAL, "ffn_dim": 2 * WIDTH, "word_embed_proj_dim": WIDTH},
    "GPTNeo": {
        "hidden_size": WIDTH, "num_layers": LAYERS, "num_heads": HEADS, "window_size": 6,
        "attention_types": [[["global", "local"], 1]], "max_position_embeddings": CONTEXT,
    },
    "GPTJ": {**GPT, "rotary_dim": 4},
    "CodeGen": {**GPT, "rotary_dim": 4},
    "GPTBigCode": GPT,
    "XGLM": {
        "d_model": WIDTH, "ffn_dim": 2 * WIDTH, "num_layers": LAYERS, "attention_heads": HEADS,
        "max_position_embeddings": CONTEXT,
    },
    "BioGpt": USUAL,
    "Mamba": {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "state_size": 4},
    "Apertus": USUAL,
    "DeepseekV3": {
        **USUAL, "num_key_value_heads": HEADS, "head_dim": 4, "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4, "v_head_dim": 8, "n_group": 1, "topk_group": 1,
        "first_k_dense_replace": 1,
    },
    "FalconH1": {
        **USUAL, "lm_head_multiplier": 0.25, "embedding_multiplier": 2.0, "mamba_d_ssm": 32,
        "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1,
    },
    "GptOss": {**USUAL, **EXPERTS, "sliding_window": 6},
    "GraniteMoeHybrid": {
        **USUAL, **EXPERTS, "logits_scaling": 8.0, "layer_types": ["attention", "mamba"],
        "position_embedding_type": "rope", "shared_intermediate_size": 32, "mamba_n_heads": 8,
        "mamba_d_head": 8, "mamba_d_state": 8,
    },
    "HunYuanDenseV1": USUAL,
    "Lfm2": {**USUAL, "layer_types": ["conv", "full_attention"]},
    "OpenAIGPT": GPT,
    "Phimoe": {**USUAL, **EXPERTS},
    "RecurrentGemma": {
        **USUAL, "num_hidden_layers": 3, "logits_soft_cap": 3.0, "attention_window_size": 6,
        "lru_width": WIDTH,
    },
    "VaultGemma": {**USUAL, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "GPTNeoX, sequential blocks": {**USUAL, "use_parallel_residual": False},
    "Llama, attention bias": {**USUAL, "attention_bias": True},
    "Gemma3, capped logits": {
        **USUAL, "sliding_window": 6, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0,
    },
    "OPT, post-norm and projected": {
        **USUAL, "ffn_dim": 2 * WIDTH, "word_embed_proj_dim": 16, "do_layer_norm_before": False,
    },
    "Falcon, ALiBi": {**USUAL, "alibi": True, "new_decoder_architecture": False},
    "Falcon, new decoder": {
        **USUAL, "alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2,
    },
    "GPT2, untied": {**GPT, "tie_word_embeddings": False},
}  # fmt: skip
"""By the name of the architecture, and after a comma what is unusual about its options."""
HEAD_NAMES = {"GPT2": "GPT2LMHeadModel", "OpenAIGPT": "OpenAIGPTLMHeadModel"}
CONFIG_NAMES = {"Gemma3": "Gemma3TextConfig"}


@dataclass(frozen=True)
class Row:
    """What was seen of one architecture, loaded in one way."""

    logits: str
    log_odds: str
    cached: str
    padded: str
    sweep: str


def main(only: tuple[str, ...] = (), write: bool = False) -> None:
    """Compares every architecture with Hugging Face.

    Args:
        only: Names of some architectures; all of them by default.
        write: Put the table into docs/models.md.
    """
    transformers.utils.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = [
        "| architecture | as | logits | log-odds | cached | padded | sweep |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in only or ARCHITECTURES:
        for kind, row in compared(name).items():
            option = name.partition(",")[1] + name.partition(",")[2]
            cells = [
                f"`{head(name)}`{option}",
                kind,
                row.logits,
                row.log_odds,
                row.cached,
                row.padded,
                row.sweep,
            ]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    if write:
        replace_table("\n".join(lines))


def head(name: str) -> str:
    """The Hugging Face class of an architecture."""
    base = name.partition(",")[0]
    return HEAD_NAMES.get(base, f"{base}ForCausalLM")


def replace_table(table: str) -> None:
    """Puts the table between its two marks in the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(START)
    _, after = rest.split(END)
    DOCUMENT.write_text(f"{before}{START}\n{table}\n{END}{after}", encoding="utf-8")


def random_model(name: str) -> tuple[Any, Any]:
    """A random Hugging Face model of an architecture, with a tokenizer of words."""
    tokenizer = word_tokenizer(WORDS)
    base = name.partition(",")[0]
    config_class = getattr(transformers, CONFIG_NAMES.get(base, f"{base}Config"))
    ids = {"vocab_size": len(tokenizer), "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    has = config_class().to_dict()  # a config keeps what it does not know, and a bridge reads it
    torch.manual_seed(0)
    asked = {k: v for k, v in ARCHITECTURES[name].items() if k in has or v is not USUAL.get(k)}
    config = config_class(**{**ids, **asked})
    config._attn_implementation = "eager"
    model = getattr(transformers, head(name))(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape)
            # Norms start at 1, or at 0 where the architecture adds 1 itself; both stay near it.
            if parameter.ndim == 1:
                parameter.add_(0.2 * noise)
            else:
                parameter.copy_(noise / WIDTH**0.5)
    hf_logits(model, [2, 5, 7])  # fails here if the config describes no working model
    return model, tokenizer


def compared(name: str) -> dict[str, Row]:
    """One row for each way in which an architecture is loaded."""
    try:
        hf_model, tokenizer = random_model(name)
    except Exception as error:
        return {"–": refused(f"not made: {error}")}
    rows = {}
    if head(name) in KNOWN_ARCHITECTURES:
        rows["HookedTransformer"] = row_of(hf_model, tokenizer, hooked_from_hf)
    rows["TransformerBridge"] = row_of(hf_model, tokenizer, bridge_from_hf)
    return rows


def row_of(hf_model: Any, tokenizer: Any, build: Any) -> Row:
    """What is seen of a model that is loaded in one way."""
    try:
        model = Model(build(hf_model, tokenizer))
        if reason := measured(model.wrapped).readout_differs:
            return refused(f"activations only: {reason}")
        return Row(
            logits=size(logit_gap(hf_model, model)),
            log_odds=size(log_odds_gap(hf_model, model)),
            cached=cached(hf_model, model),
            padded=padded(hf_model, model),
            sweep=swept(model),
        )
    except (CheckpointError, ValueError) as error:
        return refused(str(error))


def refused(reason: str) -> Row:
    """A row of what is not served."""
    short = reason.replace("|", "/").replace("\n", " ").split(". ")[0]
    return Row(f"refused: {short}", "–", "–", "–", "–")


def size(gap: float) -> str:
    """A difference, rounded up to a power of ten."""
    return next((f"< 1e-{k}" for k in (6, 5, 4) if gap < 10.0**-k), f"**{gap:.1e}**")


@torch.no_grad()
def hf_logits(hf_model: Any, ids: list[int]) -> torch.Tensor:
    return hf_model(torch.tensor([ids])).logits[0].float()


def logit_gap(hf_model: Any, model: Model) -> float:
    text = " ".join(TEXTS * 2)
    gap = model.logits(text)[0] - hf_logits(hf_model, model.ids(text))
    return float(gap.abs().max())


def log_odds_gap(hf_model: Any, model: Model) -> float:
    theirs = 0.0
    for sign, answer in ((1, PAIR.positive), (-1, PAIR.negative)):
        prompt, ids = model.split(PAIR.prompt, answer)
        log_p = hf_logits(hf_model, prompt + ids).log_softmax(-1)
        theirs += sign * sum(float(log_p[len(prompt) - 1 + i, t]) for i, t in enumerate(ids))
    edit = Add(Direction(torch.ones(WIDTH), Site(1), resid_norm=1.0, processing="raw"))
    found = sweep(model, [PAIR], [edit], [0.0, 1.0], progress=False)
    return abs(float(found.log_odds[0, 0, 0]) - theirs)


def greedy(hf_model: Any, model: Model, text: str) -> list[int]:
    """The likeliest new tokens, by whole forward passes of the Hugging Face model."""
    row = model.ids(text)
    for _ in range(NEW):
        row.append(int(hf_logits(hf_model, row)[-1].argmax()))
    return row[-NEW:]


def cached(hf_model: Any, model: Model) -> str:
    new = generated_tokens(model, TEXTS[:1], max_new_tokens=NEW, stop_at_eos=False)
    same = new[0].tolist() == greedy(hf_model, model, TEXTS[0])
    return ("yes" if model.forward.caches else "uncached") if same else "**no**"


def padded(hf_model: Any, model: Model) -> str:
    if not measured(model.wrapped).pads:
        return "refused"
    new = generated_tokens(model, TEXTS, max_new_tokens=NEW, stop_at_eos=False).tolist()
    return "yes" if new == [greedy(hf_model, model, text) for text in TEXTS] else "**no**"


def swept(model: Model) -> str:
    """The path of a sweep, and how far its steered cells are from whole forward passes."""
    generator = torch.Generator().manual_seed(0)
    edits = [
        Add(
            Direction(
                torch.randn(WIDTH, generator=generator), Site(layer, "resid_pre"),
                resid_norm=1.0, processing=model.processing,
            )
        )
        for layer in (0, 1)
    ]  # fmt: skip
    pairs = [PAIR, LONGER] if measured(model.wrapped).pads else [LONGER]
    found = sweep(model, pairs, edits, [-1.0, 1.0], progress=False)
    gap = 0.0
    for i, edit in enumerate(edits):
        for j, multiplier in enumerate((-1.0, 1.0)):
            for n, pair in enumerate(pairs):
                own = 0.0
                for sign, answer in ((1, pair.positive), (-1, pair.negative)):
                    prompt, ids = model.split(pair.prompt, answer)
                    with edit.attach(model, multiplier):
                        batch = model.answered([pair.prompt], [answer])
                        log_p = model.unembed(model.states(batch))[0].log_softmax(-1)
                    own += sign * sum(
                        float(log_p[len(prompt) - 1 + k, token]) for k, token in enumerate(ids)
                    )
                gap = max(gap, abs(own - float(found.log_odds[i, j, n])))
    return f"{found.plan.path}, {size(gap)}"


if __name__ == "__main__":
    tyro.cli(main, args=sys.argv[1:])
