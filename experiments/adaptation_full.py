"""Eleven ways of adapting the reference model, on three concepts, each made three times.

    steerlens run experiments/adaptation_full.py

It goes on where it was stopped; docs/adaptation.md has its numbers.
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
    ),  # fmt: skip
    repeats=3,
)

if __name__ == "__main__":
    sys.exit(run_file(Path(__file__), sys.argv[1:]))
