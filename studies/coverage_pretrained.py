"""Do the intervals hold on numbers of a pretrained model?

    python studies/coverage_pretrained.py --numbers docs/trust.json    # about ten minutes on one core

A population of questions is asked once, unsteered and steered at one cell: its nouns are the groups,
and each has as many frames as a group has examples. Ordinary texts, which the model writes, give
the population of the cost. The prompts of some nouns are also continued, unsteered, steered and under
the contexts of the contrast, and read. Samples of nouns (and of texts) are then drawn with
replacement, and an interval is asked for of each; the truth is the population's own number. So nothing
is assumed of how effects are distributed, and what one noun's frames share is the model's.

The measured effects are kept, so that a killed study goes on where it was.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from study_folder import claim_folder, keep
from torch import Tensor
from tqdm.auto import tqdm

from steerlens import stats
from steerlens.analyses.confirmation.contexts import Contexts
from steerlens.analyses.confirmation.measure_written import confirm_in_writing
from steerlens.analyses.confirmation.written_share import auroc_interval, share_interval
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions.methods import DiffMean
from steerlens.interventions.residual import Add
from steerlens.measures import scores
from steerlens.measures.divergence import divergence
from steerlens.measures.ordinary_texts import ordinary_texts
from steerlens.measures.reading import activations
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.results import Cell
from steerlens.sites import Site
from steerlens.store.tensors import read_tensors, write_tensors

NOUNS = (
    "apple", "bakery", "ballet", "balcony", "band", "banquet", "beach", "bedroom", "bicycle",
    "biscuit", "blanket", "boat", "bookshop", "breakfast", "bridge", "broth", "cafe", "cake",
    "camera", "canal", "candle", "canyon", "car", "carpet", "castle", "cathedral", "ceremony",
    "chair", "cheese", "cinema", "circus", "city", "climb", "clock", "coat", "coffee", "comedy",
    "concert", "cottage", "course", "cruise", "curry", "cushion", "dance", "dessert", "dinner",
    "drama", "dress", "drive", "engine", "essay", "evening", "exhibition", "farm", "ferry",
    "festival", "film", "fountain", "garden", "gift", "glove", "guitar", "hall", "harbor",
    "harvest", "hike", "holiday", "hostel", "hotel", "island", "jacket", "jam", "jazz", "journal",
    "journey", "juice", "kitchen", "lake", "lamp", "landscape", "lecture", "lemonade", "lesson",
    "library", "lunch", "magazine", "market", "meal", "meeting", "melody", "mountain", "movie",
    "museum", "music", "necklace", "neighborhood", "noodle", "novel", "opera", "orchard",
    "painting", "palace", "parade", "park", "party", "pasta", "performance", "photo", "piano",
    "picnic", "pillow", "pizza", "play", "poem", "pool", "porridge", "portrait", "pottery",
    "present", "pudding",
)  # fmt: skip
FRAMES = (
    "The {} was",
    "I think that the {} is",
    "Everyone said that the {} had been",
    "When we left, we agreed: the {} was",
)
ANSWERS = (
    ("wonderful", "terrible"),
    ("great", "awful"),
    ("lovely", "horrible"),
    ("excellent", "poor"),
    ("beautiful", "ugly"),
)
MEASURES = {
    "gain": "gain", "utility": "utility change", "fell": "share whose utility falls", "kl": "KL",
    "written": "written share", "reader": "AUROC of the reader",
}  # fmt: skip
OF_TEXTS = ("written", "reader")
NEW = 16
"""Tokens of a text."""
FIT = Path(__file__).parents[1] / "experiments" / "data" / "sentiment_fit.jsonl"


@dataclass(frozen=True, kw_only=True)
class CoveragePretrained:
    """Coverage of intervals of what one cell does."""

    model: str = "smollm2-135m-instruct"
    """What `Model.load` takes."""
    layer: int = 17
    """The steered layer."""
    multiplier: float = 0.15
    """In median norms of the stream."""
    nouns: int = len(NOUNS)
    """Groups of the population."""
    texts: int = 240
    """Ordinary texts of the population."""
    written: int = 60
    """Nouns whose prompts are continued."""
    groups: tuple[int, ...] = (8, 12, 16, 24, 48)
    """Groups of a sample."""
    sizes: tuple[int, ...] = (1, 2, 4)
    """Examples of a group."""
    repeats: int = 2000
    """Samples of each kind."""
    of_texts: int = 500
    """The same of what is written, where every interval takes 2,000 resamples."""
    seed: int = 0
    """Seeds everything."""
    threads: int = 1
    """CPU threads."""
    output: Path = Path("results/coverage_pretrained")
    """Folder of the effects; another study is not continued."""
    numbers: Path | None = None
    """A JSON file that keeps the summary, under "coverage_pretrained"."""

    def __post_init__(self) -> None:
        counts = self.repeats, self.of_texts, self.threads, self.texts, self.written
        if min(*counts, *self.groups, *self.sizes) < 1:
            raise ValueError("All numbers of examples, repeats and threads must be at least 1.")
        if max(self.sizes) > len(FRAMES) or not 1 <= self.nouns <= len(NOUNS):
            raise ValueError(f"There are {len(NOUNS)} nouns and {len(FRAMES)} frames.")

    @property
    def settings(self) -> dict[str, Any]:
        """What changes the effects."""
        names = "model", "layer", "multiplier", "nouns", "texts", "written", "seed"
        return {name: value for name, value in asdict(self).items() if name in names}

    def run(self) -> dict[str, Any]:
        """Measures the effects if they are not there yet, and draws the samples."""
        torch.set_num_threads(self.threads)
        claim_folder(self.output, self.settings)
        path = self.output / "effects.safetensors"
        if not path.exists():
            write_tensors(path, self.effects())
        effects = read_tensors(path)
        effects["fell"] = (effects["utility"] < 0).float()
        out: dict[str, Any] = {"settings": self.settings, "repeats": self.repeats}
        blocks = [(name, c, s) for name in MEASURES for s in self.sizes for c in self.groups]
        for name, count, size in tqdm(blocks, desc="samples", unit="block"):
            if name == "kl" and size > 1:
                continue  # every text is a group of its own
            if name in OF_TEXTS:
                found = self.texts_covered(effects, name, count, size)
            else:
                found = self.covered(effects[name], count, size, share=name == "fell")
            out.setdefault(name, {}).setdefault(str(size), {})[str(count)] = found
        return out

    def questions(self) -> ContrastSet:
        """The population, noun by noun."""
        made = []
        for i, noun in enumerate(NOUNS[: self.nouns]):
            for k, frame in enumerate(FRAMES):
                sides = (f" {word}" for word in ANSWERS[(i + k) % len(ANSWERS)])
                made.append(ContrastPair(frame.format(noun), *sides, group=noun))
        return ContrastSet("sentiment of nouns", tuple(made))

    def effects(self) -> dict[str, Tensor]:
        """[noun, frame] and [text]: what the cell does to each."""
        model, site = Model.load(self.model), Site(self.layer)
        fit = ContrastSet.load(FIT)
        direction = activations(model, fit, [site], progress=False).direction(site, DiffMean())
        edits, strengths = [Add(direction)], (0.0, self.multiplier)
        questions = self.questions()
        swept = sweep(model, questions, edits, strengths)
        shape = (self.nouns, len(FRAMES))
        odds, rest = scores.preference(swept)[0], scores.utility(swept).value[0]
        gain = (odds[1] - odds[0]).view(shape)
        texts = ordinary_texts(model, self.texts, seed=self.seed)
        return {
            "gain": gain,
            "utility": (rest[1] - rest[0]).view(shape),
            "kl": divergence(model, texts, edits, strengths)[0, 1][:, None],
            **self.readings(model, edits[0], fit, questions),
        }

    def readings(
        self, model: Model, edit: Add, fit: ContrastSet, questions: ContrastSet
    ) -> dict[str, Tensor]:
        """[noun, frame]: what the reader says of each kind of texts."""
        prompts = [pair.prompt for pair in questions[: self.written * len(FRAMES)]]
        effect = confirm_in_writing(
            model, {"cell": edit}, [Cell("cell", self.multiplier)], prompts,
            Contexts.from_pairs(model, fit, prompts, room=NEW), max_new_tokens=NEW, seed=self.seed,
        )  # fmt: skip
        assert effect.positive is not None and effect.negative is not None
        kinds = {
            "unsteered": effect.unsteered, "steered": effect.steered[0],
            "positive": effect.positive, "negative": effect.negative,
        }  # fmt: skip
        return {name: read.view(-1, len(FRAMES)) for name, read in kinds.items()}

    def covered(self, effects: Tensor, count: int, size: int, *, share: bool) -> dict[str, Any]:
        """How many intervals of samples hold the population's mean."""
        groups = torch.arange(count).repeat_interleave(size)
        # The frames of a sample are the first ones, so the population has no other.
        population = effects[:, :size]
        truth = float(population.double().mean())
        rows = self.drawn(len(population), self.repeats, count, size)
        held = known = 0
        for part in rows.split(200):
            data = population[part].flatten(1)
            if share:
                value, low, high = stats.share_interval(data, groups)
            else:
                value, low, high = stats.mean_interval(data, groups)
            there = ~low.isnan()
            known += int(there.sum())
            held += int(((low <= truth) & (truth <= high) & there).sum())
            assert value.shape == low.shape
        return {"held": held, "known": known, "n": self.repeats, "truth": truth}

    def drawn(self, population: int, repeats: int, count: int, size: int) -> Tensor:
        """[sample, group]: which nouns or texts each sample has."""
        generator = torch.Generator().manual_seed(self.seed + 1000 * count + size)
        return torch.randint(population, (repeats, count), generator=generator)

    def texts_covered(
        self, effects: dict[str, Tensor], name: str, count: int, size: int
    ) -> dict[str, Any]:
        """The same of what is written: the share, or the reader's AUROC."""
        kinds = ("unsteered", "steered", "positive", "negative")
        read = torch.stack([effects[kind][:, :size] for kind in kinds])

        def interval(sample: Tensor, groups: Tensor | None) -> stats.Interval:
            unsteered, steered, positive, negative = sample.flatten(1)
            if name == "reader":
                return auroc_interval(positive[:, None], negative[:, None], groups)
            scales = positive - unsteered, (positive - negative) / 2
            return share_interval(steered - unsteered, *scales, groups=groups)

        truth = interval(read, None).value
        groups = torch.arange(count).repeat_interleave(size)
        held = known = 0
        for rows in self.drawn(read.shape[1], self.of_texts, count, size):
            _, low, high = interval(read[:, rows], groups)
            known += low == low
            held += low <= truth <= high
        return {"held": held, "known": known, "n": self.of_texts, "truth": truth}


