"""The cell to steer at, without a map of every layer: predictors and trials choose, a map decides."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import SupportsFloat, SupportsIndex

from steerlens.analyses.prediction.budget_trial import budget_trial
from steerlens.analyses.prediction.first_order_look import KINDS, first_order
from steerlens.analyses.prediction.layer_predictions import LayerPredictions, part_of_whole
from steerlens.analyses.prediction.layer_search import LayerSearch
from steerlens.analyses.prediction.layer_sets import LARGEST, LayerSet
from steerlens.analyses.prediction.predict_layers import TEXTS, predict_layers
from steerlens.analyses.prediction.predictors import PREDICTORS
from steerlens.analyses.prediction.searched_family import SearchedFamily, searched_family
from steerlens.analyses.prediction.set_comparison import SetComparison, compare_sets
from steerlens.analyses.question_splits import require_disjoint
from steerlens.analyses.steerability.fitted_family import fit_family, require_sites
from steerlens.analyses.steerability.map_of_arms import map_of, split_texts
from steerlens.analyses.steerability.nulls import require_nulls
from steerlens.analyses.steerability.steerability_map import SteerabilityMap
from steerlens.arguments import ArgumentError, as_float, as_int
from steerlens.data.contrast_set import PairsLike, as_contrast_set
from steerlens.data.near_duplicates import text_groups
from steerlens.directions.methods import DiffMean, as_method
from steerlens.directions.methods.method import Method
from steerlens.measures.equal_cost import LengthsWithinBudget
from steerlens.measures.ordinary_texts import given_or_written
from steerlens.measures.reading import activations
from steerlens.measures.tokenised import questions
from steerlens.models.model import Model, as_model
from steerlens.models.products import Products, products_of
from steerlens.results import Cell
from steerlens.sites import Positions, SiteLike, as_positions, sites_or_layers
from steerlens.stats import group_numbers
from steerlens.store.cells import Cells, cells_or_none
from steerlens.units import BUDGET, MULTIPLIERS, MapUnit, require_multipliers, require_unit

TRIED = 0.35
"""Which part of the sites is tried, where the predictor is one of the gain: ten of thirty."""
OF_GAINS = ("slope", "slope at budget")
"""Predictors of the gain, which a trial measures."""


@dataclass(frozen=True, eq=False)
class FoundCell:
    """What a search found."""

    predictions: LayerPredictions
    """The predictor of all sites."""
    map: SteerabilityMap
    """Of the sites on the shortlist, and of sets of sites, with the statistics of every map."""
    sets: tuple[LayerSet, ...] = ()
    """The sets of sites that were mapped, as the search proposed them."""
    tried: dict[str, float] = field(default_factory=dict)
    """The mean gain of the choosing questions in nats, at the length that costs about the budget, of
    the sites that were tried; empty where the predictor alone chose."""
    comparison: SetComparison | None = None
    """The best set and the best single site on the held-out questions; None where no sets were
    searched, no questions were held out, or one of the two has no cell within the budget."""

    @property
    def cell(self) -> Cell | None:
        """The cell to steer at; None where no cell of the shortlist is to be used."""
        return self.map.chosen

    def __repr__(self) -> str:
        mapped, known = len(self.map.rows) - len(self.sets), len(self.predictions.sites)
        many = len(self.sets)
        sets = f", and {many} set{'s' * (many > 1)} of sites" if many else ""
        verb = "was" if mapped == 1 else "were"
        how = "chosen by what is known without steering"
        if self.tried:
            how += f", and by a trial of the {len(self.tried)} that come first"
        said = f"{mapped} of {known} sites {verb} mapped{sets}, {how}."
        compared = "" if self.comparison is None else f"\n{self.comparison}"
        return f"{said}\n{self.map.summary()}{compared}"


def find_cell(
    model: Model,
    fit: PairsLike,
    choose: PairsLike,
    report: PairsLike | None = None,
    *,
    share: SupportsFloat = 0.1,
    by: str = "slope at budget",
    tried: SupportsFloat | None = None,
    sets: SupportsIndex = 1,
    method: Method | str | None = None,
    sites: SiteLike | Iterable[SiteLike] | None = None,
    layers: Iterable[SupportsIndex] | None = None,
    multipliers: Iterable[SupportsFloat] = MULTIPLIERS,
    positions: Positions | str | None = None,
    unit: MapUnit = "equal_kl",
    neutral: Sequence[str] | SupportsIndex | None = None,
    budget: SupportsFloat = BUDGET,
    nulls: SupportsIndex | None = None,
    null_products: Products | None = None,
    seed: SupportsIndex = 0,
    progress: bool = True,
    cells: Cells | None = None,
) -> FoundCell:
    """The recommended cell, from a map of the sites that a predictor puts first.

    A predictor is taken of every site without steering. It describes small steps. So the sites with
    the largest predictor are tried with all of `choose` at one strength, the length that costs about
    the budget, and those with the largest gain are mapped. Null maps have trials of their own, in
    the precision of the weights; each adds as many cells as there are sites tried.

    The shortlist is chosen on the contexts and on `choose`, the cell on `choose`, and what is
    reported is measured on `report`, as in `steerability`. The shortlist has looked at `choose`, so
    every null map has a shortlist of its own, found in the same way, where the predictor is one of
    "slope", "slope at budget", "direct at budget" and "mediated at budget". No other predictor knows
    whether a vector helps, and there null maps have the sites of the real one.

    With `sets`, the rows are also sets of two or three sites that are steered at once, in the split
    of the budget that gains most to first order. As many of each size are mapped as single sites.

    Args:
        fit: Pairs to fit a direction at each site.
        choose: Questions with two answers, other than those of `fit`.
        report: Questions that chose nothing.
        share: Which part of the sites is mapped; at least one is.
        by: The predictor that orders them, one of `predictors.PREDICTORS`.
        tried: Which part of the sites is tried; 0 for none. By default 0.35 where the predictor is
            one of the gain, "slope" or "slope at budget", and none elsewhere. Where that is no more
            than what is mapped, as of fewer than five layers, the predictor alone chooses.
        sets: How many sites are steered at once at most: 1, 2 or 3.

    All other arguments are those of `steerability`.

    Raises:
        ArgumentError: If there is no such predictor, `share` is no part, sites cannot be tried, or
            sets are asked for that cannot be searched.
        ValueError: As `steerability`.
    """
    model, where = as_model(model), sites_or_layers(sites, layers)
    if by not in PREDICTORS:
        raise ArgumentError(f"by={by!r} is not one of {', '.join(PREDICTORS)}. Use one of them.")
    share, part_tried = part_of_whole(share), _tried(tried, by)
    require_unit(unit, MapUnit)
    largest = _sets(sets, by, unit)
    multipliers = require_multipliers(multipliers)
    budget, seed = as_float("budget", budget), as_int("seed", seed)
    if budget <= 0:
        raise ArgumentError(f"budget={budget} is no cost that steering could have. Use e.g. 0.1.")
    count = require_nulls(None if nulls is None else as_int("nulls", nulls), {}, fitted=True)
    products_of(model, null_products)
    pairs, choose = as_contrast_set(fit), as_contrast_set(choose)
    report = None if report is None else as_contrast_set(report)
    require_disjoint(fit=pairs, choose=choose, report=report)
    for part in (choose, report):
        if part is not None:
            questions(model, part)
    at = require_sites(model, pairs, where)
    if largest > len(at):
        raise ArgumentError(
            f"sets={largest} is more than the {len(at)} sites that are searched. Use sets={len(at)}."
        )
    rows = max(1, round(share * len(at)))
    candidates = round(part_tried * len(at))
    if tried is not None and part_tried and candidates <= rows:
        raise ArgumentError(
            f"tried={part_tried:g} is {candidates} of {len(at)} sites, and {rows} are mapped, so a "
            "trial has nothing to choose. Use a larger part, or 0 for no trial."
        )
    how = {
        "share": share,
        "by": by,
        "tried": candidates if candidates > rows else 0,
        "sets": largest,
    }
    cells = cells_or_none(cells, "", progress)
    texts, what = given_or_written(model, neutral, seed, cells)
    chosen, reporting = split_texts(model, texts, choose)
    read = activations(model, pairs, at, progress=progress)
    fitter = as_method(method or DiffMean())
    rule = as_positions(positions or Positions.from_prompt_end())
    cells = replace(cells, facts={**cells.facts, "search": repr((how, [str(s) for s in at]))})
    few = chosen[:TEXTS]
    facts = {
        **model.facts, "method": repr(fitter), "positions": repr(rule), "fit": read.data,
        "asked": choose.hash, "data_name": choose.name, "ordinary": what,
    }  # fmt: skip
    if by in KINDS:
        known = first_order(model, choose, few, at, positions=rule, budget=budget, seed=seed)
        order = LayerSearch(known, tuple(read.directions(fitter)), by, rows, largest)
        within = LengthsWithinBudget(
            model, order.directions, chosen, budget=budget, positions=rule,
            groups=group_numbers(text_groups(chosen)), progress=progress,
        )  # fmt: skip
        if candidates > rows:
            trial = budget_trial(
                model, choose, order.directions, rule, order.scores(order.units), order.lengths,
                chosen, within, count=candidates, cells=cells,
            )  # fmt: skip
            order = replace(order, trial=trial)
        values = order.scores(order.units)
        predictions = LayerPredictions((by,), read.sites, values[None], budget, facts)
        family = searched_family(model, read, fitter, rule, unit, within, chosen, order, cells)
    else:
        predictions = predict_layers(
            model, read, choose, neutral=few, predictors={by: PREDICTORS[by]}, method=fitter,
            positions=rule, budget=budget, progress=progress,
        )  # fmt: skip
        predictions = replace(predictions, made_by=facts)
        kept = sorted(predictions.shortlist(share, by), key=read.sites.index)
        family = fit_family(
            model, read, kept, chosen, method=fitter, positions=rule, unit=unit, budget=budget,
            cells=cells,
        )  # fmt: skip
    mapped = map_of(
        model, family, choose, report, multipliers=multipliers, ordinary=(chosen, reporting),
        ordinary_are=what, budget=budget, nulls=count, null_products=null_products, seed=seed,
        cells=cells,
    )  # fmt: skip
    mapped = replace(mapped, made_by={**mapped.made_by, "shortlist": how})
    several, measured, compared = (), {}, None
    if isinstance(family, SearchedFamily):
        several = tuple(one for one in family.found if len(one.index) > 1)
        measured = {
            str(site): gain
            for site, gain in zip(read.sites, family.search.tried.tolist(), strict=True)
            if not math.isnan(gain)
        }
    if several and report is not None:
        compared = compare_sets(model, mapped, family.arms, report, reporting, cells=cells)
    return FoundCell(predictions, mapped, several, measured, compared)


def _tried(tried: SupportsFloat | None, by: str) -> float:
    """Which part of the sites is tried."""
    if tried is None:
        return TRIED if by in OF_GAINS else 0.0
    part = as_float("tried", tried, finite=False)
    if not 0 <= part <= 1:
        raise ArgumentError(f"tried={part:g} is not a part. Use a number from 0, for none, to 1.")
    if part and by not in OF_GAINS:
        raise ArgumentError(
            f"by={by!r} does not predict the gain, which a trial measures and orders sites by. With "
            f"tried={part:g}, use one of {', '.join(OF_GAINS)}."
        )
    return part


def _sets(sets: SupportsIndex, by: str, unit: str) -> int:
    """How many sites are steered at once at most."""
    largest = as_int("sets", sets, least=1)
    if largest > LARGEST:
        raise ArgumentError(
            f"sets={largest} is too many sites at once: all sets of a size are compared. Use 1, 2 or "
            f"{LARGEST}."
        )
    if largest > 1 and by not in KINDS[1:]:
        raise ArgumentError(
            f"by={by!r} says nothing of several sites at once. With sets={largest}, use one of "
            f"{', '.join(KINDS[1:])}."
        )
    if largest > 1 and unit != "equal_kl":
        raise ArgumentError(
            f"unit={unit!r} gives no split of the budget between sites. With sets={largest}, leave "
            "unit out."
        )
    return largest
