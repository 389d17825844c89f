"""Operators on SmolLM2-135M-Instruct at equal cost: what they gain on favourable answers, and write.

    steerlens run experiments/operators_pretrained.py

Needs the model (`make pretrained`, 93 MB). Data and layer are those of adaptation_pretrained.py, with
fewer examples. The exact distribution that is wanted is not known, so there is no share to the ideal.
docs/operators.md has its numbers.
"""

import os
import sys
from pathlib import Path

from steerlens.cli import run_file
from steerlens.experiment import ComparisonExperiment

DATA = os.path.relpath(Path(__file__).parent / "data")

experiment = ComparisonExperiment(
    model="smollm2-135m-instruct",
    chat=True,
    contrast=f"{DATA}/sentiment_fit.jsonl",
    training=f"{DATA}/adaptation_fit.jsonl",
    questions=f"{DATA}/adaptation_questions.jsonl",
    words=f"{DATA}/valence_words.json",
    neutral=f"{DATA}/neutral.txt",
    ways=(
        "DiffMean",
        "turn",
        "clamp",
        "SADI heads",
        "cache values",
        "condition",
        "knob",
        "stack",
        "D-ReFT",
    ),
    layer=15,
    budget=0.4,
    steps=16,
    batch=4,
    factors=(0.0, 1.0),
    n_report=10,
    n_neutral=12,
    written=10,
    new_tokens=10,
)

if __name__ == "__main__":
    sys.exit(run_file(Path(__file__), sys.argv[1:]))