def tables(found: dict[str, Any]) -> list[str]:
    """The table of docs/trust.md: coverage by groups and group sizes."""
    counts = list(next(iter(found["gain"].values())))
    lines = [
        "| 95% interval of | of the population | examples of a group | "
        + " | ".join(f"{count} groups" for count in counts)
        + " |",
        "|---" * (3 + len(counts)) + "|",
    ]
    for name, words in MEASURES.items():
        for size, row in found[name].items():
            cells = []
            for one in row.values():
                missing = one["n"] - one["known"]
                none = f" ({missing / one['n']:.0%} have none)" if missing else ""
                cells.append(f"{one['held'] / max(1, one['known']):.1%}{none}")
            truth = next(iter(row.values()))["truth"]
            lines.append(f"| {words} | {truth:.3f} | {size} | {' | '.join(cells)} |")
    return ["\n".join(lines)]


def main(study: CoveragePretrained) -> None:
    """Runs, prints the table, and keeps the numbers where asked."""
    found = json.loads(json.dumps(study.run()))
    print("\n\n".join(tables(found)))
    if study.numbers is not None:
        keep(study.numbers, "coverage_pretrained", found)


if __name__ == "__main__":
    try:
        main(tyro.cli(CoveragePretrained))
    except ValueError as error:
        sys.exit(f"coverage_pretrained: {error}")
