"""How often does a search for the cell to steer at find what is not there?

    python studies/search_nulls.py                              # three quarters of an hour on one core
    python studies/search_nulls.py --numbers docs/trust.json    # also keeps the numbers of the docs

Every repeat draws fresh data of the reference world and gives each pair of contexts its sides by the
toss of a coin, so that the labels say nothing. Then it searches as a user would: single layers, and
sets of two. The type I error is the share of repeats in which p is at most 0.05. Both searches have the
same data.

Each repeat is a line of the output; a killed study goes on where it was.
"""

from __future__ import annotations

import json
import random
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from shares import share
from study_folder import claim_folder, keep
from tqdm.auto import tqdm

from steerlens.analyses.prediction.find_cell import find_cell
from steerlens.data import ContrastSet
from steerlens.experiment.experiment_data import WORLD, load_data
from steerlens.models.model import Model
from steerlens.store.files import write_text
from steerlens.testbed.grammar import CONCEPTS

SEARCHES: dict[str, dict[str, Any]] = {
    "single layers, the usual search": {},
    "sets of two layers, a quarter of the layers": {"share": 0.25, "sets": 2},
}


@dataclass(frozen=True, kw_only=True)
class SearchNulls:
    """Searches of the reference model where sides mean nothing."""

    repeats: int = 102
    """Of each concept."""
    n_fit: int = 100
    """Pairs that fit the directions."""
    n_choose: int = 32
    """Questions that choose."""
    n_neutral: int = 64
    """Ordinary texts."""
    nulls: int = 20
    """Null maps of either kind."""
    threads: int = 1
    """CPU threads."""
    output: Path = Path("results/search_nulls")
    """Folder of the repeats; another study is not continued."""
    numbers: Path | None = None
    """A JSON file that keeps the summary, under "search_nulls"."""

    def run(self) -> dict[str, Any]:
        """Does what is not done yet, and sums up."""
        torch.set_num_threads(self.threads)
        settings = {k: v for k, v in asdict(self).items() if k.startswith("n")}
        claim_folder(self.output, {k: v for k, v in settings.items() if k != "numbers"})
        path = self.output / "repeats.jsonl"
        text = path.read_text("utf-8") if path.exists() else ""
        text = text[: text.rfind("\n") + 1]  # a killed study may have left half a line
        write_text(path, text)
        found = [json.loads(line) for line in text.splitlines()]
        done = {(one["search"], one["concept"], one["repeat"]) for one in found}
        todo = [
            (search, concept, index)
            for index in range(self.repeats)
            for concept in CONCEPTS
            for search in SEARCHES
            if (search, concept, index) not in done
        ]
        model = Model.load("reviews")
        for one in tqdm(todo, desc="searches", disable=None):
            found.append(self.searched(model, *one))
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found[-1]) + "\n")
        return summary(found, self.repeats)

    def searched(self, model: Model, search: str, concept: str, index: int) -> dict[str, Any]:
        """One search."""
        sizes = self.n_fit, self.n_choose, 1
        data = load_data(WORLD + concept, None, sizes, self.n_neutral, index)
        toss = random.Random(f"{concept} {index}")
        groups = data.fit.groups  # pairs of a group turn together
        turned = {group: toss.random() < 0.5 for group in sorted(set(groups))}
        pairs = tuple(
            pair.flipped() if turned[group] else pair
            for pair, group in zip(data.fit, groups, strict=True)
        )
        # Null maps have seeds from this one on: those of two repeats must not overlap.
        seed = 1000 * (len(CONCEPTS) * index + CONCEPTS.index(concept))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = find_cell(
                model, ContrastSet(data.fit.name, pairs), data.choose,
                neutral=list(data.neutral or ()), nulls=self.nulls, seed=seed, progress=False,
                **SEARCHES[search],
            )  # fmt: skip
        return {
            "search": search, "concept": concept, "repeat": index, "p": found.map.p_value,
            "cell": None if found.cell is None else str(found.cell),
        }  # fmt: skip


def summary(found: list[dict[str, Any]], repeats: int) -> dict[str, Any]:
    """Shares of the repeats of each search."""
    rows = {}
    for search in SEARCHES:
        own = [one for one in found if one["search"] == search and one["repeat"] < repeats]
        rows[search] = {
            "p ≤ 0.05": share([one["p"] <= 0.05 for one in own]),
            "p ≤ 0.1": share([one["p"] <= 0.1 for one in own]),
            "a cell to use": share([one["cell"] is not None for one in own]),
        }
    return rows


def tables(found: dict[str, Any]) -> list[str]:
    """The numbers as a table of the page."""
    lines = ["| search | searches | p ≤ 0.05 | p ≤ 0.1 | a cell to use |", "|---|---|---|---|---|"]
    for search, row in found.items():
        cells = [
            f"{one['share']:.1%} [{one['interval'][0]:.1%}, {one['interval'][1]:.1%}]"
            for one in row.values()
        ]
        lines.append(f"| {search} | {row['p ≤ 0.05']['n']} | {' | '.join(cells)} |")
    return ["\n".join(lines)]


def main(study: SearchNulls) -> None:
    """Prints a table."""
    found = study.run()
    print(*tables(found))
    if study.numbers is not None:
        keep(study.numbers, "search_nulls", found)


if __name__ == "__main__":
    main(tyro.cli(SearchNulls, args=sys.argv[1:]))
