"""How fast is a sweep of a TransformerBridge? Beside a loop over Hugging Face's own model.

    python benchmarks/bridges.py                               # three shapes, some minutes
    python benchmarks/bridges.py --shapes "Qwen3 0.6B" --layers 4

Models with random weights at the shape of published ones, vocabulary included, two of which exist as
bridges only. Ten layers x six multipliers x eight prompts of 40 tokens, with the log-odds of two
one-token answers, steering at all tokens or from the last prompt token on. Processor seconds of one
thread, and how many times as fast as the loops the sweeps are:

loop       one hook of PyTorch on a block and one forward pass of all prompts for each cell, as
           `model(tokens).logits[:, -1]`; some cells are timed, and the time of all is computed from
           theirs
tuned      the same, with `logits_to_keep=1`
rows       a sweep in which every cell is a row of one batch
replay     a sweep by the model's own blocks, one by one
"""

from __future__ import annotations

import sys
import time
import warnings
from typing import Any
from unittest.mock import patch

import torch
import transformers
import tyro

import steerlens as sl
from steerlens.data import ContrastPair
from steerlens.models.checkpoints import bridge_from_hf, word_tokenizer
from steerlens.models.model import Model
from steerlens.sites import Positions, Site

COMMON = {"max_position_embeddings": 128, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
SHAPES = {
    "Gemma 3 270M": (
        transformers.Gemma3TextConfig,
        transformers.Gemma3ForCausalLM,
        {
            "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18,
            "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
            "query_pre_attn_scalar": 256, "sliding_window": 512, "vocab_size": 262_144,
        },
    ),
    "Qwen3 0.6B": (
        transformers.Qwen3Config,
        transformers.Qwen3ForCausalLM,
        {
            "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
            "vocab_size": 151_936,
        },
    ),
    "SmolLM2 135M": (
        transformers.LlamaConfig,
        transformers.LlamaForCausalLM,
        {
            "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49_152,
        },
    ),
}  # fmt: skip
"""Widths, depths and vocabularies as in the models' published configs; the tokens are words."""
MULTIPLIERS = (-1.0, -0.5, -0.25, 0.25, 0.5, 1.0)
WORDS = 4096
"""How many of the vocabulary the prompts are made of."""
SPECIAL = 4
"""Ids of the tokenizer that are no words."""
TOKENS = 40


def main(
    shapes: tuple[str, ...] = tuple(SHAPES), layers: int = 10, prompts: int = 8, cells: int = 6,
    repeats: int = 2,
) -> None:  # fmt: skip
    """Prints a table.

    Args:
        layers: How many layers are swept, spread evenly.
        cells: How many cells the loop is timed on.
    """
    transformers.utils.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(
        "| shape | steering | loop, s | tuned loop, s | replay, s | over the loop | over the tuned "
        "loop | rows over the tuned loop | largest difference, nats |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in shapes:
        config_class, model_class, sizes = SHAPES[name]
        tokenizer = word_tokenizer([f"word{n}" for n in range(sizes["vocab_size"] - SPECIAL)])
        torch.manual_seed(0)
        config = config_class(**COMMON, **sizes)
        hf_model = model_class(config).eval()
        pairs, vectors = work(config, layers, prompts)
        few = [(list(vectors)[k % layers], MULTIPLIERS[k % 6]) for k in range(cells)]
        rules = {
            "last token": Positions.from_prompt_end(),
            "all tokens": Positions.all(special=True),
        }
        # Before the bridge is made: it takes the place of the model's blocks.
        looped = {
            (rule, tuned): by_loop(
                hf_model, tokenizer, pairs, vectors, few,
                last=rule == "last token", more={"logits_to_keep": 1} if tuned else {},
            )
            for rule in rules
            for tuned in (False, True)
        }  # fmt: skip
        model = Model(bridge_from_hf(hf_model, tokenizer, name=name))
        for rule, positions in rules.items():
            arms = [
                sl.Add(direction(site, vector), positions=positions, unit="direction")
                for site, vector in vectors.items()
            ]
            _, values = looped[rule, True]
            loop, tuned = (
                looped[rule, is_tuned][0] * layers * len(MULTIPLIERS) / cells
                for is_tuned in (False, True)
            )
            replayed, swept = by_sweep(model, pairs, arms, repeats)
            with patch.object(Model, "replay", lambda self: None):
                rows, other = by_sweep(model, pairs, arms, 1)
            assert (swept.plan.path, other.plan.path) == ("replay", "rows")
            gap = max(
                float((swept.log_odds[k % layers, MULTIPLIERS.index(m)] - found).abs().max())
                for k, ((_, m), found) in enumerate(zip(few, values, strict=True))
            )
            print(
                f"| {name} | {rule} | {loop:.1f} | {tuned:.1f} | {replayed:.2f} | "
                f"{loop / replayed:.1f}x | {tuned / replayed:.1f}x | {tuned / rows:.1f}x | {gap:.1e} |",
                flush=True,
            )


def work(
    config: Any, layers: int, prompts: int
) -> tuple[list[ContrastPair], dict[Site, torch.Tensor]]:
    """Random prompts with two answers, and a random vector of a tenth of the width's length."""
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(WORDS, (prompts, TOKENS + 1), generator=generator).tolist()
    pairs = [
        ContrastPair(" ".join(f"word{k}" for k in row[:-2]), f" word{row[-2]}", f" word{row[-1]}")
        for row in drawn
    ]
    where = torch.linspace(0, config.num_hidden_layers - 2, layers).round().int().tolist()
    vectors = {Site(n): torch.randn(config.hidden_size, generator=generator) / 10 for n in where}
    return pairs, vectors


def direction(site: Site, vector: torch.Tensor) -> sl.Direction:
    return sl.Direction(vector, site, processing="raw")


@torch.no_grad()
def by_loop(
    hf_model: Any,
    tokenizer: Any,
    pairs: list[ContrastPair],
    vectors: dict[Site, torch.Tensor],
    few: list[tuple[Site, float]],
    last: bool,
    more: dict[str, Any],
) -> tuple[float, list[torch.Tensor]]:
    """Processor seconds and log-odds of some cells, each by one hooked pass of all prompts.

    Args:
        more: Options of the forward pass.
    """
    ids = [[2, *tokenizer(pair.prompt, add_special_tokens=False)["input_ids"]] for pair in pairs]
    answers = [
        [
            tokenizer(one, add_special_tokens=False)["input_ids"][0]
            for one in (p.positive, p.negative)
        ]
        for p in pairs
    ]
    tokens, rows = torch.tensor(ids), torch.arange(len(ids))
    positive, negative = torch.tensor(answers).T
    hf_model(tokens, **more)  # the first pass allocates
    found, start = [], time.process_time()
    for site, multiplier in few:
        push = multiplier * vectors[site]

        def add(module: Any, args: Any, out: Any, push: torch.Tensor = push) -> Any:
            stream = out[0] if isinstance(out, tuple) else out
            stream[:, -1 if last else slice(None)] += push

        handle = hf_model.model.layers[site.layer].register_forward_hook(add)
        logits = hf_model(tokens, **more).logits[:, -1]
        handle.remove()
        found.append(logits[rows, positive] - logits[rows, negative])
    return time.process_time() - start, found


def by_sweep(
    model: Model, pairs: list[ContrastPair], arms: list[sl.Add], repeats: int
) -> tuple[float, Any]:
    """The least processor seconds of a sweep, and the last one."""
    sl.sweep(model, pairs[:1], arms[:1], [1.0], progress=False)  # compares the replay, once
    found = []
    for _ in range(repeats):
        start = time.process_time()
        swept = sl.sweep(model, pairs, arms, MULTIPLIERS, log_odds_only=True, progress=False)
        found.append(time.process_time() - start)
    return min(found), swept


if __name__ == "__main__":
    tyro.cli(main, args=sys.argv[1:])
