"""How often a condition of CAST holds for the texts that it is meant for, and for others.

    python studies/conditions.py                        # sentiment in the reference world
    python studies/conditions.py --concept register

Each recipe is made of the same 200 pairs of contexts and reported on 100 other pairs: contexts at the
negative pole, contexts at the positive pole, and bare prompts, which say nothing of the concept.
docs/operators.md has the numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import torch

from steerlens.analyses.comparison.operator_ways import published_condition, unmet
from steerlens.analyses.comparison.way_data import WayData
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions.methods import PCA, DiffMean
from steerlens.interventions import Condition
from steerlens.models.model import Model
from steerlens.operators import find_condition, triggers
from steerlens.report.numbers import format_interval
from steerlens.sites import Site
from steerlens.stats import Interval
from steerlens.testbed.reviews import contexts, continuations

PAIRS, REPORTED = 200, 100


def recipes(data: WayData) -> Mapping[str, Condition]:
    """Conditions by what they are made by."""
    fit, choose, _ = data.texts.flipped().split(data.seed)

    def best(method, similarity) -> Condition:
        return find_condition(
            data.model, fit, choose, method=method, similarity=similarity
        ).best()  # fmt: skip

    return {
        "CAST: PCA, tanh": published_condition(data),
        "PCA of centred differences, tanh": best(PCA(centred=True), "tanh"),
        "PCA, projection": best(PCA(), "projection"),
        "DiffMean, tanh": best(DiffMean(), "tanh"),
        "DiffMean, projection": best(DiffMean(), "projection"),
        "DiffMean, projection, with bare prompts": unmet(data),
    }


def shares(model: Model, condition: Condition, concept: str, seed: int) -> Mapping[str, Interval]:
    """How often it holds, by kind of text."""
    pairs = contexts(concept, REPORTED, seed=seed).flipped()
    prompts = dict.fromkeys(pair.prompt for pair in continuations(concept, 400, seed=seed))
    bare = ContrastSet(
        "bare",
        tuple(
            ContrastPair("", prompt, pair.negative, group=prompt)
            for prompt, pair in zip(prompts, pairs, strict=False)
        ),
    )
    found = triggers(model, condition, pairs)
    return {
        "negative": found.true,
        "positive": found.false,
        "bare prompt": triggers(model, condition, bare).true,
    }


def main() -> None:
    """Prints a table of the recipes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concept", default="sentiment")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = Model.load("reviews")
    data = WayData(
        model=model, texts=contexts(asked.concept, PAIRS, seed=10 + asked.seed),
        fit=continuations(asked.concept, PAIRS, seed=10 + asked.seed), validation=None,
        site=Site(5), seed=asked.seed,
    )  # fmt: skip
    print("| condition | at | negative | positive | bare prompt |\n|---|---|---|---|---|")
    for name, condition in recipes(data).items():
        found = shares(model, condition, asked.concept, 2000 + asked.seed)
        cells = " | ".join(format_interval(one, lambda x: f"{x:.0%}") for one in found.values())
        print(f"| {name} | {condition.direction.site} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
