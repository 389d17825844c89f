"""What does a search for the cell to steer at cost, beside a map of every layer, and what does it lose?

    python benchmarks/search.py                                # the reference model
    python benchmarks/search.py --model smollm2-135m-instruct
    python benchmarks/search.py --sets 3 --cases 9             # sets of layers, single layers

The cases are those of experiments/prediction.py: three concepts of the reference world, drawn ten times
each; or on any other model 30 contrasts of topics and the three of experiments/data.

Map and search take the same data, texts and strengths, without null maps. Gains are on questions that
chose nothing. The cost is counted in floating-point operations of matrix products, as torch counts
them, and in processor seconds of one thread; activations are included and the writing of ordinary texts
is not, on both sides. Each case is one line of the --out file, and a case that is there is not measured
again.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

import steerlens as sl
from steerlens import plots, stats
from steerlens.experiment.experiment_file import load_experiment
from steerlens.interventions.arms import layer_family
from steerlens.measures import scores
from steerlens.measures.ordinary_texts import given_or_written
from steerlens.measures.sweep import sweep
from steerlens.sites import Positions
from steerlens.store.cells import cells_or_none

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "prediction.py"
CLOSE = 0.05
"""The part of the map's gain that a search may lose."""


def main(
    model: str = "reviews",
    counts: tuple[int, ...] = (1, 2),
    multipliers: tuple[float, ...] = (0.0, 0.5, 1.0),
    texts: int = 64,
    questions: int = 24,
    draws: int = 10,
    sets: int = 1,
    cases: int | None = None,
    out: Path = Path("search.jsonl"),
    figure: Path | None = None,
) -> None:
    """Measures what is missing in the file, and prints tables of all that is there.

    Args:
        counts: Layers that the searches map, a search each. Below a third of the layers, a third is
            tried before.
        texts: Ordinary texts; half choose and half report.
        questions: To choose on, and as many to report on.
        draws: How often each concept of the reference world is drawn.
        sets: Layers of a set at most. Above 1 only sets are compared with single layers.
        cases: So many cases, evenly chosen among all.
        figure: Where the curve of regret against cost is written, as HTML.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    loaded = sl.Model.load(model)
    experiment: Any = load_experiment(EXPERIMENT)
    known = sys.modules[type(experiment).__module__]
    names = (*known.TOPICS, *known.FILES)
    experiment = replace(experiment, n_questions=questions, draws=draws, planted=0, topics=names)
    every = experiment.cases(loaded)
    step = max(1, len(every) // (cases or len(every)))
    ordinary, _ = given_or_written(loaded, texts, 0, cells_or_none(None, "", False))
    options = {
        "neutral": ordinary, "nulls": 0, "multipliers": multipliers, "progress": False,
    }  # fmt: skip
    found = _read(out)
    for case in every[::step][:cases]:
        if case.name not in found:
            _, *data = case.make()
            measured = (
                of_sets(loaded, data, sets, options)
                if sets > 1
                else of_case(loaded, data, counts, options)
            )
            found[case.name] = {"concept": case.concept, **measured}
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"case": case.name, **found[case.name]}) + "\n")
            print(case.name, flush=True)
    if sets > 1:
        print_sets(found)
        return
    print_searches(found)
    if figure is not None:
        regret_against_cost(found).write_html(figure)


def counted(make: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What a call returns, and what it took."""
    start = time.process_time()
    with FlopCounterMode(display=False) as counter:
        made = make()
    return made, {"seconds": time.process_time() - start, "flops": counter.get_total_flops()}


def chosen(found: sl.SteerabilityMap) -> dict[str, Any]:
    """The recommended cell and its held-out gain."""
    held = found.confirmation
    return {
        "cell": None if held is None else str(held.cell),
        "gain": 0.0 if held is None else float(held.gain.value),
    }


