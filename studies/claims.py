"""Does the mediated part of a gain predict what is written?

    python studies/claims.py                                    # the reference world
    python studies/claims.py --model smollm2-135m-instruct --layers 10 14 17 20 24 28 \\
        --contrasts fit.jsonl:questions.jsonl --multipliers 0.18 --prompts 12 --temperature 0

For every layer and strength of every contrast: the gain on held-out questions, its direct and its
mediated part, and the written share (`steerlens.confirm_in_writing`); on the reference world the
share is also taken by what the oracle reads. Then Spearman's correlation of each with the share
over the cells of a contrast, and over those of all contrasts, with intervals that resample
questions and prompts. A killed run goes on where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import tyro
from scipy import stats as scipy_stats
from study_folder import claim_folder, keep
from torch import Tensor

from steerlens.analyses.confirmation.contexts import Contexts
from steerlens.analyses.confirmation.measure_written import confirm_in_writing
from steerlens.analyses.confirmation.written_effect import WrittenEffect
from steerlens.data import ContrastSet
from steerlens.directions.methods import DiffMean
from steerlens.experiment.experiment_data import WORLD, load_data
from steerlens.interventions.arms import layer_family
from steerlens.measures.direct_gain import direct_gain
from steerlens.measures.reading import activations
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.results import Cell
from steerlens.sites import Positions, Site
from steerlens.store.cells import Cells
from steerlens.store.files import write_text
from steerlens.testbed.grammar import CONCEPTS, SENTENCE_ENDS
from steerlens.testbed.oracle import Oracle

PARTS = ("gain", "mediated", "direct")


@dataclass(frozen=True, kw_only=True)
class Claims:
    """The gains of cells, their parts, and what is written there."""

    model: str = "reviews"
    """What `Model.load` takes."""
    contrasts: tuple[str, ...] = tuple(WORLD + concept for concept in CONCEPTS)
    """"reviews/<concept>", or files of pairs and questions with a colon between them."""
    layers: tuple[int, ...] | None = None
    """Layers to steer; all by default."""
    multipliers: tuple[float, ...] = (0.25, 0.5)
    """Strengths, above 0."""
    n_fit: int = 200
    """Most pairs to fit on."""
    n_questions: int = 48
    """Most questions that score the gain."""
    prompts: int = 32
    """Most prompts that are continued; none of them scores the gain."""
    draws: int = 2
    """Texts of each prompt; 1 at temperature 0."""
    temperature: float = 1.0
    """0 takes the likeliest token."""
    new_tokens: int = 20
    """Tokens of each text."""
    resamples: int = 1000
    """Resamplings of questions and prompts, for the intervals."""
    seed: int = 0
    """Seeds everything."""
    output: Path = Path("results/claims")
    """Folder of finished parts; another study is not continued."""
    numbers: Path | None = None
    """A file to put the numbers into, such as docs/trust.json."""

    def run(self) -> None:
        """Measures what is missing, then writes the tables."""
        settings = {k: v for k, v in asdict(self).items() if k not in ("output", "numbers")}
        claim_folder(self.output, {k: str(v) for k, v in settings.items()})
        found = {name: self._contrast(name) for name in self.contrasts}
        text, numbers = self._tables(found)
        write_text(self.output / "claims.md", text)
        print(text)
        if self.numbers is not None:
            keep(self.numbers, f"claims, {self.model}", numbers)

    @cached_property
    def _model(self) -> Model:
        return Model.load(self.model)

    def _contrast(self, name: str) -> dict[str, Tensor]:
        """For every cell: parts of the gain by question, and numbers of texts by prompt."""
        model = self._model
        data = self._data(name)
        sites = model.sites() if self.layers is None else tuple(map(Site, self.layers))
        read = activations(model, data[0], sites, progress=False)
        directions = [read.direction(site, DiffMean()) for site in sites]
        arms = layer_family(directions, Positions.from_prompt_end())
        cells = Cells(self.output / "cells", progress=sys.stderr.isatty()).part(name)
        strengths, edits = (0.0, *self.multipliers), list(arms.values())
        swept = sweep(model, data[1], edits, strengths, cells=cells.part("gain"))
        gain = swept.log_odds - swept.log_odds[:, :1]
        direct = direct_gain(model, data[1], edits, strengths, cells=cells.part("direct"))
        prompts = list(dict.fromkeys(pair.prompt for pair in data[2]))[: self.prompts]
        at = [Cell(row, m, s) for row, s in zip(arms, sites, strict=True) for m in self.multipliers]
        contexts = Contexts.from_pairs(model, data[0], prompts, room=self.new_tokens)
        effect = confirm_in_writing(
            model, arms, at, prompts, contexts, draws=self.draws, seed=self.seed,
            max_new_tokens=self.new_tokens, temperature=self.temperature,
            cells=cells.part("written"),
        )  # fmt: skip
        print(f"{name}\n{effect.summary()}\n", flush=True)
        found = {
            "gain": gain[:, 1:].flatten(0, 1),
            "direct": direct[:, 1:].flatten(0, 1),
            **{f"reader {part}": numbers for part, numbers in _read(effect).items()},
        }
        found["mediated"] = found["gain"] - found["direct"]
        if name.startswith(WORLD):
            oracle = _by_oracle(effect, name.removeprefix(WORLD))
            found |= {f"oracle {part}": numbers for part, numbers in oracle.items()}
        return found

    def _data(self, name: str) -> tuple[ContrastSet, ContrastSet, ContrastSet]:
        if name.startswith(WORLD):
            sizes = (self.n_fit, self.n_questions, 3 * self.prompts)
            return load_data(name, None, sizes, 4, self.seed)[:3]
        fit, _, asked = name.partition(":")
        sizes = (self.n_fit, self.n_questions, 3 * self.prompts)
        return load_data(fit, asked or None, sizes, 4, self.seed)[:3]

    # Tables

    def _tables(self, found: dict[str, dict[str, Tensor]]) -> tuple[str, dict[str, Any]]:
        readers = ["reader", *(["oracle"] if self.contrasts[0].startswith(WORLD) else [])]
        lines = ["| share read by | of | contrast | cells | Spearman with the written share |"]
        lines += ["|---|---|---|---|---|"]
        numbers: dict[str, Any] = {}
        for reader in readers:
            for part in PARTS:
                for names in [*([name] for name in found), list(found)]:
                    label = names[0] if len(names) == 1 else "all"
                    value, low, high = self._correlation([found[n] for n in names], part, reader)
                    count = sum(len(found[n]["gain"]) for n in names)
                    lines.append(
                        f"| {reader} | {part} | {Path(label).stem} | {count} | "
                        f"{value:.2f} [{low:.2f}, {high:.2f}] |"
                    )
                    numbers[f"{reader}, {part}, {Path(label).stem}"] = [value, low, high]
        return "\n".join([*lines, "", *self._cells(found, readers)]) + "\n", numbers

    def _cells(self, found: dict[str, dict[str, Tensor]], readers: list[str]) -> Iterator[str]:
        layers = self.layers or tuple(range(self._model.n_layers))
        at = [(layer, m) for layer in layers for m in self.multipliers]
        yield (
            "| contrast | layer | multiplier | gain | direct | mediated | "
            + " | ".join(f"share by the {reader}" for reader in readers)
            + " |"
        )
        yield "|---|---|---|---|---|---|" + "---|" * len(readers)
        for name, of in found.items():
            shares = [_share(of, reader, None) for reader in readers]
            for k, (layer, m) in enumerate(at):
                parts = [float(of[part][k].mean()) for part in ("gain", "direct", "mediated")]
                row = [Path(name).stem, layer, f"{m:+g}", *(f"{x:.2f}" for x in parts)]
                yield "| " + " | ".join(map(str, [*row, *(f"{s[k]:.2f}" for s in shares)])) + " |"

    def _correlation(
        self, of: list[dict[str, Tensor]], part: str, reader: str
    ) -> tuple[float, float, float]:
        """Spearman over all cells, with an interval that resamples questions and prompts."""
        generator = torch.Generator().manual_seed(self.seed)

        def once(resample: bool) -> float:
            xs, ys = [], []
            for one in of:
                values = one[part]
                questions = prompts = None
                if resample:
                    n, p = values.shape[1], one[f"{reader} unsteered"].shape[0]
                    questions = torch.randint(n, (n,), generator=generator)
                    prompts = torch.randint(p, (p,), generator=generator)
                    values = values[:, questions]
                xs.append(values.mean(1))
                ys.append(_share(one, reader, prompts))
            return float(scipy_stats.spearmanr(torch.cat(xs), torch.cat(ys))[0])  # type: ignore[arg-type]

        many = torch.tensor([once(True) for _ in range(self.resamples)], dtype=torch.float64)
        low, high = torch.nanquantile(
            many, torch.tensor([0.025, 0.975], dtype=torch.float64)
        ).tolist()
        return once(False), low, high


def _read(effect: WrittenEffect) -> dict[str, Tensor]:
    """The reader's numbers, averaged over draws."""
    assert effect.positive is not None and effect.negative is not None
    return {
        "steered": effect.steered.mean(-1),
        "unsteered": effect.unsteered.mean(-1),
        "positive": effect.positive.mean(-1),
        "negative": effect.negative.mean(-1),
    }


