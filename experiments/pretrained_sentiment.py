"""Which layers of SmolLM2-135M-Instruct respond to steering towards positive sentiment?

    make demo-pretrained
    steerlens run experiments/pretrained_sentiment.py

Needs the model (`make pretrained`, 93 MB). Directions from 24 pairs of sentences at all 30 layers,
asked on 24 + 24 other questions.
"""

import os
import sys
from pathlib import Path

from steerlens.cli import run_file
from steerlens.experiment import SteerabilityExperiment

DATA = os.path.relpath(Path(__file__).parent / "data")

experiment = SteerabilityExperiment(
    model="smollm2-135m-instruct",
    contrast=f"{DATA}/sentiment_fit.jsonl",
    questions=f"{DATA}/sentiment_questions.jsonl",
    neutral=f"{DATA}/neutral.txt",
    multipliers=(-1.0, -0.5, 0.0, 0.5, 1.0),
    written_layers=(10, 20, 28),
)

if __name__ == "__main__":
    sys.exit(run_file(Path(__file__), sys.argv[1:]))
