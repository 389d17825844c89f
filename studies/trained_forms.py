"""How much of the ideal each trained form reaches, and whether training changes what is written.

    python studies/trained_forms.py ideal                 # reference model, trained on p*
    python studies/trained_forms.py preference            # RePS, BiPO and DPO against DiffMean
    python studies/trained_forms.py written               # SmolLM2-135M-Instruct, sentiment

docs/training.md has the numbers. Seconds are of the processor, on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from study_folder import keep

from steerlens.analyses.confirmation.contexts import Contexts
from steerlens.analyses.confirmation.measure_written import confirm_in_writing
from steerlens.analyses.confirmation.readers import WordReader
from steerlens.analyses.nearness.measure_nearness import target_share
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions.methods import DiffMean
from steerlens.forms import Form, FullWeights, LoRA, LowRankAdapter, PostBlock, VectorForm
from steerlens.interventions import Add, Prompt
from steerlens.measures.equal_cost import equal_kl
from steerlens.measures.reading import activations
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.protocols import Intervention
from steerlens.results import Cell
from steerlens.results.grid import find_multiplier
from steerlens.sites import Positions, Site
from steerlens.stats import group_numbers, mean_interval
from steerlens.testbed import review_grammar
from steerlens.testbed.pole_target import PoleTarget
from steerlens.testbed.reviews import contexts, continuations, neutral_texts
from steerlens.testbed.reviews import questions as review_questions
from steerlens.training import DPO, LM, BiPO, MatchDistribution, RePS, Split, Trainer

LAYER = 5
VECTOR_LAYERS = (2, 3, LAYER)
CONCEPTS = ("register", "sentiment")
MULTIPLIERS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0, 1.25, 1.5)


def timed(make: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    made = make()
    return made, time.process_time() - started


def diffmean(model: Model, concept: str, site: Site) -> Add:
    """The mean difference of contexts, as it was fitted, added at all tokens."""
    found = activations(
        model, contexts(concept, 256, seed=1), [site], positions=Positions.last(), progress=False
    )
    return Add(found.direction(site, method=DiffMean()), Positions.all(), unit="direction")


# The ideal ----------------------------------------------------------------------------------------


def ideal_forms() -> Iterator[tuple[str, Form, float, int]]:
    """Name, form, learning rate and steps."""
    for layer in VECTOR_LAYERS:
        yield f"vector, layer {layer}", VectorForm(Site(layer)), 0.3, 200
    for rank in (1, 4):
        yield f"one layer, rank {rank}", LowRankAdapter(Site(LAYER), rank), 0.06, 200
    yield "LoRA rank 4, Q and V", LoRA(4), 0.01, 200
    yield "post-block rank 4", PostBlock(4), 0.01, 200
    yield "full weights", FullWeights(), 5e-4, 200


def blame_words() -> set[str]:
    """Words of the reference world that stand for the negative pole of sentiment."""
    styled = (
        review_grammar.STYLED_ADJECTIVES, review_grammar.VERBS, review_grammar.BASE_VERBS,
        review_grammar.EFFECTS, review_grammar.MANNERS, review_grammar.INTERJECTIONS,
        review_grammar.MOODS,
    )  # fmt: skip
    plain = (
        review_grammar.GENERAL, review_grammar.PLAIN_VERBS, review_grammar.PLAIN_BASE_VERBS,
        review_grammar.PLAIN_EFFECTS, review_grammar.PLAIN_MANNERS, review_grammar.HINGES,
    )  # fmt: skip
    lists = [one.blame for one in review_grammar.ASPECTS]
    lists += [pole for styles in styled for _, pole in styles] + [pole for _, pole in plain]
    return {word for one in lists for word in one.split()}


def kinds_of_prompts(concept: str, pairs: ContrastSet) -> dict[str, list[bool]]:
    """Which texts count: all; for sentiment also those whose prompt does, or does not, invert.

    After "was hardly", "did n't" or "although the dessert was great, it was", a positive document
    goes on with a word of the negative pole.
    """
    found = {"": [True] * len(pairs)}
    if concept == "sentiment":
        blame = blame_words()
        inverts = [pair.positive.split()[0] in blame for pair in pairs]
        found |= {"prompt inverts": inverts, "prompt does not invert": [not x for x in inverts]}
    return found


def ideal(only: list[str]) -> dict[str, Any]:
    """share = 1 - KL(p* ‖ p_m) / KL(p* ‖ p_0) of forms trained on p*, on held-out texts."""
    model, found = Model.load("reviews"), {}
    for concept in CONCEPTS:
        fit, choose, report = continuations(concept, 2000).split(0, (0.7, 0.15, 0.15))
        target = PoleTarget(model, concept)
        arms: dict[str, Intervention] = {
            f"DiffMean, layer {layer}": diffmean(model, concept, Site(layer))
            for layer in VECTOR_LAYERS
        }
        seconds = dict.fromkeys(arms, 0.0)
        for name, form, rate, steps in ideal_forms():
            if only and not any(name.startswith(asked) for asked in only):
                continue
            trainer = Trainer(MatchDistribution(target), steps, rate, batch=32, look_every=20)
            arms[name], seconds[name] = timed(
                lambda trainer=trainer, form=form, fit=fit, choose=choose: trainer.fit(
                    form, model, fit, validation=choose, progress=False
                )
            )
        chosen = target_share(model, arms, target, choose, MULTIPLIERS, progress=False)
        for kind, keep_it in kinds_of_prompts(concept, report).items():
            part = ContrastSet(
                report.name, tuple(p for p, k in zip(report, keep_it, strict=True) if k)
            )
            result = target_share(model, arms, target, part, MULTIPLIERS, progress=False)
            values, low, high = result.share_interval
            for i, name in enumerate(result.rows):
                m, _ = chosen.best(name)
                k, one = (find_multiplier(result.multipliers, x) for x in (m, 1.0))
                key = f"{concept}: {name}" + (f", {kind}" if kind else "")
                found[key] = {
                    "texts": len(part),
                    "best m": MULTIPLIERS[k],
                    "share": [round(float(x[i, k]), 3) for x in (values, low, high)],
                    "share at 1": round(float(values[i, one]), 3),
                    "seconds": round(seconds[name], 1),
                }
                print(f"{key:60s} {found[key]}", flush=True)
    return found


# Preference ---------------------------------------------------------------------------------------


def preference(only: list[str]) -> dict[str, Any]:
    """Gain in log-odds of one-word answers where KL on neutral text is 0.1 nats per token."""
    model, found = Model.load("reviews"), {}
    neutral = neutral_texts(48, seed=3)
    for concept in CONCEPTS:
        pairs = continuations(concept, 400)
        fit, choose, _ = pairs.split(0, (0.7, 0.2, 0.1))
        asked = review_questions(concept, 96, seed=7, context="negative")
        arms: dict[str, Intervention] = {"DiffMean": diffmean(model, concept, Site(LAYER))}
        seconds = {"DiffMean": 0.0}
        objectives = {
            "LM": LM(), "SPLIT": Split(), "BiPO": BiPO(), "DPO": DPO(), "RePS": RePS(),
            "RePS, β at most 3": RePS(cap=3.0), "RePS, steer only": RePS("steer"),
        }  # fmt: skip
        for name, objective in objectives.items():
            if only and name not in only:
                continue
            trainer = Trainer(objective, 60, 0.1, batch=16, look_every=15)
            made, seconds[name] = timed(
                lambda trainer=trainer, fit=fit, choose=choose: trainer.fit(
                    VectorForm(Site(LAYER)), model, fit, validation=choose, progress=False
                )
            )
            print(made.history.summary(), flush=True)
            arms[name] = made
        lengths = equal_kl(model, arms, neutral, progress=False)
        for name, m in zip(arms, lengths, strict=True):
            odds = sweep(model, asked, [arms[name]], [0.0, m], progress=False).log_odds[0]
            gain = mean_interval(odds[1] - odds[0], group_numbers(asked.groups))
            found[f"{concept}: {name}"] = {
                "multiplier": round(m, 3),
                "gain": [round(float(x), 2) for x in gain],
                "seconds": round(seconds[name], 1),
            }
            print(f"{concept:10s} {name:24s} {found[f'{concept}: {name}']}", flush=True)
    return found


# In writing ---------------------------------------------------------------------------------------

THINGS = (
    "film", "hotel", "book", "meal", "concert", "phone", "garden", "lecture", "play", "museum",
    "train ride", "song", "cake", "game", "walk", "dress", "beach", "city", "coffee", "party",
)  # fmt: skip
HELD_OUT = (
    "soup", "bridge", "painting", "neighbour", "winter", "market", "doctor", "river", "dinner",
    "school", "bicycle", "airport", "poem", "dentist", "restaurant", "theatre",
    "house", "picnic", "lesson", "teacher", "village", "forest", "shop", "letter",
)  # fmt: skip
GOOD = (
    "wonderful", "beautiful", "great", "good", "lovely", "delightful", "amazing", "perfect",
    "excellent", "loved", "love", "enjoyed", "enjoy", "happy", "joy", "delicious", "warm", "best",
    "fantastic", "pleasant", "stunning", "brilliant", "friendly", "charming",
)  # fmt: skip
BAD = (
    "terrible", "awful", "bad", "horrible", "boring", "dull", "poor", "worst", "hated", "hate",
    "disliked", "sad", "ugly", "disappointing", "dreadful", "cold", "tired", "dirty", "broken",
    "annoying", "unpleasant", "painful", "angry", "miserable",
)  # fmt: skip
ANSWERS = (
    ("was wonderful, and I loved every minute.", "was terrible, and I hated every minute."),
    ("made me very happy.", "made me very sad."),
)


EXCHANGES = 3
"""Training pairs that stand in front as exchanges that came before, in each of two contexts: they are
the prompt's arm, and give the scale."""


