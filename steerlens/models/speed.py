"""How long work takes on this machine: a count of what is computed, and the measured time of each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from steerlens.models.kernel import Columns
from steerlens.models.model import Model
from steerlens.models.products import products_of
from steerlens.sites import TokenBatch

FEW, MANY = (2, 8), (32, 16)
"""Texts and tokens of the two batches that are timed."""
BLOCKS, ROWS, REPEATS = 2, 64, 3
"""Blocks that are timed at once, states that are read out at once, and how often."""


@dataclass(frozen=True)
class Work:
    """What is computed, in parts that take time by themselves. Works add up."""

    blocks: float = 0.0
    """Runs of a block, of however many tokens."""
    tokens: float = 0.0
    """Tokens x blocks."""
    pairs: float = 0.0
    """Tokens x the tokens that each attends to x blocks."""
    states: float = 0.0
    """States of which the logits of the whole vocabulary are computed."""

    def __add__(self, other: Work) -> Work:
        return Work(
            self.blocks + other.blocks,
            self.tokens + other.tokens,
            self.pairs + other.pairs,
            self.states + other.states,
        )

    def __mul__(self, times: float) -> Work:
        return Work(
            self.blocks * times, self.tokens * times, self.pairs * times, self.states * times
        )


NOTHING = Work()


def passes(n_layers: int, rows: float, width: float, batches: float = 1.0) -> Work:
    """Forward passes of texts without padding, without the logits.

    Args:
        rows: Texts.
        width: Tokens of each.
        batches: How many batches they are run in.
    """
    tokens = n_layers * rows * width
    return Work(n_layers * batches, tokens, tokens * (width + 1) / 2)


def writing_steps(
    n_layers: int, rows: float, prompt: float, new: float, batches: float = 1.0
) -> Work:
    """Texts that are written token by token with a cache."""
    tokens = n_layers * rows * max(0.0, new - 1)
    steps = Work(
        n_layers * batches * max(0.0, new - 1), tokens, tokens * (prompt + new / 2), rows * new
    )
    return passes(n_layers, rows, prompt, batches) + steps


@dataclass(frozen=True)
class Speed:
    """Seconds of each part of `Work` for one model on this machine, as it was when measured."""

    block: float
    token: float
    pair: float
    state: float

    def seconds(self, work: Work) -> float:
        """About how long some work takes."""
        return (
            work.blocks * self.block
            + work.tokens * self.token
            + work.pairs * self.pair
            + work.states * self.state
        )


_KNOWN: WeakKeyDictionary[Any, dict[str | None, Speed]] = WeakKeyDictionary()


@torch.no_grad()
def speed_of(model: Model, products: str | None = None) -> Speed:
    """The speed of a model, measured once: two blocks at two sizes, and one read-out.

    Args:
        products: The precision of the products with the blocks' weights; by default their own.
    """
    known = _KNOWN.setdefault(model.wrapped, {})
    if products not in known:
        known[products] = _measured(model, products_of(model, products))
    return known[products]


def _measured(model: Model, products: torch.dtype | None) -> Speed:
    few, many = (_block_seconds(model, _batch(model, *size), products) for size in (FEW, MANY))
    small, large = FEW[0] * FEW[1], MANY[0] * MANY[1]
    token = max(many - few, 0.5 * many) / (large - small)
    cfg = model.cfg
    queries, keys = cfg.n_heads * cfg.d_head, (cfg.n_key_value_heads or cfg.n_heads) * cfg.d_head
    inner = 0 if getattr(cfg, "attn_only", False) else (cfg.d_mlp or 0) * (2 + cfg.gated_mlp)
    weights = cfg.d_model * (2 * queries + 2 * keys + inner)
    states = torch.randn(ROWS, cfg.d_model, device=model.device)
    read = least_seconds(lambda: model.readout.log_normaliser(states, 2**30), model.device)
    return Speed(
        block=max(few - small * token, 0.0),
        token=token,
        pair=token * 2 * queries / weights,
        state=read / ROWS,
    )


def _batch(model: Model, rows: int, width: int) -> TokenBatch:
    width = min(width, model.n_ctx)
    tokens = torch.arange(rows * width, device=model.device).view(rows, width) % model.cfg.d_vocab
    real = torch.ones_like(tokens, dtype=torch.bool)
    return TokenBatch(tokens, real, ~real, torch.full((rows,), width, device=model.device))


def _block_seconds(model: Model, batch: TokenBatch, products: torch.dtype | None) -> float:
    """Seconds of one block on a batch."""
    kernel, blocks = model.kernel(products=products), min(BLOCKS, model.n_layers)
    if kernel is None:
        return least_seconds(lambda: model.states(batch), model.device) / model.n_layers
    columns = Columns.of(batch)
    resid = kernel.embed(batch.tokens[:, None], columns.positions)
    return least_seconds(lambda: kernel.climb(resid, columns, top=blocks), model.device) / blocks


def least_seconds(run: Callable[[], Tensor], device: torch.device) -> float:
    """Seconds of a call, the least of some."""
    run()
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - start)
    return min(found)
