"""The arithmetic floor: multiply-adds of the smartest schedule over the machine's matmul rate.

Run as `python benchmarks/floor.py D_MODEL D_VOCAB` it prints the measured rates as JSON.

Counted are the multiplications by weight matrices, attention's two products with causal lengths,
and the read-out. Not counted are norms, activations, softmax, additions and memory traffic, so no
program reaches the floor.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Multiply-adds for a block and its read-out, per text of `t` tokens; GPT-2's by default."""

    n_layers: int
    d_model: int
    d_vocab: int
    queries: int = 0
    """Heads times their width; by default d_model."""
    keys: int = 0
    """Key heads times their width; by default as many as queries."""
    d_mlp: int = 0
    """By default 4 d_model."""
    gated: bool = False

    @property
    def _queries(self) -> int:
        return self.queries or self.d_model

    @property
    def _keys(self) -> int:
        return self.keys or self._queries

    @property
    def weights(self) -> float:
        """The matrices of one block: 4 d^2 in attention and 8 d^2 in the MLP of GPT-2."""
        mlp = (3 if self.gated else 2) * self.d_model * (self.d_mlp or 4 * self.d_model)
        return 2 * self.d_model * (self._queries + self._keys) + mlp

    def block(self, t: int) -> float:
        """All tokens through one block, with causal attention."""
        return self.weights * t + self._queries * t * (t + 1)

    def one_token(self, t: int) -> float:
        """One token through one block, seeing `t` tokens."""
        return self.weights + 2 * self._queries * t

    def last_block(self, t: int) -> float:
        """One block when only the last token's output is wanted: keys and values of the others."""
        return 2 * self.d_model * self._keys * (t - 1) + self.one_token(t)

    def directions(self, t: int) -> float:
        """One text, its last token at every layer: n-1 whole blocks, the last for one token."""
        return (self.n_layers - 1) * self.block(t) + self.last_block(t)

    def sweep_all(self, t: int, strengths: int) -> float:
        """One prompt, all positions: block b carries the unsteered row and `strengths` rows for
        each of the b layers below it; the last block only makes the last token."""
        n = self.n_layers
        rows = sum(1 + strengths * b for b in range(n - 1))
        readout = 2 * self.d_model * (1 + strengths * n)
        return rows * self.block(t) + (1 + strengths * (n - 1)) * self.last_block(t) + readout

    def sweep_last(self, t: int, strengths: int) -> float:
        """One prompt, last position: one prefill, then one token per row on its keys and values."""
        n = self.n_layers
        rows = sum(strengths * b for b in range(n))
        readout = 2 * self.d_model * (1 + strengths * n)
        return self.directions(t) + rows * self.one_token(t) + readout

    def cost(self, t: int, new: int, strengths: int) -> float:
        """One text, the last `new` tokens edited and read with the whole vocabulary: the others
        once, then the new ones of every row on their keys and values."""
        n = self.n_layers
        rows = 1 + strengths * n
        own = sum(self.one_token(length) for length in range(t - new + 1, t + 1))
        prefix = self.directions(t - new) if t > new else 0.0
        unembedding = rows * new * self.d_model * self.d_vocab
        return prefix + (n + strengths * n * (n - 1) / 2) * own + unembedding

    def prefill(self, t: int) -> float:
        """One prompt up to its first new token."""
        return self.directions(t) + self.d_model * self.d_vocab

    def decode(self, t: int, n_new: int) -> tuple[float, float]:
        """One prompt, the other new tokens, with a cache: (blocks, unembedding)."""
        steps = range(t + 1, t + n_new)
        blocks = sum(self.n_layers * self.one_token(length) for length in steps)
        return blocks, len(steps) * self.d_model * self.d_vocab


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Multiply-adds per second of process time, float32, one thread: the best of some repeats."""

    many_rows: float
    """At the best of several large numbers of rows."""
    few_rows: float
    """16 rows, the MLP's shape."""
    unembed: float
    """16 rows, the unembedding's shape."""


def measure_rates(d_model: int, d_vocab: int) -> Rates:
    torch.set_num_threads(1)

    def rate(rows: int, inner: int, columns: int, repeats: int = 9) -> float:
        left, right = torch.randn(rows, inner), torch.randn(columns, inner).T
        best = 0.0
        for _ in range(repeats):
            times = max(1, int(2e8 / (rows * inner * columns)))
            start = time.process_time()
            for _ in range(times):
                left @ right
            best = max(best, times * rows * inner * columns / (time.process_time() - start))
        return best

    shapes = ((d_model, 4 * d_model), (4 * d_model, d_model), (d_model, d_model))
    return Rates(
        many_rows=max(rate(rows, *shape) for rows in (320, 1280, 4096) for shape in shapes),
        few_rows=max(rate(16, *shape) for shape in shapes),
        unembed=rate(16, d_model, d_vocab, repeats=5),
    )


if __name__ == "__main__":
    print(json.dumps(vars(measure_rates(int(sys.argv[1]), int(sys.argv[2])))))
