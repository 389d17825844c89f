"""How often does the printed p reject what is not the contrast, and how often the contrast?

    python studies/null_tests.py --numbers docs/trust.json    # about an hour on one core
    python studies/null_tests.py --model smollm2-135m-instruct --contrasts fit.jsonl:questions.jsonl …

Every repeat draws fresh data of the reference world (the same for every kind), fits directions at
three layers, brings them to one length and makes the map and its null maps, as `steerability` does.
Four kinds of directions are asked about a concept:

real        fitted to pairs of the concept: what should be found
shuffled    fitted to the same pairs with shuffled labels
unrelated   fitted to pairs of another concept: a readable contrast, but not this one
random      of no data at all

and three nulls are made for each: directions fitted to shuffled labels at their own length,
isotropic directions, and directions of shuffled labels at the full length from which the observed
direction is projected out. The printed p is the larger of the label null and a direction null. As
in `steerability`, null maps are made in batches until the answer is clear. With copies, every pair
of the fitting data is there several times, as one group; there only the printed p is taken, and
the direction null is made where the label null alone does not settle it.

With files of contrasts, a repeat draws some of the pairs and of the questions that are there, without
replacement. Its maps then share examples with those of other repeats, so their number is not that of
independent experiments.

Repeats are kept as they are finished: a killed study goes on where it was, to the same numbers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
import tyro
from shares import share
from study_folder import claim_folder, keep
from tqdm.auto import tqdm

from steerlens import stats
from steerlens.analyses.steerability.fitted_family import FittedFamily
from steerlens.analyses.steerability.nulls import MakeMaps, null_gains
from steerlens.data import ContrastSet
from steerlens.directions import Activations
from steerlens.directions.methods import DiffMean, Random
from steerlens.experiment.experiment_data import WORLD, load_data
from steerlens.interventions.residual import Add
from steerlens.measures.reading import activations
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.sites import Positions, Site
from steerlens.store.cells import cells_or_none
from steerlens.store.files import write_text
from steerlens.testbed.grammar import CONCEPTS

KINDS = ("real", "shuffled", "unrelated", "random")
NULLS = {
    "label": "shuffled labels, own length",
    "isotropic": "isotropic directions",
    "projected": "shuffled labels, equal length, projected",
    "with_isotropic": "the larger of label null and isotropic",
    "with_projected": "the larger of label null and projected",
}
SEEDS = 2_000_000
"""Seeds of the observed shuffles and random directions start here, beyond those of the nulls."""


@dataclass(frozen=True, kw_only=True)
class NullTests:
    """Repeats of a map of each kind of direction, with three nulls."""

    model: str = "reviews"
    """What `Model.load` takes."""
    concepts: tuple[str, ...] = CONCEPTS
    """Concepts of the reference world that are asked about, in turn."""
    contrasts: tuple[str, ...] = ()
    """Files of pairs and questions with a colon between them, instead of concepts; two or more."""
    kinds: tuple[str, ...] = KINDS
    """Kinds of observed directions."""
    copies: tuple[int, ...] = (1, 2, 4)
    """How often every fitting pair is there."""
    repeats: int = 300
    """Maps of each kind, without copies."""
    copied_repeats: int = 300
    """Maps of each kind for every other number of copies."""
    real_repeats: int = 60
    """At most so many maps of real contrasts, which need all null maps."""
    layers: tuple[int, ...] = (2, 4, 6)
    """Layers of the map."""
    multipliers: tuple[float, ...] = (-0.5, -0.25, 0.0, 0.25, 0.5)
    """Strengths, in median norms of the stream."""
    n_fit: int = 48
    """Groups of fitting pairs."""
    n_choose: int = 24
    """Questions of the map."""
    nulls: int = 20
    """Null maps of each kind."""
    seed: int = 0
    """Seeds everything."""
    threads: int = 1
    """CPU threads."""
    output: Path = Path("results/null_tests")
    """Folder of the repeats; another study is not continued."""
    numbers: Path | None = None
    """A JSON file that keeps the summary, under "null_tests"."""

    def __post_init__(self) -> None:
        least = min(
            self.repeats, self.copied_repeats, self.real_repeats, self.threads, *self.copies
        )
        if least < 1:
            raise ValueError("Repeats, threads and copies must be at least 1.")
        if unknown := set(self.kinds) - set(KINDS):
            raise ValueError(f"kinds={sorted(unknown)} are none of {', '.join(KINDS)}.")
        if len(self.names) < 2 and "unrelated" in self.kinds:
            raise ValueError("One contrast has no unrelated one. Give two or more, or other kinds.")

    @property
    def settings(self) -> dict[str, Any]:
        """What changes a repeat; more repeats, kinds and copies only add to them."""
        added = [
            "kinds", "copies", "repeats", "copied_repeats", "real_repeats", "threads", "output",
            "numbers",
        ]  # fmt: skip
        added += ["concepts"] if self.contrasts else ["model", "contrasts"]
        return {name: value for name, value in asdict(self).items() if name not in added}

    @property
    def names(self) -> tuple[str, ...]:
        """What is asked about, in turn."""
        return self.contrasts or self.concepts

    @cached_property
    def loaded(self) -> Model:
        return Model.load(self.model)

    def run(self) -> dict[str, Any]:
        """Does what is not done yet, and sums up."""
        torch.set_num_threads(self.threads)
        claim_folder(self.output, self.settings)
        tasks = [
            (kind, copies, index)
            for index in range(self.repeats)
            for copies in self.copies
            for kind in self.kinds
            if index < self.times(kind, copies)
        ]
        for kind, copies, index in tqdm(tasks, desc="repeats", unit="map"):
            path = self.file(kind, copies, index)
            if not path.exists():
                write_text(path, json.dumps(self.repeat(kind, copies, index)))
        return self.summary()

    def times(self, kind: str, copies: int) -> int:
        """How many maps there are of a kind."""
        most = self.repeats if copies == 1 else min(self.repeats, self.copied_repeats)
        return min(self.real_repeats, most) if kind == "real" else most

    @lru_cache(maxsize=4)  # noqa: B019  one study lives as long as its process
    def read(self, name: str, index: int) -> tuple[Activations, ContrastSet]:
        """Activations of the fitting pairs of a repeat, and the questions about the contrast."""
        seed = 1000 * self.seed + index
        if self.contrasts:
            read, asked = self.everything(name)
            draw = torch.Generator().manual_seed(seed)
            pairs = torch.randperm(len(read), generator=draw)[: self.n_fit]
            questions = torch.randperm(len(asked), generator=draw)[: self.n_choose].tolist()
            return chosen(read, pairs), ContrastSet(asked.name, tuple(asked[i] for i in questions))
        data = load_data(WORLD + name, None, (self.n_fit, self.n_choose, 8), 4, seed)
        return activations(self.loaded, data.fit, self.sites, progress=False), data.choose

    @lru_cache(maxsize=16)  # noqa: B019
    def everything(self, name: str) -> tuple[Activations, ContrastSet]:
        """Activations of all pairs of a file, and all questions of the other."""
        fit, _, questions = name.partition(":")
        asked = ContrastSet.load(questions)
        pairs = ContrastSet.load(fit).without(asked)
        return activations(self.loaded, pairs, self.sites, progress=False), asked

    @property
    def sites(self) -> list[Site]:
        return [Site(layer) for layer in self.layers]

    def file(self, kind: str, copies: int, index: int) -> Path:
        """Where a repeat is kept."""
        return self.output / f"{kind}-{copies}" / f"{index}.json"

    def repeat(self, kind: str, copies: int, index: int) -> dict[str, float]:
        """The p-value of one map against each null."""
        names, sites = self.names, self.sites
        seed = 1000 * self.seed + len(KINDS) * index + KINDS.index(kind) + 100_000 * copies
        read, asked = self.read(names[index % len(names)], index)
        if kind == "unrelated":
            read, _ = self.read(names[(index + 1 + index // 3 % 2) % len(names)], index)
        read = copied(read, copies)
        observed = read.shuffled(SEEDS + seed) if kind == "shuffled" else read
        directions = tuple(observed.direction(site, DiffMean()) for site in sites)
        if kind == "random":
            directions = tuple(
                read.direction(site, Random(SEEDS + 10 * seed + i)) for i, site in enumerate(sites)
            )
        lengths = tuple(float(Add(d).step.norm()) for d in directions)
        family = FittedFamily(
            read, DiffMean(), directions, Positions.from_prompt_end(), "resid_norm", lengths
        )
        first = 1000 * seed
        # A random direction has no own length that shuffles could be shorter than in proportion:
        # they are as long as those of the pairs.
        own = FittedFamily(
            read, DiffMean(), tuple(read.direction(s, DiffMean()) for s in sites),
            family.positions, "resid_norm", lengths,
        ) if kind == "random" else family  # fmt: skip
        makers: dict[str, MakeMaps] = {
            "label": lambda ks: [own.shuffled(first + k) for k in ks],
            "projected": lambda ks: [family.projected(first + 500 + k) for k in ks],
            "isotropic": lambda ks: [family.random(first + 10 * k) for k in ks],
        }
        gains = self._gains(asked, list(family.arms.values()))
        found: dict[str, float] = {}
        for name, make in makers.items() if copies == 1 else list(makers.items())[:2]:
            if copies > 1 and found.get("label", 0.0) > 0.05:
                found[f"with_{name}"] = found["label"]  # the larger of two is no smaller
                continue
            found[name] = self._p_value(asked, make, gains)
            if name != "label":
                found[f"with_{name}"] = max(found["label"], found[name])
        return found

    def _p_value(self, asked: ContrastSet, make: MakeMaps, observed: torch.Tensor) -> float:
        none = cells_or_none(None, "nulls", progress=False)
        made = null_gains(
            self.loaded, asked, make, observed, self.multipliers, self.nulls, none
        )  # fmt: skip
        assert made is not None
        return stats.max_statistic(observed, made, planned=self.nulls).p_value

    def _gains(self, asked: ContrastSet, edits: Sequence[Add]) -> torch.Tensor:
        odds = sweep(
            self.loaded, asked, edits, self.multipliers, log_odds_only=True, progress=False
        ).log_odds
        sign = torch.tensor(self.multipliers).sign()
        zero = self.multipliers.index(0.0)
        return (odds - odds[:, zero, None]).mean(-1) * sign

    def summary(self) -> dict[str, Any]:
        """The share of maps with p of at most 0.05, for each kind, number of copies and null."""
        out: dict[str, Any] = {"settings": self.settings, "repeats": self.repeats}
        for kind in self.kinds:
            for copies in self.copies:
                found = [
                    json.loads(self.file(kind, copies, i).read_text("utf-8"))
                    for i in range(self.times(kind, copies))
                ]
                out.setdefault(kind, {})[str(copies)] = {
                    name: share([one[name] <= 0.05 for one in found])
                    for name in NULLS
                    if all(name in one for one in found)
                }
        return out


def copied(read: Activations, times: int) -> Activations:
    """Every pair several times, each with its copies as one group."""
    return chosen(read, torch.arange(len(read)).repeat(times))


def chosen(read: Activations, rows: torch.Tensor) -> Activations:
    """Those of some pairs; a pair may be there several times."""
    return replace(
        read,
        positive=read.positive[rows],
        negative=read.negative[rows],
        groups=tuple(read.groups[i] for i in rows.tolist()),
    )


def tables(found: dict[str, Any]) -> list[str]:
    """The table of docs/trust.md: how often p is at most 0.05."""
    lines = [
        "| observed direction | copies | maps | " + " | ".join(NULLS.values()) + " |",
        "|---" * (3 + len(NULLS)) + "|",
    ]
    for kind in KINDS:
        for copies, shares in found.get(kind, {}).items():
            n = next(iter(shares.values()))["n"]
            cells = [
                "{:.1%} [{:.1%}, {:.1%}]".format(shares[m]["share"], *shares[m]["interval"])
                if m in shares
                else ""
                for m in NULLS
            ]
            lines.append(f"| {kind} | {copies} | {n} | {' | '.join(cells)} |")
    return ["\n".join(lines)]


def main(study: NullTests) -> None:
    """Runs, prints the table, and keeps the numbers where asked."""
    found = json.loads(json.dumps(study.run()))
    print("\n\n".join(tables(found)))
    if study.numbers is not None:
        name = "null_tests" if study.model == "reviews" else f"null_tests, {study.model}"
        keep(study.numbers, name, found)


if __name__ == "__main__":
    try:
        main(tyro.cli(NullTests))
    except ValueError as error:
        sys.exit(f"null_tests: {error}")