def of_case(
    model: sl.Model, data: Sequence[Any], counts: Sequence[int], options: dict[str, Any]
) -> dict[str, Any]:
    """The map, a search for each count, and the gain of every layer at multiplier 1."""
    fit, choose, report = data
    whole, took = counted(lambda: sl.steerability(model, fit, choose, report, **options))
    rows = len(whole.rows)
    searches = []
    predicted: list[float] = []
    for count in counts:
        one, cost = counted(
            lambda count=count: sl.find_cell(
                model, fit, choose, report, share=count / rows, **options
            )
        )
        searches.append({"count": count, **chosen(one.map), **cost})
        predicted = one.predictions.value("slope at budget").tolist()
    read = sl.activations(model, fit, progress=False)
    arms = list(
        layer_family(
            list(read.directions("DiffMean")), Positions.from_prompt_end(), whole.lengths or ()
        ).values()
    )
    gains = {}
    for name, asked in (("choose", choose), ("report", report)):
        odds = scores.preference(
            sweep(model, asked, arms, (0.0, 1.0), log_odds_only=True, progress=False)
        )
        gains[name] = (odds[:, 1] - odds[:, 0]).mean(-1).tolist()
    return {"map": {**chosen(whole), **took}, "searches": searches, "predicted": predicted, **gains}


def of_sets(
    model: sl.Model, data: Sequence[Any], sets: int, options: dict[str, Any]
) -> dict[str, Any]:
    """The best set and the best single layer on held-out questions."""
    found, took = counted(
        lambda: sl.find_cell(model, *data, share=0.1, sets=sets, **options)  # type: ignore[misc]
    )
    compared = found.comparison
    if compared is None:
        return {"together": None, **took}
    return {
        "together": str(compared.together.cell), "single": str(compared.single.cell),
        "gains": [compared.together.gain.value, compared.single.gain.value],
        "difference": list(compared.difference),
        "costs": [compared.together.cost.value, compared.single.cost.value],
        "chosen": str(found.cell), **took,
    }  # fmt: skip


def error_of(others: Sequence[dict[str, Any]], most: int) -> float:
    """How much better than predicted a later layer is, beside the first one: nine in ten are below."""
    found = []
    for one in others:
        ratios = torch.tensor(one["choose"]) / torch.tensor(one["predicted"]).clamp(min=1e-6)
        first, *later = torch.tensor(one["predicted"]).argsort(descending=True)[:most].tolist()
        found += [float(ratios[k] / ratios[first].clamp(min=1e-6)) for k in later]
    return float(torch.tensor(found).quantile(0.9))


def stopped(one: dict[str, Any], most: int, error: float) -> tuple[int, float]:
    """A search that maps layer by layer, and stops when the next one cannot plausibly be better.

    That is when its predicted gain, times the largest ratio of measured to predicted gain so far and
    the error of the predictor, is below the best gain so far. Returns the layers that it maps, and
    its gain on held-out questions.
    """
    predicted, choose = torch.tensor(one["predicted"]), torch.tensor(one["choose"])
    order = predicted.argsort(descending=True)[:most]
    mapped = [int(order[0])]
    for i in order[1:].tolist():
        ratio = max(float(choose[k] / predicted[k].clamp(min=1e-6)) for k in mapped)
        if float(predicted[i]) * ratio * error < max(float(choose[k]) for k in mapped):
            break
        mapped.append(i)
    return len(mapped), one["report"][max(mapped, key=lambda k: float(choose[k]))]


def lost(best: float, gain: float) -> float:
    """What part of a gain is lost."""
    return (best - gain) / max(best, 1e-3)


def interval(values: Sequence[float], groups: Sequence[str]) -> stats.Interval:
    """A mean over cases with its interval over concepts."""
    return stats.interval_of_mean(torch.tensor(values), stats.group_numbers(groups))


