"""The map of interventions that are made: every cell on the choosing examples, one held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from steerlens.analyses.steerability.fitted_family import FittedFamily
from steerlens.analyses.steerability.held_out import confirm
from steerlens.analyses.steerability.nulls import null_gains, null_maps
from steerlens.analyses.steerability.steerability_map import SteerabilityMap
from steerlens.data import ContrastSet
from steerlens.data.formats.text import short_answer
from steerlens.data.near_duplicates import text_groups
from steerlens.interventions.arms import site_of
from steerlens.measures import scores
from steerlens.measures.direct_gain import direct_gain
from steerlens.measures.divergence import divergence
from steerlens.measures.ordinary_texts import text_halves
from steerlens.measures.sweep import sweep
from steerlens.measures.tokenised import halved
from steerlens.models.model import Model
from steerlens.models.products import Products
from steerlens.protocols import Intervention
from steerlens.stats import group_numbers
from steerlens.store.cells import Cells


def map_of(
    model: Model,
    source: FittedFamily | Mapping[str, Intervention],
    choose: ContrastSet,
    report: ContrastSet | None,
    *,
    multipliers: Sequence[float],
    ordinary: tuple[Sequence[str], Sequence[str]],
    ordinary_are: str,
    budget: float,
    nulls: int,
    null_products: Products | None,
    seed: int,
    cells: Cells,
) -> SteerabilityMap:
    """What `steerability` measures of rows that are made and were checked.

    Args:
        source: A family, which makes its own null maps; or interventions by name.
        ordinary: Ordinary texts to choose and to report on, as `split_texts` gives them.
        ordinary_are: What they are, in words.
        nulls: Null maps of each kind at most.
    """
    chosen_texts, report_texts = ordinary
    family = source if isinstance(source, FittedFamily) else None
    arms: Mapping[str, Intervention] = source.arms if isinstance(source, FittedFamily) else source
    edits = list(arms.values())
    swept = sweep(model, choose, edits, multipliers, cells=cells.part("gain"))
    kl = divergence(model, chosen_texts, edits, multipliers, cells=cells.part("cost"))
    maps = null_maps(source, nulls, seed)
    odds = scores.preference(swept)
    zero, sign = multipliers.index(0.0), torch.tensor(multipliers, dtype=torch.float32).sign()
    observed = ((odds - odds[:, zero, None]) * sign[:, None]).mean(-1)
    shuffled, others = (
        null_gains(
            model, choose, make, observed, multipliers, nulls, cells.part(name), null_products
        )
        for name, make in (("shuffled", maps.shuffled), ("random", maps.random))
    )
    made = SteerabilityMap(
        rows=tuple(arms),
        sites=tuple(map(site_of, edits)),
        multipliers=torch.tensor(multipliers, dtype=torch.float32),
        propensities=odds,
        utilities=scores.utility(swept).value,
        kl=kl,
        shuffled=shuffled,
        random=others,
        budget=budget,
        groups=group_numbers(choose.groups),
        text_groups=group_numbers(text_groups(chosen_texts)),
        planned=nulls or None,
        answers=_short_answers(choose),
        direct=direct_gain(model, choose, edits, multipliers, cells=cells.part("direct")),
        made_by={
            **model.facts,
            "question": _question(family, choose),
            **(_facts(arms) if family is None else family.facts),
            "data_name": choose.name,
            "choose": choose.hash,
            "report": None if report is None else report.hash,
            "seed": seed,
            "direction_null": maps.what,
            **({} if null_products is None else {"null_products": null_products}),
            "ordinary": ordinary_are,
            "utilities_clamped": float(scores.utility(swept).clamped.float().mean()),
        },
    )
    cell = made.chosen
    if report is None or cell is None:
        return made
    return made.with_confirmation(
        confirm(model, cell, arms[cell.row], report, report_texts, cells=cells)
    )


def split_texts(
    model: Model, texts: Sequence[str], choose: ContrastSet
) -> tuple[list[str], list[str]]:
    """Ordinary texts for choosing and for reporting.

    Raises:
        ValueError: If the texts or the choosing questions are too few.
    """
    if len(texts) < 4 or len(choose) < 2:
        raise ValueError(
            f"{len(texts)} neutral texts and {len(choose)} choosing questions are too few: at least "
            "4 texts (half of them to report on) and 2 questions are needed."
        )
    halved(model, texts)  # refuses texts that are too short or too long
    return text_halves(texts)


def _short_answers(choose: ContrastSet) -> tuple[str, ...]:
    """The letter, yes or no that is the positive answer of each question; () where some have none."""
    found = [short_answer(pair.positive) for pair in choose if pair.prompt]
    return tuple(filter(None, found)) if len(found) == len(choose) and all(found) else ()


def _question(family: FittedFamily | None, choose: ContrastSet) -> str:
    if family is None:
        return f"Which interventions steer towards {choose.name}?"
    return f"Which layers respond to steering towards {choose.name}?"


def _facts(arms: Mapping[str, Intervention]) -> dict[str, Any]:
    return {"interventions": {row: f"{edit!r:.200}" for row, edit in arms.items()}}
