"""What does each operator gain, write and come near to at equal cost, beside DiffMean?

    steerlens run experiments/operators.py
    steerlens run experiments/operators.py --contrast reviews/register --ways turn "cache values"

On the reference model, whose ideal is known. It goes on where it was stopped; a finished kind is not
made again. docs/operators.md has its numbers.
"""

import sys
from pathlib import Path

from steerlens.analyses.comparison.operator_ways import OPERATORS
from steerlens.cli import run_file
from steerlens.experiment import ComparisonExperiment

experiment = ComparisonExperiment(
    model="reviews",
    contrast="reviews/sentiment",
    ways=("DiffMean", *OPERATORS, "D-ReFT", "FSRL, SimPO", "vector, SimPO", "vector, DPO"),
    # One operator's multiplier 1 is another one's 10, so the ideal is looked for on a wide range.
    multipliers=(0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
    factors=(0.0, 0.5, 1.0),
    others=(),
    n_report=48,
    n_ideal=48,
    written=32,
    new_tokens=12,
)

if __name__ == "__main__":
    sys.exit(run_file(Path(__file__), sys.argv[1:]))
