"""Which layers of the reference model respond to steering towards positive sentiment?

steerlens run experiments/sentiment_layers.py
steerlens run experiments/sentiment_layers.py --contrast reviews/register --seed 1
python experiments/sentiment_layers.py --multipliers -0.5 0 0.5
"""

import sys
from pathlib import Path

from steerlens.cli import run_file
from steerlens.experiment import SteerabilityExperiment

experiment = SteerabilityExperiment(model="reviews", contrast="reviews/sentiment")

if __name__ == "__main__":
    sys.exit(run_file(Path(__file__), sys.argv[1:]))