def _by_oracle(effect: WrittenEffect, concept: str) -> dict[str, Tensor]:
    """The same of what the oracle reads: clauses of the positive pole minus those of the other."""
    oracle = Oracle()

    def numbers(texts: Any) -> Tensor:
        return torch.tensor(
            [
                sum(_pole(oracle, prompt, text, concept) for text in own) / len(own)
                for prompt, own in zip(effect.prompts, texts, strict=True)
            ]
        )

    return {
        "steered": torch.stack([numbers(texts) for texts in effect.steered_texts]),
        "unsteered": numbers(effect.unsteered_texts),
        "positive": numbers(effect.positive_texts),
        "negative": numbers(effect.negative_texts),
    }


def _pole(oracle: Oracle, prompt: str, text: str, concept: str) -> float:
    """Clauses of the positive pole minus clauses of the negative one, of what was written."""
    before = sum(word in SENTENCE_ENDS for word in prompt.split())
    read = oracle.read(prompt + text)[before:]
    return float(sum({True: 1, False: -1, None: 0}[clause.pole(concept)] for clause in read))


def _share(of: dict[str, Tensor], reader: str, prompts: Tensor | None) -> Tensor:
    """The written share of every cell, as `WrittenEffect.share` has it."""
    own = {p: of[f"{reader} {p}"] for p in ("steered", "unsteered", "positive", "negative")}
    if prompts is not None:
        own = {part: numbers[..., prompts] for part, numbers in own.items()}
    mean = {part: numbers.mean(-1) for part, numbers in own.items()}
    whole = torch.maximum(
        mean["positive"] - mean["unsteered"], (mean["positive"] - mean["negative"]) / 2
    )
    return (mean["steered"] - mean["unsteered"]) / whole


if __name__ == "__main__":
    tyro.cli(Claims).run()
