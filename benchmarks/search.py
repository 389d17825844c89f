"""What does a search for the cell to steer at cost, beside a map of every layer, and what does it lose?

    python benchmarks/search.py                                # the reference model, three concepts
    python benchmarks/search.py --model smollm2-135m-instruct  # the contrasts of experiments/data

Both take the same data and the same strengths, without null maps. Processor seconds of one thread,
activations included and the ordinary texts not, on both sides. The gain is on held-out questions.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

import torch
import tyro

import steerlens as sl
from steerlens.experiment.experiment_data import load_data
from steerlens.measures.ordinary_texts import given_or_written
from steerlens.store.cells import cells_or_none
from steerlens.testbed.grammar import CONCEPTS

DATA = Path(__file__).parents[1] / "experiments" / "data"


def main(model: str = "reviews", share: float = 0.1, questions: int = 24, fit: int = 48) -> None:
    """Prints a table.

    Args:
        share: Part of the layers that the search maps.
        questions: To choose on, and as many to report on.
        fit: Pairs to fit directions on.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    loaded = sl.Model.load(model)
    contrasts = (
        [(f"reviews/{name}", None) for name in CONCEPTS]
        if model == "reviews"
        else [
            (f"{DATA}/{name}_fit.jsonl", f"{DATA}/{name}_questions.jsonl")
            for name in ("sentiment", "she_he")
        ]
    )
    print("| contrast | map, s | search, s | share | map: cell, gain | search: cell, gain |")
    print("|---|---|---|---|---|---|")
    for contrast, asked in contrasts:
        data = load_data(contrast, asked, (fit, questions, questions), 64, 0)
        texts, _ = given_or_written(loaded, data.neutral or 64, 0, cells_or_none(None, "", False))
        options = {"neutral": texts, "nulls": 0, "progress": False}
        start = time.process_time()
        whole = sl.steerability(loaded, data.fit, data.choose, data.report, **options)
        middle = time.process_time()
        found = sl.find_cell(loaded, data.fit, data.choose, data.report, share=share, **options)
        mapping, searching = middle - start, time.process_time() - middle
        cells = [
            "none"
            if one.chosen is None or one.confirmation is None
            else f"{one.chosen.row}, {float(one.confirmation.gain.value):.2f}"
            for one in (whole, found.map)
        ]
        print(
            f"| {data.choose.name} | {mapping:.1f} | {searching:.1f} | {searching / mapping:.0%} | "
            f"{cells[0]} | {cells[1]} |",
            flush=True,
        )


if __name__ == "__main__":
    tyro.cli(main, args=sys.argv[1:])
