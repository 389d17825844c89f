"""Fourteen ways of adapting the reference model, on three concepts, each made three times.

    steerlens run experiments/adaptation_full.py

Three of them are operators: a learned vector that is patched (clamp), gradient-guided nudging (nudge),
and a mask that depends on the prompt (SADI heads). It goes on where it was stopped; docs/adaptation.md
says what it measures.
"""

import sys
from pathlib import Path

from steerlens.cli import run_file
from steerlens.experiment import ComparisonExperiment

experiment = ComparisonExperiment(
    model="reviews",
    contrast="reviews/register",
    also=("reviews/sentiment", "reviews/truth"),
    ways=(
        "DiffMean",
        "prompt",
        "vector",
        "vector, SPLIT",
        "LoReFT",
        "adapter",
        "post-block",
        "LoRA",
        "full weights",
        "joint",
        "adapter, ideal",
        "clamp",
        "nudge",
        "SADI heads",
    ),  # fmt: skip
    # Operators reach further at larger multipliers than what was trained for 1.
    multipliers=(0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0),
    repeats=3,
)

if __name__ == "__main__":
    sys.exit(run_file(Path(__file__), sys.argv[1:]))