def print_searches(found: dict[str, Any]) -> None:
    """What searches of each size lose and cost."""
    kept = {name: one for name, one in found.items() if one["map"]["cell"] is not None}
    concepts = [one["concept"] for one in kept.values()]
    print(f"{len(found)} contrasts; the map recommends a cell for {len(kept)}\n")
    print(
        "| layers mapped | loss, mean | loss, median | within 5% | of the operations | of the time |"
    )
    print("|---|---|---|---|---|---|")
    for k, search in enumerate(next(iter(kept.values()))["searches"]):
        losses = [lost(one["map"]["gain"], one["searches"][k]["gain"]) for one in kept.values()]
        shares = {
            what: [one["searches"][k][what] / one["map"][what] for one in kept.values()]
            for what in ("flops", "seconds")
        }
        print(
            f"| {search['count']} | {interval(losses, concepts)} | {median(losses):.1%} "
            f"| {sum(one <= CLOSE for one in losses)} of {len(losses)} "
            f"| {median(shares['flops']):.0%} ({max(shares['flops']):.0%} at most) "
            f"| {median(shares['seconds']):.0%} ({max(shares['seconds']):.0%} at most) |"
        )
    print("\n| layer by layer, at most | mapped, mean | loss, mean | loss of all of these |")
    print("|---|---|---|---|")
    for most in (2, 3, 6):
        ends = []
        for one in kept.values():  # the predictor's error is known from other concepts
            others = [each for each in kept.values() if each["concept"] != one["concept"]]
            ends.append(stopped(one, most, error_of(others, most) if others else 1.0))
        best = [one["report"][_argmax(one["choose"])] for one in kept.values()]
        fixed = []
        for one in kept.values():
            order = torch.tensor(one["predicted"]).argsort(descending=True)[:most].tolist()
            fixed.append(one["report"][max(order, key=lambda k: one["choose"][k])])
        by_stopping = [lost(b, end[1]) for b, end in zip(best, ends, strict=True)]
        by_count = [lost(b, gain) for b, gain in zip(best, fixed, strict=True)]
        mean = sum(end[0] for end in ends) / len(ends)
        print(
            f"| {most} | {mean:.1f} | {interval(by_stopping, concepts)} "
            f"| {interval(by_count, concepts)} |"
        )


def regret_against_cost(found: dict[str, Any]) -> Any:
    """The part of the map's gain that is lost over the part of its operations that is spent."""
    kept = [one for one in found.values() if one["map"]["cell"] is not None]
    concepts = [one["concept"] for one in kept]
    points = []
    for k in range(len(kept[0]["searches"])):
        shares = [one["searches"][k]["flops"] / one["map"]["flops"] for one in kept]
        losses = [lost(one["map"]["gain"], one["searches"][k]["gain"]) for one in kept]
        points.append((sum(shares) / len(shares), interval(losses, concepts)))
    points.sort(key=lambda point: point[0])
    bounds = [bound for _, bound in points]
    series = tuple(
        torch.tensor([getattr(one, side) for one in bounds]).numpy()
        for side in ("value", "low", "high")
    )
    return plots.regret_curve(
        {"find_cell": series}, shares=[cost for cost, _ in points],
        over="share of the map's operations", title="What a search loses, over what it costs",
    )  # fmt: skip


def print_sets(found: dict[str, Any]) -> None:
    """The best set beside the best single layer."""
    print("| contrast | set | gain | layer | gain | difference | KL of both |")
    print("|---|---|---|---|---|---|---|")
    for name, one in found.items():
        if one["together"] is None:
            print(f"| {name} | none | | | | | |")
            continue
        gains, costs = one["gains"], one["costs"]
        print(
            f"| {name} | {one['together']} | {gains[0]:.2f} | {one['single']} | {gains[1]:.2f} "
            f"| {stats.Interval(*one['difference'])} | {costs[0]:.3f}, {costs[1]:.3f} |"
        )
    differences = [one for one in found.values() if one["together"] is not None]
    mean = interval([one["difference"][0] for one in differences], [*map(_concept, differences)])
    better = sum(one["difference"][1] > 0 for one in differences)
    worse = sum(one["difference"][2] < 0 for one in differences)
    print(f"\nmean difference {mean}; better in {better}, worse in {worse} of {len(differences)}")


def _concept(one: dict[str, Any]) -> str:
    return one["concept"]


def _argmax(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    lines = map(json.loads, path.read_text("utf-8").splitlines())
    return {line.pop("case"): line for line in lines}


if __name__ == "__main__":
    tyro.cli(main, args=sys.argv[1:])
