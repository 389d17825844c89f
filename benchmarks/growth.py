"""How do the seconds of a map grow with its sizes, and does a plan foresee them?

    python benchmarks/growth.py                 # random models, one size varied at a time
    python benchmarks/growth.py --vary prompts layers

For every size a sweep of all layers and a look at the cost of all layers are made, on one thread. The
table has processor seconds of both, resident memory at the most above the model, and what the plan
said beforehand over what it took. Under each group stands the exponent of a power of the size, fitted
to the logarithms; 1 is linear.
"""

from __future__ import annotations

import random
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import tyro
from transformer_lens import HookedTransformer, HookedTransformerConfig
from worker import resident_bytes, start_of_peak

from steerlens import Add, ContrastPair, Direction, Model, Positions
from steerlens.data import ContrastSet
from steerlens.measures.divergence import cost_work, divergence
from steerlens.measures.sweep import plan, sweep
from steerlens.models.checkpoints import word_tokenizer
from steerlens.models.speed import speed_of

Vary = Literal["questions", "multipliers", "layers", "tokens", "vocabulary", "nulls"]
SPECIAL = 4
"""Ids of the tokenizer that are no words."""


@dataclass(frozen=True)
class Size:
    """Of a model and of what is asked of it."""

    questions: int = 16
    multipliers: int = 6
    layers: int = 6
    tokens: int = 32
    """Of a prompt, and of an ordinary text."""
    vocabulary: int = 10_000
    nulls: int = 0
    """Null maps beside the map."""


VALUES: dict[Vary, tuple[int, ...]] = {
    "questions": (8, 16, 32, 64), "multipliers": (2, 4, 8, 16), "layers": (3, 6, 12, 24),
    "tokens": (16, 32, 64, 128, 256), "vocabulary": (5_000, 10_000, 20_000, 40_000, 80_000),
    "nulls": (2, 4, 8, 16),
}  # fmt: skip


def model_of(size: Size) -> Model:
    """A random model."""
    torch.manual_seed(0)
    words = [f"w{i}" for i in range(size.vocabulary - SPECIAL)]
    cfg = HookedTransformerConfig(
        n_layers=size.layers, d_model=256, n_heads=4, d_head=64, d_mlp=1024,
        d_vocab=size.vocabulary, n_ctx=512, act_fn="gelu_new", normalization_type="LN", seed=0,
        device="cpu",
    )  # fmt: skip
    return Model(HookedTransformer(cfg, tokenizer=word_tokenizer(words)))


def timed(size: Size) -> tuple[float, float, float, float]:
    """Processor seconds of the sweep and the cost, MiB, and the plan's seconds over those taken."""
    model, draw = model_of(size), random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{draw.randrange(size.vocabulary - SPECIAL)}" for _ in range(count))

    asked = ContrastSet.from_pairs(
        [ContrastPair(words(size.tokens), f" {words(1)}", f" {words(1)}")
         for _ in range(size.questions)]
    )  # fmt: skip
    texts = [words(size.tokens) for _ in range(8)]
    rule = Positions.from_prompt_end()
    edits = [
        Add(Direction(torch.randn(model.d_model), site, resid_norm=1.0), rule, 1.0)
        for _ in range(1 + size.nulls)
        for site in model.sites()
    ]
    strengths = (0.0, *(0.1 * (k + 1) for k in range(size.multipliers)))
    speed, rows = speed_of(model), edits[: size.layers]
    said = speed.seconds(cost_work(model, texts, rows, strengths))
    said += plan(model, asked, edits, strengths, log_odds_only=True).seconds or 0.0
    before = start_of_peak()
    start = time.process_time()
    sweep(model, asked, edits, strengths, log_odds_only=True, progress=False)
    middle = time.process_time()
    divergence(model, texts, rows, strengths, progress=False)
    end = time.process_time()
    memory = 0.0 if before is None else (resident_bytes("VmHWM") - before) / 2**20
    return middle - start, end - middle, memory, said / (end - start)


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Of a power law, by least squares in the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def main(vary: tuple[Vary, ...] = tuple(VALUES)) -> None:
    """Prints a table.

    Args:
        vary: Which sizes.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    timed(Size())  # a warm-up
    print("| varied | sweep, s | cost, s | memory, MiB | plan / taken |")
    print("|---|---|---|---|---|")
    for name in vary:
        found = []
        for value in VALUES[name]:
            row = timed(replace(Size(), **{name: value}))
            found.append(row)
            print(
                f"| {name} {value:,} | {row[0]:.2f} | {row[1]:.2f} | {row[2]:.0f} | {row[3]:.2f} |",
                flush=True,
            )
        sizes = [value + (name == "nulls") for value in VALUES[name]]
        swept, cost = (exponent(sizes, [row[k] for row in found]) for k in (0, 1))
        print(f"| exponent | {swept:.2f} | {cost:.2f} | | |", flush=True)


if __name__ == "__main__":
    tyro.cli(main, args=sys.argv[1:])
