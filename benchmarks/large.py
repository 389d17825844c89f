"""Does a map of a large model fit into main memory, and does a plan foresee its time?

    python benchmarks/large.py                        # Gemma-2-2B's shape, random weights, bfloat16
    python benchmarks/large.py --shape llama-3.1-8b --layers 30 31

A few layers are swept from the last prompt token on, and then their cost is measured on ordinary texts.
The table has seconds of wall time, and the most resident memory of the whole process.
"""

from __future__ import annotations

import sys
import time
import warnings
from typing import Literal

import torch
import tyro
from gpu import COMMON, SHAPES, SPECIAL, Words, build
from worker import resident_bytes

from steerlens import Add, Direction, Model, Positions, Site
from steerlens.data import ContrastSet
from steerlens.measures.divergence import cost_work, divergence
from steerlens.measures.sweep import plan, sweep
from steerlens.models.checkpoints import word_tokenizer
from steerlens.models.speed import speed_of


def main(
    shape: Literal["gemma-2-2b", "llama-3.1-8b"] = "gemma-2-2b",
    layers: tuple[int, ...] = (6, 12, 18, 24),
    multipliers: tuple[float, ...] = (-0.1, 0.05, 0.1),
    questions: int = 8,
    texts: int = 4,
    tokens: int = 40,
    threads: int = 2,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
) -> None:
    """Prints a table.

    Args:
        multipliers: Beside 0, in median norms of the stream.
        texts: Ordinary texts for the cost.
        tokens: Of a prompt, and of an ordinary text.
    """
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    kind = {**COMMON, **SHAPES[shape]}
    start = time.perf_counter()
    words = word_tokenizer([f"w{i}" for i in range(SPECIAL, kind["d_vocab"])])
    made = build(kind, torch.device("cpu"), getattr(torch, dtype), words)
    model, draw = Model(made, shape), Words(kind["d_vocab"])
    model.kernel()
    print(
        f"{shape}, {dtype}, {threads} threads: built and checked in {time.perf_counter() - start:.0f} s"
    )
    asked = ContrastSet("random", tuple(draw.questions(questions, tokens)))
    ordinary = [draw(tokens) for _ in range(texts)]
    norm = model.d_model**0.5
    rows = [
        Add(
            Direction(torch.randn(model.d_model), Site(layer), resid_norm=norm),
            Positions.from_prompt_end(),
        )
        for layer in layers
    ]
    strengths = (0.0, *multipliers)
    speed = speed_of(model)
    said = (
        plan(model, asked, rows, strengths, log_odds_only=True).seconds or 0.0,
        speed.seconds(cost_work(model, ordinary, rows, strengths)),
    )
    print("| part | cells x examples | said before, s | taken, s | said / taken |")
    print("|---|---|---|---|---|")
    cells = len(rows) * len(strengths)
    for name, count, before, run in (
        (
            "sweep",
            questions,
            said[0],
            lambda: sweep(model, asked, rows, strengths, log_odds_only=True).log_odds,
        ),
        ("cost (KL)", texts, said[1], lambda: divergence(model, ordinary, rows, strengths)),
    ):
        start = time.perf_counter()
        found = run()
        taken = time.perf_counter() - start
        assert bool(torch.isfinite(found).all())
        print(
            f"| {name} | {cells * count:,} | {before:.1f} | {taken:.1f} | {before / taken:.2f} |",
            flush=True,
        )
    print(f"\nResident memory at most: {resident_bytes('VmHWM') / 2**30:.1f} GiB.")


if __name__ == "__main__":
    tyro.cli(main, args=sys.argv[1:])
