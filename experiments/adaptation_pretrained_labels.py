"""Can SmolLM2-135M-Instruct be taught to label reviews? Accuracy of three ways, with what they cost.

    steerlens run experiments/adaptation_pretrained_labels.py

Needs the model (`make pretrained`, 93 MB). Trained on 32 reviews with the right and the wrong label,
scored on 40 others.
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
    contrast=f"{DATA}/review_labels/fit.jsonl",
    questions=f"{DATA}/review_labels/accuracy.jsonl",
    tasks=(f"{DATA}/review_labels",),
    neutral=f"{DATA}/neutral.txt",
    ways=("vector", "LoReFT", "LoRA"),
    layer=15,
    budget=0.4,
    steps=30,
    batch=4,
    factors=(0.0, 1.0),
    n_report=12,
    written=0,
)

if __name__ == "__main__":
    sys.exit(run_file(Path(__file__), sys.argv[1:]))
