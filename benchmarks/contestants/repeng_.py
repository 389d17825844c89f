"""repeng: `ControlVector.train`, then `ControlModel.set_control(vector, coeff=...)`.

Its estimator is the first principal component of the differences, so its directions are compared
with nobody's. It reads layer l from `hidden_states[l + 1]`, which for the last layer is the
residual stream *after* the final norm, another place than the others read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from contestants.loading import batches, encode, load_huggingface, log_odds
from repeng import ControlModel, ControlVector, DatasetEntry
from task import Positions
from torch import Tensor

load = load_huggingface


@contextmanager
def _control(model: Any, layer: int) -> Iterator[ControlModel]:
    control = ControlModel(model, [layer])
    try:
        yield control
    finally:
        control.unwrap()


def _last_position(current: Tensor, control: Tensor) -> Tensor:
    steered = current.clone()
    steered[:, -1:] += control
    return steered


def directions(model_dir: str, pairs: Sequence[tuple[str, str]], *, batch_size: int) -> Tensor:
    model, tokenizer = load(model_dir)
    # It passes no positions to the model, so texts of unequal length have to be padded right.
    tokenizer.padding_side = "right"
    layers = list(range(model.config.n_layer))
    vector = ControlVector.train(
        model,
        tokenizer,
        [DatasetEntry(positive=positive, negative=negative) for positive, negative in pairs],
        hidden_layers=layers,
        batch_size=batch_size,
        method="pca_diff",
    )
    tokenizer.padding_side = "left"
    return torch.stack([torch.from_numpy(vector.directions[layer]) for layer in layers])


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
    options = {} if positions == "all" else {"operator": _last_position}
    columns = []
    for batch, pairs in zip(
        batches(prompts, batch_size), batches(answers, batch_size), strict=True
    ):
        inputs = encode(tokenizer, batch)
        grid = torch.empty(len(vectors), len(multipliers), len(batch))
        for layer, direction in enumerate(vectors):
            vector = ControlVector("gpt2", {layer: direction.numpy()})
            with _control(model, layer) as control:
                for i, multiplier in enumerate(multipliers):
                    control.set_control(vector, coeff=multiplier, **options)
                    logits = control(**inputs).logits[:, -1]
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
        with _control(model, layer) as control:
            control.set_control(ControlVector("gpt2", {layer: vector.numpy()}), coeff=multiplier)
            tokens = control.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=n_new,
                do_sample=False,
            )
        rows.append(tokens[:, -n_new:])
    return torch.cat(rows)
