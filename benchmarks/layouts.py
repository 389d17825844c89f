"""Would weights of another layout, or of half precision, be faster?

    python benchmarks/layouts.py                # shapes of SmolLM2-135M and of GPT-2 small
    python benchmarks/layouts.py --threads 2

Products of a few rows with the weights of a block and with the unembedding. The weights are as
TransformerLens stores them (in x out), a transposed copy, or in bfloat16. The shortest of many times
counts, and the three are timed in turn, so that other work disturbs all of them alike.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import tyro

SHAPES = {
    "SmolLM2-135M": [(576, 960), (576, 576), (576, 3072), (1536, 576), (576, 49152)],
    "GPT-2 small": [(768, 2304), (768, 768), (768, 3072), (3072, 768), (768, 50257)],
}
"""Queries, keys and values; output of attention; into and out of the MLP; unembedding."""
LEAST = 2e8
"""Multiply-adds of one timing at least."""


@torch.no_grad()
def main(
    threads: int = 1, rows: tuple[int, ...] = (1, 4, 16, 32, 64, 128), repeats: int = 25
) -> None:
    """Prints, for each shape, the rate as stored and how many times as fast the others are.

    Args:
        threads: Of torch.
        rows: Rows of the left factor, the tokens of a step.
        repeats: Timings of each.
    """
    torch.set_num_threads(threads)
    print(f"| model | in x out | {' | '.join(f'{n} rows' for n in rows)} |")
    print("|---|---|" + "---|" * len(rows))
    for model, shapes in SHAPES.items():
        for inner, columns in shapes:
            weight = torch.randn(inner, columns) / inner**0.5
            turned, half = weight.T.contiguous().T, weight.bfloat16()
            cells = []
            for n in rows:
                x = torch.randn(n, inner)
                low, work = x.bfloat16(), n * inner * columns
                seconds = fastest(
                    [partial(torch.mm, *each) for each in ((x, weight), (x, turned), (low, half))],
                    max(1, int(LEAST / work)), repeats,
                )  # fmt: skip
                stored, copied, rounded = seconds
                cells.append(
                    f"{work / stored / 1e9:.0f} G/s, {stored / copied:.2f}, {stored / rounded:.2f}"
                )
            print(f"| {model} | {inner} x {columns} | {' | '.join(cells)} |", flush=True)


def fastest(products: list[Callable[[], object]], times: int, repeats: int) -> list[float]:
    """Seconds of each product at best."""
    best = [float("inf")] * len(products)
    for _ in range(repeats + 1):  # the first time of each includes a warm-up
        for k, product in enumerate(products):
            start = time.perf_counter()
            for _ in range(times):
                product()
            best[k] = min(best[k], (time.perf_counter() - start) / times)
    return best


if __name__ == "__main__":
    tyro.cli(main, args=sys.argv[1:])
