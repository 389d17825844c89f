"""Plain PyTorch: a forward hook on a block of a Hugging Face model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from contestants.loading import batches, encode, load_huggingface, log_odds
from task import Positions
from torch import Tensor

load = load_huggingface


def _hidden(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def _added(block: torch.nn.Module, shift: Tensor, positions: Positions) -> Iterator[None]:
    start = None if positions == "all" else -1

    def hook(module: torch.nn.Module, inputs: tuple, output: Tensor | tuple) -> None:
        _hidden(output)[:, start:] += shift

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def directions(model_dir: str, pairs: Sequence[tuple[str, str]], *, batch_size: int) -> Tensor:
    model, tokenizer = load(model_dir)
    kept: dict[int, Tensor] = {}
    handles = [
        block.register_forward_hook(
            lambda module, inputs, output, layer=layer: kept.update(
                {layer: _hidden(output)[:, -1].clone()}
            )
        )
        for layer, block in enumerate(model.transformer.h)
    ]
    means = []
    for texts in zip(*pairs, strict=True):
        total = torch.zeros(len(handles), model.config.n_embd)
        for batch in batches(texts, batch_size):
            model(**encode(tokenizer, batch))
            total += torch.stack([kept[layer].sum(0) for layer in range(len(handles))])
        means.append(total / len(texts))
    for handle in handles:
        handle.remove()
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
        grid = torch.empty(len(vectors), len(multipliers), len(batch))
        for layer, vector in enumerate(vectors):
            for i, multiplier in enumerate(multipliers):
                with _added(model.transformer.h[layer], multiplier * vector, positions):
                    logits = model(**inputs).logits[:, -1]
                grid[layer, i] = log_odds(tokenizer, logits, pairs)
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
        with _added(model.transformer.h[layer], multiplier * vector, "all"):
            tokens = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=n_new,
                do_sample=False,
            )
        rows.append(tokens[:, -n_new:])
    return torch.cat(rows)
