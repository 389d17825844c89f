"""Which SAE features steer the reference model, against DiffMean and chance, at equal cost?

    steerlens run experiments/sae_features.py --contrast reviews/register

Needs the extra ``steerlens[sae]``. With a model of your own:
``--model … --contrast … --saes RELEASE --sae-ids ID …``, or a folder of SAEs
(`experiments/train_saes.py` trains some).
"""

import sys
from pathlib import Path

from steerlens.cli import run_file
from steerlens.experiment import SAEExperiment

experiment = SAEExperiment()

if __name__ == "__main__":
    sys.exit(run_file(Path(__file__), sys.argv[1:]))
