"""A gain that writes nothing: "weddings" by system prompt, on SmolLM2-135M-Instruct.

    steerlens run experiments/pretrained_weddings.py

Needs the model (`make pretrained`). The pairs differ in the system turn: one asks to talk about
weddings, the other about computers. The questions ask for the word " wedding" or " computer" in the
assistant's turn. The gain is large and more than chance, and most of it is direct: see
notebooks/05_a_gain_that_writes_nothing.ipynb.
"""

import os
import sys
from pathlib import Path

from steerlens.cli import run_file
from steerlens.experiment import SteerabilityExperiment

DATA = os.path.relpath(Path(__file__).parent / "data")

experiment = SteerabilityExperiment(
    model="smollm2-135m-instruct",
    contrast=f"{DATA}/weddings_fit.jsonl",
    questions=f"{DATA}/weddings_questions.jsonl",
    neutral=f"{DATA}/neutral.txt",
    layers=(4, 8, 12, 16, 20, 24, 26, 28, 29),
    multipliers=(-1.0, -0.5, 0.0, 0.5, 1.0),
)

if __name__ == "__main__":
    sys.exit(run_file(Path(__file__), sys.argv[1:]))
