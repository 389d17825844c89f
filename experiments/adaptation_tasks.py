"""What can each way of adapting the reference model be taught? Five tasks with exact scores.

    steerlens run experiments/adaptation_tasks.py

Labels of reviews, given and new; facts after falsehoods; one edited fact, its paraphrases and other
facts; and style transfer. It goes on where it was stopped; docs/adaptation.md has its numbers.
"""

import sys
from pathlib import Path

from steerlens.cli import run_file
from steerlens.experiment import ComparisonExperiment
from steerlens.experiment.exact_tasks import TASKS

experiment = ComparisonExperiment(
    model="reviews",
    contrast="reviews/register",
    ways=(
        "DiffMean",
        "vector",
        "LoReFT",
        "post-block",
        "LoRA",
        "full weights",
    ),
    tasks=tuple(TASKS),
    steps=120,  # 60 are too few to tell two new labels apart
)

if __name__ == "__main__":
    sys.exit(run_file(Path(__file__), sys.argv[1:]))
