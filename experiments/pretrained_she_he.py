"""Which layers of SmolLM2-135M-Instruct respond to steering from "he" to "she"?

    steerlens run experiments/pretrained_she_he.py

Needs the model (`make pretrained`). Later blocks work against the vector here, and it turns what is
written all the same.
"""

import os
import sys
from pathlib import Path

from steerlens.cli import run_file
from steerlens.experiment import SteerabilityExperiment

DATA = os.path.relpath(Path(__file__).parent / "data")

experiment = SteerabilityExperiment(
    model="smollm2-135m-instruct",
    contrast=f"{DATA}/she_he_fit.jsonl",
    questions=f"{DATA}/she_he_questions.jsonl",
    neutral=f"{DATA}/neutral.txt",
    layers=(4, 8, 12, 16, 20, 24, 26, 28, 29),
    multipliers=(-1.0, -0.5, 0.0, 0.5, 1.0),
)

if __name__ == "__main__":
    sys.exit(run_file(Path(__file__), sys.argv[1:]))
