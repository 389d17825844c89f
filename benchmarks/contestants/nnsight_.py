"""nnsight: edits written inside `model.trace(...)` and `model.generate(...)`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from contestants.loading import batches, load_huggingface, log_odds
from nnsight import TransformersModel, save
from task import Positions
from torch import Tensor


@cache
def load(model_dir: str) -> Any:
    model, tokenizer = load_huggingface(model_dir)
    return TransformersModel(model, tokenizer=tokenizer, task="text-generation")


@torch.no_grad()
def directions(model_dir: str, pairs: Sequence[tuple[str, str]], *, batch_size: int) -> Tensor:
    model = load(model_dir)
    n_layers = model.config.n_layer
    means = []
    for texts in zip(*pairs, strict=True):
        total = torch.zeros(n_layers, model.config.n_embd)
        for batch in batches(texts, batch_size):
            with model.trace(list(batch)):
                kept = save([])
                for layer in range(n_layers):
                    # transformers below 5 returns a tuple from a block
                    kept.append(model.transformer.h[layer].output[0][:, -1])
            total += torch.stack([rows.sum(0) for rows in kept])
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
    start = None if positions == "all" else -1
    columns = []
    for batch, pairs in zip(
        batches(prompts, batch_size), batches(answers, batch_size), strict=True
    ):
        texts = list(batch)
        grid = torch.empty(len(vectors), len(multipliers), len(batch))
        for layer, vector in enumerate(vectors):
            for i, multiplier in enumerate(multipliers):
                with model.trace(texts):
                    model.transformer.h[layer].output[0][:, start:] += multiplier * vector
                    logits = model.lm_head.output[:, -1].save()
                grid[layer, i] = log_odds(model.tokenizer, logits, pairs)
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
    shift = multiplier * vector
    rows = []
    for batch in batches(prompts, batch_size):
        with model.generate(list(batch), max_new_tokens=n_new, do_sample=False) as tracer:
            for _step in tracer.iter[:n_new]:
                model.transformer.h[layer].output[0][:] += shift
            tokens = tracer.result.save()
        rows.append(tokens[:, -n_new:])
    return torch.cat(rows)
