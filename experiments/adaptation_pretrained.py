"""Six ways of making SmolLM2-135M-Instruct answer favourably, at equal cost.

    steerlens run experiments/adaptation_pretrained.py

Needs the model (`make pretrained`, 93 MB). Trained on 24 requests with two answers, asked and read on
requests about other things; a list of words reads what is written. The exact distribution that is
wanted is not known, so there is no share to the ideal.
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
    ways=("DiffMean", "prompt(1)", "vector", "adapter", "post-block", "LoRA"),
    layer=15,
    budget=0.4,
    steps=30,
    batch=4,
    factors=(0.0, 0.5, 1.0, 2.0),
    n_report=12,
    written=12,
)

if __name__ == "__main__":
    sys.exit(run_file(Path(__file__), sys.argv[1:]))
