"""Do the map's numbers predict what a steered model writes?

    python studies/proxies.py                              # about ten minutes on one core
    python studies/proxies.py --numbers docs/trust.json --figure results/proxies/figure.html

The map scores two answers and a KL divergence; nobody reads a text. Here the texts are written and
read: for every layer, multiplier and concept of the reference world, the steered model continues
prompts, and the oracle says of each clause which pole it expresses, whether it is well-formed, and
whether it is on the prompt's topic. A killed run goes on where it was, to the same numbers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from proxies_tables import draw, summary, tables
from study_folder import claim_folder, keep
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.data import ContrastPair
from steerlens.directions import Activations
from steerlens.directions.methods import DiffMean
from steerlens.experiment.experiment_data import WORLD, Data, load_data
from steerlens.interventions.residual import Add
from steerlens.measures import scores
from steerlens.measures.divergence import divergence
from steerlens.measures.generation import generated_tokens
from steerlens.measures.reading import activations
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.store.files import write_text
from steerlens.testbed import reviews
from steerlens.testbed.grammar import CONCEPTS, SENTENCE_ENDS
from steerlens.testbed.oracle import ClauseReading, Oracle
from steerlens.testbed.review_grammar import review_grammar

COUNTED = ("positive", "negative", "clauses", "good", "formed", "nats", "tokens", "texts")
"""What is summed over the texts of one prompt; "good" and "formed" are shares of a text's clauses."""


