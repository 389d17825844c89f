"""Which way of adapting the reference model is best: steering, adapters, weights, or a prompt?

steerlens run experiments/adaptation.py
steerlens run experiments/adaptation.py --contrast reviews/sentiment --ways DiffMean adapter LoRA
"""

import sys
from pathlib import Path

from steerlens.cli import run_file
from steerlens.experiment import ComparisonExperiment

experiment = ComparisonExperiment(model="reviews", contrast="reviews/register")

if __name__ == "__main__":
    sys.exit(run_file(Path(__file__), sys.argv[1:]))