def written_pairs(model: Model) -> ContrastSet:
    made = [
        ContrastPair(f"Tell me about the {thing}.", f"The {thing} {good}", f"The {thing} {bad}")
        for thing in THINGS
        for good, bad in ANSWERS
    ]
    return ContrastSet("valence", tuple(made)).with_chat(model)


def exchanges(pairs: ContrastSet) -> Contexts:
    """Exchanges with the answers of training pairs, which stand after the opening of a chat."""
    opening = pairs[0].prompt.partition("Tell me")[0]
    turn = opening[opening.rindex("<|im_start|>") :]

    def before(some: Sequence[ContrastPair], side: str) -> str:
        chats = (f"{p.prompt.removeprefix(opening)}{getattr(p, side)}<|im_end|>\n" for p in some)
        return opening + turn.join(chats) + turn

    parts = [list(pairs)[k : k + EXCHANGES] for k in (0, EXCHANGES)]
    sides = (tuple(before(part, side) for part in parts) for side in ("positive", "negative"))
    return Contexts(*sides, opening, "exchanges of the training pairs")


def written(only: list[str]) -> dict[str, Any]:
    """Whether each trained form changes what SmolLM2 writes about things it was not trained on."""
    model, found = Model.load("smollm2-135m-instruct"), {}
    pairs = written_pairs(model)
    site = Site(15)
    ways: dict[str, tuple[Form, Any, float, int]] = {
        "vector": (VectorForm(site), LM(), 0.3, 30),
        "vector, RePS": (VectorForm(site), RePS("steer", cap=3.0), 0.3, 16),
        "one-layer adapter": (LowRankAdapter(site, 4), LM(), 0.02, 30),
        "LoRA": (LoRA(4), LM(), 5e-3, 24),
    }
    arms: dict[str, Intervention] = {}
    seconds: dict[str, float] = {}
    told = exchanges(pairs)
    if not only or "prompt" in only:
        arms["prompt"] = Prompt(told.positive[0][: told.positive[0].rindex("<|im_start|>")])
        seconds["prompt"] = 0.0
    for name, (form, objective, rate, steps) in ways.items():
        if only and name not in only:
            continue
        trainer = Trainer(objective, steps, rate, batch=4)
        made, seconds[name] = timed(
            lambda trainer=trainer, form=form: trainer.fit(form, model, pairs, progress=False)
        )
        print(f"{made.history.summary()}, {seconds[name]:.1f} s", flush=True)
        arms[name] = made
    asked = ContrastSet(
        "asked", tuple(ContrastPair(f"Tell me about the {t}.", "a", "b") for t in HELD_OUT)
    ).with_chat(model)
    result = confirm_in_writing(
        model,
        arms,
        [Cell(name, 1.0) for name in arms],
        [pair.prompt for pair in asked],
        told,
        reader=WordReader(GOOD, BAD),
        max_new_tokens=16,
        temperature=0.0,
        progress=False,
    )
    for k, name in enumerate(arms):
        found[name] = {
            "valence": round(float(result.steered[k].mean()), 2),
            "unsteered": round(float(result.unsteered.mean()), 2),
            "rise": [round(float(x), 2) for x in result.change(k)],
            "share": [round(float(x), 2) for x in result.share(k)],
            "seconds": round(seconds[name], 1),
        }
        print(f"{name:20s} {found[name]}", flush=True)
        print("   ", result.steered_texts[k][0][0][:100], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    studies = {"ideal": ideal, "preference": preference, "written": written}
    parser.add_argument("study", choices=studies)
    parser.add_argument("only", nargs="*", help="names of ways; by default all")
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = studies[asked.study](asked.only)
    if asked.output is not None:
        keep(asked.output, asked.study, found)


if __name__ == "__main__":
    main()
