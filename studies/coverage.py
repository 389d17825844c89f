"""Do the intervals hold, and how often does a map see what is not there?

    python studies/coverage.py                              # about two hours on one core
    python studies/coverage.py --numbers docs/trust.json    # also keeps the numbers of the docs

Every repeat draws fresh data of the reference world and makes a map as a user would. With real
labels, the intervals of the chosen cell are compared with the truth: the same cell and direction on
a sample so large that its own error is negligible. With shuffled labels, there is nothing to find.

Maps and large samples are kept as they are finished: a killed study goes on where it was, to the
same numbers, and after a change of the statistics the same command only sums up anew.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from shares import share
from study_folder import claim_folder, keep
from torch import Tensor
from tqdm.auto import tqdm

from steerlens import stats
from steerlens.analyses.steerability.confirmation import Confirmation
from steerlens.analyses.steerability.measure_steerability import steerability
from steerlens.analyses.steerability.steerability_map import SteerabilityMap
from steerlens.data import ContrastSet
from steerlens.directions.methods import DiffMean
from steerlens.experiment.experiment_data import WORLD, Data, load_data
from steerlens.interventions.residual import Add
from steerlens.measures import scores
from steerlens.measures.divergence import divergence
from steerlens.measures.reading import activations
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.stats import Interval
from steerlens.store.tensors import read_tensors, write_tensors
from steerlens.testbed.grammar import CONCEPTS
from steerlens.units import BUDGET

FAR = 1_000_000
"""Seeds of the large samples start here, beyond those of any repeat."""
MEASURES = {
    "held_gain": "gain, held out",
    "chosen_gain": "gain, choosing questions",
    "utility": "utility change, held out",
    "kl": "KL, held out",
    "wrong_way": "share the wrong way, held out",
}
FLAGS = {
    "shuffled": "p ≤ 0.05 against shuffled labels",
    "random": "p ≤ 0.05 against the direction null",
    "both": "p ≤ 0.05 against both",
    "any": "a cell above both nulls",
    "recommended": "a cell to use",
}


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Repeats of a whole experiment on the reference model."""

    concepts: tuple[str, ...] = CONCEPTS
    """Concepts of the reference world."""
    repeats: int = 102
    """Repeats of each concept with real labels, and as many with shuffled ones."""
    n_fit: int = 100
    """Pairs that fit the directions."""
    n_choose: int = 32
    """Questions that choose the cell."""
    n_report: int = 48
    """Questions that report on it."""
    n_neutral: int = 64
    """Ordinary texts; half of them choose and half report."""
    nulls: int = 20
    """Null maps of either kind."""
    draws: int = 100
    """The large sample is this many draws of questions and texts like those of one repeat."""
    again: int = 10
    """Samples of a repeat's size out of its large one: more intervals of every cell."""
    block: int = 100
    """Repeats whose truths are measured at once."""
    seed: int = 0
    """Seeds everything."""
    threads: int = 1
    """CPU threads."""
    output: Path = Path("results/coverage")
    """Folder of maps and large samples; another study is not continued."""
    numbers: Path | None = None
    """A JSON file that keeps the summary, under "coverage"."""

    def __post_init__(self) -> None:
        if min(self.repeats, self.draws, self.again, self.block, self.threads) < 1:
            raise ValueError("repeats, draws, again, block and threads must be at least 1.")

    @property
    def settings(self) -> dict[str, Any]:
        """What changes a repeat; more repeats only add to them."""
        names = "n_fit", "n_choose", "n_report", "n_neutral", "nulls", "draws", "seed"
        return {name: value for name, value in asdict(self).items() if name in names}

    @cached_property
    def model(self) -> Model:
        return Model.load("reviews")

    def run(self) -> dict[str, Any]:
        """Does what is not done yet, and sums up."""
        torch.set_num_threads(self.threads)
        claim_folder(self.output, self.settings)
        tasks = [
            (kind, concept, index)
            for index in range(self.repeats)
            for kind in ("real", "shuffled")
            for concept in self.concepts
        ]
        for task in tqdm(tasks, desc="repeats", unit="map"):
            folder = self.folder(*task)
            if not (folder / "map.json").exists():
                self.repeat(*task).save(folder)
        for concept in self.concepts:
            self._measure_truths(concept)
        return summary(self)

    def folder(self, kind: str, concept: str, index: int) -> Path:
        """Where a repeat is kept."""
        return self.output / f"{kind}-{concept}-{index}"

    def maps(self, kind: str, concept: str) -> Iterator[tuple[int, SteerabilityMap]]:
        """The finished repeats of a kind."""
        for index in range(self.repeats):
            yield index, SteerabilityMap.load(self.folder(kind, concept, index))

    def seeded(self, index: int) -> int:
        """The data's seed; a repeat of every concept is about the same documents."""
        return FAR // 10 * self.seed + index

    def data(self, concept: str, seed: int) -> Data:
        """Fresh data of one repeat."""
        sizes = self.n_fit, self.n_choose, self.n_report
        return load_data(WORLD + concept, None, sizes, self.n_neutral, seed)

    def repeat(self, kind: str, concept: str, index: int) -> SteerabilityMap:
        """One map, as a user makes it."""
        seed = self.seeded(index)
        data = self.data(concept, seed)
        read = activations(self.model, data.fit, progress=False)
        if kind == "shuffled":
            read = read.shuffled(FAR + seed)  # other shuffles than those of the nulls
        return steerability(
            self.model, read, data.choose, data.report if kind == "real" else None,
            neutral=list(data.neutral or ()), nulls=self.nulls, seed=seed, progress=False,
        )  # fmt: skip

    # Truth

    def truth_file(self, concept: str, index: int) -> Path:
        """The large sample of a repeat's cell."""
        return self.output / f"truth-{concept}-{index}.safetensors"

    def _measure_truths(self, concept: str) -> None:
        todo = [
            (self.truth_file(concept, index), self._edit(concept, index, found))
            for index, found in self.maps("real", concept)
            if found.confirmation and not self.truth_file(concept, index).exists()
        ]
        if not todo:
            return
        many = [self.data(concept, FAR + i) for i in range(self.draws)]
        blocks = [todo[i : i + self.block] for i in range(0, len(todo), self.block)]
        for block in tqdm(blocks, desc=f"truth of {concept}", unit="block"):
            found = self.truths(many, [edit for _, edit in block])
            for i, (path, _) in enumerate(block):
                write_tensors(path, {name: values[i] for name, values in found.items()})

    def _edit(self, concept: str, index: int, found: SteerabilityMap) -> Add:
        """The chosen cell's edit, made again; multiplier 1 is the cell's own."""
        assert found.confirmation is not None and found.lengths is not None
        cell = found.confirmation.cell
        site, length = cell.site, found.lengths[found.find(cell.row)]
        assert site is not None
        fit = self.data(concept, self.seeded(index)).fit
        direction = activations(self.model, fit, [site], progress=False).direction(site, DiffMean())
        return Add(direction, unit=length * cell.multiplier)

    def truths(self, many: Sequence[Data], edits: Sequence[Add]) -> dict[str, Tensor]:
        """What each edit does on the large sample: [edit, draw, example]."""
        chosen, _ = self._gains([data.choose for data in many], edits)
        held, utility = self._gains([data.report for data in many], edits)
        texts = [text for data in many for text in list(data.neutral or ())[1::2]]
        kl = divergence(self.model, texts, edits, (0.0, 1.0), progress=False)[:, 1]
        return {
            "chosen_gain": chosen,
            "held_gain": held,
            "utility": utility,
            "kl": kl.unflatten(-1, (self.draws, -1)),
            "wrong_way": (held < 0).float(),
        }

    def _gains(self, sets: Sequence[ContrastSet], edits: Sequence[Add]) -> tuple[Tensor, Tensor]:
        """[edit, set, question]: change of the propensity and of the utility."""
        pairs = [pair for one in sets for pair in one]
        # Prompts of like length together: a sweep pads all its prompts to the longest.
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].prompt.split()))
        changes = torch.empty(2, len(edits), len(pairs))
        size = -(-len(order) // 8)
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            swept = sweep(self.model, [pairs[i] for i in rows], edits, (0.0, 1.0), progress=False)
            for k, x in enumerate((scores.preference(swept), scores.utility(swept).value)):
                changes[k][:, rows] = x[:, 1] - x[:, 0]
        gains, utilities = changes.unflatten(-1, (len(sets), -1))
        return gains, utilities


# Summing up


class Claim(NamedTuple):
    """A claimed interval, what is true, and the standard error of the truth itself."""

    claimed: Interval
    truth: float
    error: float

    @property
    def holds(self) -> bool:
        return self.claimed.low <= self.truth <= self.claimed.high


def summary(study: Coverage) -> dict[str, Any]:
    """Shares with Wilson's intervals, by concept and over all."""
    own: dict[str, list[dict[str, Claim]]] = {c: [] for c in study.concepts}
    again: dict[str, list[dict[str, Claim]]] = {c: [] for c in study.concepts}
    said: dict[tuple[str, str], list[dict[str, bool]]] = {}
    for concept in tqdm(study.concepts, desc="summing up", unit="concept"):
        for kind in ("real", "shuffled"):
            said[kind, concept] = [flags(found) for _, found in study.maps(kind, concept)]
        for index, found in study.maps("real", concept):
            chosen = found.recommend()
            if found.confirmation is None or chosen.gain is None:
                continue
            large = read_tensors(study.truth_file(concept, index))
            claims = claims_of(found.confirmation, large)
            own[concept].append({**claims, "chosen_gain": claim(chosen.gain, large["chosen_gain"])})
            for other in samples(found.confirmation, large, study.again, index):
                again[concept].append(claims_of(other, large))
    out: dict[str, Any] = {"settings": study.settings, "repeats": study.repeats}
    for name, group in {**{c: (c,) for c in study.concepts}, "all": study.concepts}.items():
        mine = [claims for c in group for claims in own[c]]
        fresh = [claims for c in group for claims in again[c]]
        out[name] = {
            "coverage": {m: coverage_of([claims[m] for claims in mine]) for m in MEASURES},
            "again": {
                m: share([x[m].holds for x in fresh if x[m].claimed.known])
                for m in MEASURES
                if m != "chosen_gain"
            },
            "over_budget": share([one["kl"].truth > BUDGET for one in mine]),
            "flagged": {
                kind: {f: share([x[f] for c in group for x in said[kind, c]]) for f in FLAGS}
                for kind in ("real", "shuffled")
            },
        }
    return out


def flags(found: SteerabilityMap) -> dict[str, bool]:
    """In which senses a map says that there is something."""
    return {
        "both": found.p_value <= 0.05,
        "shuffled": found.label_null is not None and found.label_null.p_value <= 0.05,
        "random": found.direction_null is not None and found.direction_null.p_value <= 0.05,
        "any": bool(found.exceeds.any()),
        "recommended": found.recommend().cell is not None,
    }


def claims_of(said: Confirmation, large: dict[str, Tensor]) -> dict[str, Claim]:
    """Every interval of a confirmation, against the large sample."""
    claimed = {
        "held_gain": said.gain, "utility": said.utility, "kl": said.cost,
        "wrong_way": said.wrong_way,
    }  # fmt: skip
    return {name: claim(interval, large[name]) for name, interval in claimed.items()}


def claim(claimed: Interval, large: Tensor) -> Claim:
    draws = large.double().mean(-1)  # which are independent of each other
    error = float(draws.std() / len(draws) ** 0.5) if len(draws) > 1 else math.nan
    return Claim(claimed, float(draws.mean()), error)


def samples(
    like: Confirmation, large: dict[str, Tensor], times: int, seed: int
) -> Iterator[Confirmation]:
    """Confirmations of the same cell on as many examples, out of the large sample."""
    generator = torch.Generator().manual_seed(seed)
    gains, utilities, kl = (large[name].flatten() for name in ("held_gain", "utility", "kl"))
    for _ in range(times):
        asked = torch.randperm(len(gains), generator=generator)[: len(like.gains)]
        read = torch.randperm(len(kl), generator=generator)[: len(like.kl)]
        yield Confirmation(like.cell, gains[asked], utilities[asked], kl[read])


def coverage_of(claims: Sequence[Claim]) -> dict[str, Any]:
    """How often a claimed interval holds the truth, and on which side it misses."""
    claims = [c for c in claims if c.claimed.known]
    if not claims:
        return {}
    off = torch.tensor([c.claimed.value - c.truth for c in claims])
    bias = stats.interval_of_mean(off) if len(off) > 1 else Interval(float(off), math.nan, math.nan)
    return {
        "covered": share([c.holds for c in claims]),
        "truth_below": sum(c.truth < c.claimed.low for c in claims),
        "truth_above": sum(c.truth > c.claimed.high for c in claims),
        "truth": sum(c.truth for c in claims) / len(claims),
        "truth_error": sum(c.error for c in claims) / len(claims),
        "bias": list(bias),
        "width": sum(c.claimed.high - c.claimed.low for c in claims) / len(claims),
    }


# Showing


def _bias(bounds: Sequence[float]) -> str:
    """A bias; one that is the same in all repeats has no interval."""
    value, low, high = bounds
    return f"{value:+.3f}" if math.isnan(low) else f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def tables(found: dict[str, Any]) -> list[str]:
    """The tables of docs/trust.md: coverage, and what is flagged."""
    groups = [name for name in found if name not in ("settings", "repeats")]
    covered = [
        "| 95% interval of | concept | repeats | covers the truth | truth below / above it | "
        "bias | width | truth, its error | covers, drawn again |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for measure, words in MEASURES.items():
        for group in groups:
            c = found[group]["coverage"][measure]
            if not c:
                continue
            again = found[group]["again"].get(measure)
            cells = (
                words, group, str(c["covered"]["n"]), _share(c["covered"]),
                f"{c['truth_below']} / {c['truth_above']}",
                _bias(c["bias"]), f"{c['width']:.3f}",
                f"{c['truth']:.3f} ± {c['truth_error']:.3f}",
                f"{again['share']:.1%}" if again else "",
            )  # fmt: skip
            covered.append(f"| {' | '.join(cells)} |")
    flagged = [
        "| the map says | labels | " + " | ".join(groups) + " |",
        "|---" * (2 + len(groups)) + "|",
    ]
    for kind in ("shuffled", "real"):
        for flag, words in FLAGS.items():
            cells = [_share(found[group]["flagged"][kind][flag]) for group in groups]
            flagged.append(f"| {words} | {kind} | {' | '.join(cells)} |")
    cells = [_share(found[group]["over_budget"]) for group in groups]
    flagged.append(
        f"| a cell to use, whose true KL is over the budget | real | {' | '.join(cells)} |"
    )
    return ["\n".join(covered), "\n".join(flagged)]


def _share(found: dict[str, Any]) -> str:
    if not found["n"]:
        return ""
    low, high = found["interval"]
    return f"{found['share']:.1%} [{low:.1%}, {high:.1%}]"


def main(study: Coverage) -> None:
    """Runs, prints the tables, and keeps the numbers where asked."""
    found = json.loads(json.dumps(study.run()))
    print("\n\n".join(tables(found)))
    if study.numbers is not None:
        keep(study.numbers, "coverage", found)


if __name__ == "__main__":
    try:
        main(tyro.cli(Coverage))
    except ValueError as error:
        sys.exit(f"coverage: {error}")