@dataclass(frozen=True, kw_only=True)
class Proxies:
    """What the map says of every cell, and what is written there."""

    concepts: tuple[str, ...] = CONCEPTS
    """Concepts of the reference world."""
    layers: tuple[int, ...] | None = None
    """Layers to steer; all by default."""
    multipliers: tuple[float, ...] = (-2.0, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 2.0)
    """Strengths, without 0: unsteered text is written once."""
    n_fit: int = 200
    """Pairs that fit the directions."""
    n_questions: int = 64
    """Questions that the proxies score."""
    n_texts: int = 32
    """Ordinary texts for the KL divergence."""
    prompts: int = 48
    """Prompts that are continued, none of them among the questions."""
    draws: int = 2
    """Continuations of every prompt, at temperature 1; every cell draws the same random numbers."""
    new_tokens: int = 24
    """Tokens of each continuation."""
    resamples: int = 1000
    """Resamplings of prompts, questions and texts, for the intervals."""
    seed: int = 0
    """Seeds everything."""
    threads: int = 1
    """CPU threads."""
    output: Path = Path("results/proxies")
    """Folder of finished layers; another study is not continued."""
    numbers: Path | None = None
    """A JSON file that keeps the summary, under "proxies"."""
    figure: Path | None = None
    """An HTML file for the picture."""

    def __post_init__(self) -> None:
        if 0.0 in self.multipliers or len(set(self.multipliers)) < 2:
            raise ValueError("multipliers: give at least two different strengths other than 0.")
        if min(self.prompts, self.draws, self.resamples, self.threads) < 1:
            raise ValueError("prompts, draws, resamples and threads must be at least 1.")

    @property
    def settings(self) -> dict[str, Any]:
        """What changes the numbers of a layer."""
        free = ("concepts", "layers", "resamples", "threads", "output", "numbers", "figure")
        return {name: value for name, value in asdict(self).items() if name not in free}

    @cached_property
    def model(self) -> Model:
        return Model.load("reviews")

    @property
    def depth(self) -> tuple[int, ...]:
        return self.layers or tuple(range(self.model.n_layers))

    def run(self) -> dict[str, Any]:
        """Does what is not done yet, and sums up."""
        torch.set_num_threads(self.threads)
        claim_folder(self.output, self.settings)
        records: dict[str, dict[str, Any]] = {}
        with tqdm(total=len(self.concepts) * (1 + len(self.depth)), unit="layer") as bar:
            for concept in self.concepts:
                source = _Source(self, concept)
                for layer in (None, *self.depth):
                    bar.set_postfix_str(f"{concept}, layer {layer}")
                    name = f"{concept}-{'unsteered' if layer is None else layer}"
                    records[name] = self._kept(name, lambda at=layer, s=source: s.measured(at))
                    bar.update()
        return summary(self, records)

    def _kept(self, name: str, made: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = self.output / f"{name}.json"
        if not path.exists():
            write_text(path, json.dumps(made()))
        return json.loads(path.read_text("utf-8"))


class _Source:
    """Data of one concept, made when first needed."""

    def __init__(self, study: Proxies, concept: str) -> None:
        self.study, self.concept = study, concept
        self.oracle = Oracle()
        self.read_clause = cache(self.oracle.read_clause)
        self.longest = max(
            len(form.slots) for forms in review_grammar().groups.values() for form in forms
        )

    @cached_property
    def data(self) -> Data:
        s = self.study
        return load_data(WORLD + self.concept, None, (s.n_fit, s.n_questions, 2), s.n_texts, s.seed)

    @cached_property
    def acts(self) -> Activations:
        return activations(self.study.model, self.data.fit, progress=False)

    @cached_property
    def prompts(self) -> list[tuple[str, str]]:
        """Prompts that name their topic, with it; half from either pole of the concept."""
        known = {pair.prompt for pair in self.data.choose}
        asked = self.study.prompts
        found: dict[str, str] = {}
        halves: tuple[tuple[reviews.Context, int], ...]
        halves = ("positive", (asked + 1) // 2), ("negative", asked // 2)
        for context, n in halves:
            drawn = reviews.questions(
                self.concept, 20 * asked, seed=3 * self.study.seed + 1_000_000, context=context
            )
            usable = {p.prompt: p.meta["topic"] for p in drawn if self._usable(p, known)}
            found |= dict(list(usable.items())[:n])
        if len(found) < asked:
            raise ValueError(
                f"Only {len(found)} of {asked} prompts name their topic. Lower --prompts."
            )
        return list(found.items())

    def _usable(self, pair: ContrastPair, known: set[str]) -> bool:
        words = pair.prompt.split()
        room = self.study.model.n_ctx - self.study.new_tokens - 1
        named = any(r.topic for r in self.oracle.read(pair.prompt) if r.well_formed)
        return named and len(words) <= min(room, 48) and pair.prompt not in known

    def measured(self, layer: int | None) -> dict[str, Any]:
        """Proxies and texts of one layer at every multiplier; of no layer, the unsteered text."""
        if layer is None:
            return {"written": self.written(None)}
        s = self.study
        edit = Add(self.acts.direction(layer, DiffMean()))
        strengths = (0.0, *s.multipliers)
        swept = sweep(s.model, self.data.choose, [edit], strengths, progress=False)
        odds, utility = scores.preference(swept)[0], scores.utility(swept).value[0]
        kl = divergence(s.model, self.data.neutral, [edit], strengths, progress=False)[0]
        return {
            "gain": (odds[1:] - odds[0]).tolist(),
            "utility": (utility[1:] - utility[0]).tolist(),
            "kl": kl[1:].tolist(),
            "written": self.written(edit),
        }

    def written(self, edit: Add | None) -> dict[str, list[list[float]]]:
        """For every count, [multiplier][prompt]: what the oracle reads in the continuations."""
        s, model = self.study, self.study.model
        multipliers = (0.0,) if edit is None else s.multipliers
        rows = [
            (prompt, topic, m, d)
            for prompt, topic in self.prompts
            for d in range(s.draws)
            for m in multipliers
        ]
        texts = [row[0] for row in rows]
        numbers = {prompt: i for i, (prompt, _) in enumerate(self.prompts)}  # all different
        draws = [numbers[prompt] * s.draws + d for prompt, _, _, d in rows]
        options: dict[str, Any] = {
            "max_new_tokens": s.new_tokens, "temperature": 1.0, "seed": s.seed, "draws": draws
        }  # fmt: skip
        if edit is None:
            tokens = generated_tokens(model, texts, **options)
        else:
            with edit.attach(model, torch.tensor([row[2] for row in rows])):
                tokens = generated_tokens(model, texts, **options)
        nats = self._nats(texts, tokens)
        out = {name: np.zeros((len(multipliers), len(self.prompts))) for name in COUNTED}
        for i, (prompt, topic, m, _) in enumerate(rows):
            at = multipliers.index(m), numbers[prompt]
            read = self.count(prompt, topic, self._words(tokens[i]))
            for name, value in {**read, "nats": nats[i][0], "tokens": nats[i][1]}.items():
                out[name][at] += value
        return {name: value.tolist() for name, value in out.items()}

    def _words(self, tokens: Tensor) -> list[str]:
        """Words up to the end of the text; the end itself is kept as the last word."""
        tokenizer = self.study.model.tokenizer
        words = tokenizer.convert_ids_to_tokens(tokens.tolist())
        if tokenizer.eos_token in words:
            return words[: words.index(tokenizer.eos_token) + 1]
        return words

    def count(self, prompt: str, topic: str, written: Sequence[str]) -> dict[str, float]:
        """What one continuation says, clause by clause; the clause that the prompt began included.

        A clause that the limit of tokens cut short is left out, unless it is too long already for
        any form: then it is broken.
        """
        begun = prompt.split()
        last_end = max((i for i, word in enumerate(begun) if word in SENTENCE_ENDS), default=-1)
        clauses: list[list[str]] = [begun[last_end + 1 :]]
        ended = bool(written) and written[-1] == self.study.model.tokenizer.eos_token
        for word in written[: len(written) - ended]:
            clauses[-1].append(word)
            if word in SENTENCE_ENDS:
                clauses.append([])
        rest = clauses.pop()
        readings = [self.read_clause(tuple(clause)) for clause in clauses]
        if rest and (ended or len(rest) >= self.longest):
            readings.append(self.read_clause(tuple(rest)))
        poles = [reading.pole(self.concept) for reading in readings]
        good = [self._is_good(reading, topic) for reading in readings]
        formed = [reading.well_formed for reading in readings]
        n = len(readings)
        return {
            "positive": poles.count(True),
            "negative": poles.count(False),
            "clauses": n,
            "good": sum(good) / n if n else 0.0,
            "formed": sum(formed) / n if n else 0.0,
            "texts": 1.0 if n else 0.0,
        }

    @staticmethod
    def _is_good(reading: ClauseReading, topic: str) -> bool:
        return reading.well_formed and reading.topic in (None, topic)

    @torch.no_grad()
    def _nats(self, prompts: Sequence[str], tokens: Tensor) -> list[tuple[float, int]]:
        """Nats of each continuation under the unsteered model, and its number of tokens."""
        model = self.study.model
        ends = (tokens == model.tokenizer.eos_token_id).int()
        real = (ends.cumsum(-1) - ends) == 0  # up to the end of the text, which counts
        out = []
        for start in range(0, len(prompts), 64):
            new, kept = tokens[start : start + 64], real[start : start + 64]
            batch = model.tokens(prompts[start : start + 64], padding_side="left")
            batch = batch.extended(new, model.is_special(new) & kept, kept)
            before = slice(-new.shape[1] - 1, -1)
            log_probs = model.logits(batch)[:, before].float().log_softmax(-1)
            said = log_probs.gather(-1, new[..., None])[..., 0].masked_fill(~kept, 0.0)
            out += list(zip((-said.sum(-1)).tolist(), kept.sum(-1).tolist(), strict=True))
        return out


def main(study: Proxies) -> None:
    """Runs, prints the tables, and keeps numbers and picture where asked."""
    found = json.loads(json.dumps(study.run()))
    print("\n\n".join(tables(found)))
    if study.numbers is not None:
        keep(study.numbers, "proxies", found)
    if study.figure is not None:
        page = draw(found).to_html(include_plotlyjs=True, config={"displayModeBar": False})
        write_text(study.figure, page)


if __name__ == "__main__":
    try:
        main(tyro.cli(Proxies))
    except ValueError as error:
        sys.exit(f"proxies: {error}")
