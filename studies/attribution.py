"""Which heads and MLPs of SmolLM2-135M-Instruct carry the gains of three contrasts?

    python studies/attribution.py      # some minutes on one core

docs/prediction.md has what it prints. Needs the model (`make pretrained`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import steerlens as sl

DATA = Path(__file__).parents[1] / "experiments" / "data"
CONTRASTS = {"sentiment": 20, "she_he": 24, "weddings": 24}
"""Name of the files, and the layer that is steered."""
BUDGET = 0.1
"""Nats of KL per token that each vector costs on ordinary sentences."""


def main() -> int:
    """Prints what each contrast's components carry."""
    model = sl.Model.load("smollm2-135m-instruct")
    ordinary = (DATA / "neutral.txt").read_text("utf-8").splitlines()[:16]
    for name, layer in CONTRASTS.items():
        fit = sl.ContrastSet.load(DATA / f"{name}_fit.jsonl")
        choose, report = sl.ContrastSet.load(DATA / f"{name}_questions.jsonl").halved(seed=0)
        direction = sl.activations(model, fit, layers=[layer]).direction(layer, sl.DiffMean())
        (length,) = sl.equal_kl(model, [direction], ordinary, kl=BUDGET)
        found = sl.attribute_gain(
            model, choose, report, sl.Add(direction, unit=1.0), float(length), exact=10
        )
        print(f"{name}: {found.summary()}")
        for number in range(len(found.exact)):
            print(f"  {found.held(number)}: {found.interval(number)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
