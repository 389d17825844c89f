"""Does a stack of vectors lose what its parts have? (arXiv:2607.01802 is said to find that it does.)

    python studies/stacks.py reviews                 # the reference model: three concepts
    python studies/stacks.py smollm2-135m-instruct   # praise, she over he, weddings

Each vector is a mean difference, scaled to cost the same KL by itself. Every subset is measured on the
questions of every concept, so that what each vector gains on its own concept alone and in the stack are
compared question by question. docs/operators.md has the numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from study_folder import keep

from steerlens import stats
from steerlens.analyses.stacking.measure_stacking import stacking
from steerlens.analyses.stacking.stack_map import StackMap
from steerlens.data import ContrastSet
from steerlens.directions.methods import DiffMean
from steerlens.interventions import Add
from steerlens.interventions.scaled import scaled
from steerlens.measures.equal_cost import equal_kl
from steerlens.measures.reading import activations
from steerlens.models.model import Model
from steerlens.report.numbers import format_interval, format_signed
from steerlens.sites import Site
from steerlens.testbed.reviews import contexts, neutral_texts
from steerlens.testbed.reviews import questions as review_questions

DATA = Path(__file__).parents[1] / "experiments" / "data"
KL = 0.05
"""Nats per token that each vector costs by itself."""


class Part(NamedTuple):
    """One vector of a stack."""

    layer: int
    fit: ContrastSet
    questions: ContrastSet


def parts_of(name: str, count: int) -> dict[str, Part]:
    """The vectors of a model's stack, by concept."""
    if name == "reviews":
        layers = {"sentiment": 5, "register": 5, "truth": 5}
        return {
            concept: Part(
                layer, contexts(concept, 200, seed=1), review_questions(concept, count, seed=7)
            )
            for concept, layer in layers.items()
        }
    layers = {"sentiment": 15, "she_he": 24, "weddings": 28}
    return {
        concept: Part(
            layer,
            ContrastSet.load(DATA / f"{concept}_fit.jsonl"),
            ContrastSet.load(DATA / f"{concept}_questions.jsonl").subset(count, 0),
        )
        for concept, layer in layers.items()
    }


def ordinary(name: str) -> tuple[list[str], list[str]]:
    """Ordinary texts: to set the strengths, and to report the cost."""
    texts = (
        neutral_texts(48, 3)
        if name == "reviews"
        else (DATA / "neutral.txt").read_text("utf-8").split("\n")[:24]
    )
    return texts[::2], texts[1::2]


def measured(
    model: Model, parts: Mapping[str, Part], texts: tuple[list[str], list[str]]
) -> StackMap:
    """All subsets of the vectors on all questions."""
    adds = {}
    for concept, part in parts.items():
        site = Site(part.layer)
        read = activations(model, part.fit, [site], progress=False)
        adds[concept] = Add(read.direction(site, DiffMean()))
    strengths = equal_kl(model, adds, texts[0], kl=KL, progress=False)
    arms = {
        concept: scaled(add, m) for (concept, add), m in zip(adds.items(), strengths, strict=True)
    }
    first, *rest = parts
    return stacking(
        model, arms, parts[first].questions, texts[1],
        others={f"{one} gain": parts[one].questions for one in rest}, progress=False,
    )  # fmt: skip


def kept_of(found: StackMap) -> list[dict[str, Any]]:
    """Of every concept in every stack that holds its vector: the gain alone, there, and the change."""
    rows = []
    for k, (concept, quantity) in enumerate(
        zip(found.arms, [q for q in found.quantities if q != "KL"], strict=True)
    ):
        groups = stats.group_numbers(found.groups[quantity])
        alone = found.values[quantity][found.subsets.index((k,))]
        for subset, there in zip(found.subsets, found.values[quantity], strict=True):
            if k in subset and len(subset) > 1:
                names = [found.arms[i] for i in subset]
                each = {"alone": alone, "in the stack": there, "change": there - alone}
                rows.append(
                    {"concept": concept, "stack": " + ".join(names)}
                    | {name: list(stats.interval_of_mean(x, groups)) for name, x in each.items()}
                    | {"KL": float(found.effect("KL", *names).value)}
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=("reviews", "smollm2-135m-instruct"))
    parser.add_argument("--questions", type=int, default=48, help="of each concept")
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = Model.load(asked.model)
    found = measured(model, parts_of(asked.model, asked.questions), ordinary(asked.model))
    rows = kept_of(found)
    for row in rows:
        alone, there, change = (
            format_interval(stats.Interval(*row[x]), format_signed)
            for x in ("alone", "in the stack", "change")
        )
        print(
            f"{row['concept']} in {row['stack']}: alone {alone}, there {there}, change {change}; "
            f"KL of the stack {row['KL']:.3f}"
        )
    if asked.output is not None:
        keep(asked.output, asked.model, {"rows": rows})


if __name__ == "__main__":
    main()
