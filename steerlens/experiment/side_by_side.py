"""Finished runs side by side, and their gains question by question where they asked the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from steerlens import stats
from steerlens.analyses.probe.probe_map import ProbeMap
from steerlens.analyses.steerability.steerability_map import SteerabilityMap
from steerlens.experiment.experiment_data import ExperimentError
from steerlens.experiment.run import Run
from steerlens.stats import Interval

if TYPE_CHECKING:
    import pandas

WIDEST = 44
"""Characters of a run's column."""


@dataclass(frozen=True)
class Difference:
    """How much more one run gains than another, held out."""

    first: str
    second: str
    gain: Interval | None
    """First minus second in nats, mean over the shared questions; None where they share none."""
    why: str
    """How many questions the interval is of, or why there is none."""

    def __str__(self) -> str:
        if self.gain is None:
            return f"{self.first} - {self.second}: not compared, {self.why}"
        return f"{self.first} - {self.second}: {self.gain} nats ({self.why})"


@dataclass(frozen=True, repr=False)
class SideBySide:
    """What finished runs say, quantity by quantity."""

    runs: tuple[str, ...]
    """The folder of each."""
    quantities: Mapping[str, tuple[str, ...]]
    """By quantity: the words of each run, "" where it has none."""
    differences: tuple[Difference, ...]
    """Of every two runs with held-out gains."""

    def to_frame(self) -> pandas.DataFrame:
        """A row for each run, a column for each quantity."""
        import pandas

        return pandas.DataFrame({"run": self.runs, **{k: v for k, v in self.quantities.items()}})

    def __repr__(self) -> str:
        columns = [["", *self.quantities]]
        for i, run in enumerate(self.runs):
            columns.append([run, *(words[i] or "-" for words in self.quantities.values())])
        wide = [max(map(len, column)) for column in columns]
        if sum(wide) + 2 * len(wide) > 150:  # one run below the other
            return "\n".join([*self._by_quantity(), *self._words()])
        lines = []
        for k in range(len(columns[0])):
            parts = (f"{column[k]:<{width}}" for column, width in zip(columns, wide, strict=True))
            lines.append("  ".join(parts).rstrip())
        return "\n".join([*lines, *self._words()])

    def _by_quantity(self) -> list[str]:
        lines = []
        label = max(map(len, self.runs))
        for name, words in self.quantities.items():
            lines.append(name)
            lines += [
                f"  {run:<{label}}  {said or '-'}"
                for run, said in zip(self.runs, words, strict=True)
            ]
        return lines

    def _words(self) -> list[str]:
        if not self.differences:
            return []
        head = "gain held out, first minus second, paired by question:"
        return ["", head, *(f"  {one}" for one in self.differences)]


def compare_runs(runs: Sequence[Run]) -> SideBySide:
    """Finished runs side by side: settings that differ, what was found, and paired differences.

    Gains are compared at each run's own recommended cell, on the held-out questions. Where two runs
    asked the very same ones, the interval is of the difference on each question, over groups of
    questions, and is narrower than both; else they are not subtracted.

    Raises:
        ExperimentError: If there are fewer than two runs, or one is given twice.
    """
    names = tuple(run.folder.name for run in runs)
    if len(runs) < 2 or len({run.folder.resolve() for run in runs}) < len(runs):
        raise ExperimentError(
            f"{len(runs)} run(s) were given ({', '.join(names)}). Give two or more different ones."
        )
    if len(set(names)) < len(names):  # of the same name in different folders
        names = tuple(str(run.folder) for run in runs)
    quantities: dict[str, tuple[str, ...]] = {}
    for name, words in {**_settings(runs), **_found(runs)}.items():
        if any(words):
            quantities[name] = words
    pairs = combinations(zip(names, runs, strict=True), 2)
    differences = [_difference(*first, *second) for first, second in pairs]
    return SideBySide(names, quantities, tuple(d for d in differences if d is not None))


def _settings(runs: Sequence[Run]) -> dict[str, tuple[str, ...]]:
    """Model and contrast, and every other field in which the runs differ."""
    fields: list[Mapping[str, Any]] = [run.manifest["fields"] for run in runs]
    out: dict[str, tuple[str, ...]] = {}
    for name in dict.fromkeys(key for one in fields for key in one):
        words = tuple("" if one.get(name) is None else str(one.get(name)) for one in fields)
        if name in ("model", "contrast") or len(set(words)) > 1:
            out[name] = tuple(_cut(word) for word in words)
    out["started"] = tuple(str(run.manifest.get("started", "")) for run in runs)
    return out


def _found(runs: Sequence[Run]) -> dict[str, tuple[str, ...]]:
    each = [_of_run(run) for run in runs]
    names = dict.fromkeys(key for one in each for key in one)
    return {name: tuple(one.get(name, "") for one in each) for name in names}


def _of_run(run: Run) -> dict[str, str]:
    """What one run found, in words."""
    out: dict[str, str] = {}
    for result in run.results.values():
        if isinstance(result, SteerabilityMap):
            out |= _of_map(result)
        elif isinstance(result, ProbeMap):
            out["probe"] = f"AUROC {result.best_auroc} at {result.best}"
        elif result.headline:
            out |= {name: words for name, words in result.headline.items() if name not in out}
    return out


def _of_map(made: SteerabilityMap) -> dict[str, str]:
    found, held = made.recommend(), made.confirmation
    out = {"best cell": "none" if found.cell is None else str(found.cell)}
    if found.gain is not None:
        out["gain, choosing"] = f"{found.gain} nats"
    if held is not None:
        out["gain, held out"] = f"{held.gain} nats"
        out["cost, held out"] = f"{held.cost} nats of KL"
        out["wrong way"] = str(held.wrong_way)
    if made.nulls:
        out["p"] = f"{made.p_value:.3g}"
    if found.written is not None:
        out["in writing"] = found.written.verdict
    return out


def _difference(first: str, one: Run, second: str, other: Run) -> Difference | None:
    held = [_confirmation(run) for run in (one, other)]
    if held[0] is None or held[1] is None:
        return None
    asked = [run.manifest.get("data", {}).get("report", {}).get("hash") for run in (one, other)]
    if asked[0] is None or asked[0] != asked[1] or len(held[0].gains) != len(held[1].gains):
        return Difference(first, second, None, "they were held out on different questions")
    each = held[0].gains - held[1].gains
    words = stats.sizes_in_words(held[0].groups, len(each), "shared questions")
    return Difference(first, second, stats.interval_of_mean(each, held[0].groups), words)


def _confirmation(run: Run) -> Any:
    made = next((r for r in run.results.values() if isinstance(r, SteerabilityMap)), None)
    return None if made is None else made.confirmation


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"
