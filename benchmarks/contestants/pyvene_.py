"""pyvene: `IntervenableModel` with collecting, and with adding a constant source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyvene
import torch
from contestants.loading import batches, encode, load_huggingface, log_odds
from task import Positions
from torch import Tensor

load = load_huggingface


def _adding(model: Any, layer: int, shift: Tensor) -> pyvene.IntervenableModel:
    return pyvene.IntervenableModel(
        {
            "layer": layer,
            "component": "block_output",
            "intervention_type": pyvene.AdditionIntervention,
            "source_representation": shift,
        },
        model,
    )


@torch.no_grad()
def directions(model_dir: str, pairs: Sequence[tuple[str, str]], *, batch_size: int) -> Tensor:
    model, tokenizer = load(model_dir)
    n_layers = model.config.n_layer
    collecting = pyvene.IntervenableModel(
        [
            {
                "layer": layer,
                "component": "block_output",
                "intervention_type": pyvene.CollectIntervention,
            }
            for layer in range(n_layers)
        ],
        model,
    )
    means = []
    for texts in zip(*pairs, strict=True):
        total = torch.zeros(n_layers, model.config.n_embd)
        for batch in batches(texts, batch_size):
            inputs = encode(tokenizer, batch)
            last = inputs["input_ids"].shape[1] - 1
            (_, collected), _ = collecting(base=inputs, unit_locations={"base": last})
            rows = torch.stack(list(collected)).reshape(n_layers, len(batch), -1)
            total += rows.sum(1)
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
    model, tokenizer = load(model_dir)
    columns = []
    for batch, pairs in zip(
        batches(prompts, batch_size), batches(answers, batch_size), strict=True
    ):
        inputs = encode(tokenizer, batch)
        last = inputs["input_ids"].shape[1] - 1
        where = None if positions == "all" else {"base": last}
        grid = torch.empty(len(vectors), len(multipliers), len(batch))
        for layer, vector in enumerate(vectors):
            for i, multiplier in enumerate(multipliers):
                steered = _adding(model, layer, multiplier * vector)
                _, output = steered(base=inputs, unit_locations=where)
                grid[layer, i] = log_odds(tokenizer, output.logits[:, -1], pairs)
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
    model, tokenizer = load(model_dir)
    rows = []
    for batch in batches(prompts, batch_size):
        inputs = tokenizer(list(batch), return_tensors="pt", padding=True)
        steered = _adding(model, layer, multiplier * vector)
        # No unit_locations and intervene_on_prompt=True: every position of every step.
        _, tokens = steered.generate(
            {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]},
            unit_locations=None,
            intervene_on_prompt=True,
            max_new_tokens=n_new,
            do_sample=False,
        )
        rows.append(tokens[:, -n_new:])
    return torch.cat(rows)
