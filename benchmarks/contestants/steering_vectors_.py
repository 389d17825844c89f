"""steering-vectors: `train_steering_vector`, then `vector.apply(model, multiplier=...)`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from contestants.loading import batches, encode, load_huggingface, log_odds
from steering_vectors import SteeringVector, train_steering_vector
from task import Positions
from torch import Tensor

load = load_huggingface


def directions(model_dir: str, pairs: Sequence[tuple[str, str]], *, batch_size: int) -> Tensor:
    model, tokenizer = load(model_dir)
    # It passes no positions to the model, so texts of unequal length have to be padded right.
    tokenizer.padding_side = "right"
    vector = train_steering_vector(
        model, tokenizer, list(pairs), read_token_index=-1, batch_size=batch_size
    )
    tokenizer.padding_side = "left"
    return torch.stack([vector.layer_activations[i] for i in range(model.config.n_layer)])


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
        start = 0 if positions == "all" else inputs["input_ids"].shape[1] - 1
        grid = torch.empty(len(vectors), len(multipliers), len(batch))
        for layer, vector in enumerate(vectors):
            steering = SteeringVector({layer: vector})
            for i, multiplier in enumerate(multipliers):
                with steering.apply(model, multiplier=multiplier, min_token_index=start):
                    logits = model(**inputs).logits[:, -1]
                grid[layer, i] = log_odds(tokenizer, logits, pairs)
        columns.append(grid)
    return torch.cat(columns, -1)


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
        with SteeringVector({layer: vector}).apply(model, multiplier=multiplier):
            tokens = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=n_new,
                do_sample=False,
            )
        rows.append(tokens[:, -n_new:])
    return torch.cat(rows)
