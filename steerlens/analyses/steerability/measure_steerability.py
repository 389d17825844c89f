"""How much each intervention moves behaviour, at what cost, and whether it is more than chance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsFloat, SupportsIndex, cast

from steerlens.analyses.question_splits import require_disjoint
from steerlens.analyses.steerability.fitted_family import (
    FittedFamily,
    fit_family,
    require_sites,
)
from steerlens.analyses.steerability.map_of_arms import map_of, split_texts
from steerlens.analyses.steerability.nulls import require_nulls
from steerlens.analyses.steerability.steerability_map import SteerabilityMap
from steerlens.arguments import as_float, as_int
from steerlens.data import ContrastPair, ContrastSet
from steerlens.data.contrast_set import PairsLike, as_contrast_set
from steerlens.directions import Activations
from steerlens.directions.methods import DiffMean, as_method
from steerlens.directions.methods.method import Method
from steerlens.interventions.arms import Arms, named_arms, require_fits
from steerlens.measures.ordinary_texts import given_or_written
from steerlens.measures.tokenised import questions
from steerlens.models.model import Model, as_model
from steerlens.models.products import Products, products_of
from steerlens.protocols import Intervention
from steerlens.sites import Positions, SiteLike, as_positions, sites_or_layers
from steerlens.store.cells import Cells, cells_or_none
from steerlens.units import BUDGET, MULTIPLIERS, MapUnit, require_multipliers, require_unit


def steerability(
    model: Model,
    fit: PairsLike | Activations | Arms,
    choose: PairsLike,
    report: PairsLike | None = None,
    *,
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
) -> SteerabilityMap:
    """The map of interventions and multipliers: gain, cost, and what chance would give.

    With pairs or activations to fit, the rows are layers: one direction per site is fitted and
    added there. With interventions, they are the rows. Every cell is scored on `choose`; the cell
    that `recommend()` picks is measured once more on `report`.

    Args:
        fit: Pairs, or activations already read from them, to fit a direction at each site; or named
            interventions of any kind, then without `method`, `sites`, `positions` and `unit`.
        choose: Questions with two answers, other than those of `fit`.
        report: Questions that neither made the direction nor choose the cell.
        method: How a direction is fitted, or the name of such a method; by default `DiffMean`.
        sites: Where to steer: sites, or layers of resid_post. By default the sites that were read,
            or resid_post of every layer.
        layers: Short for `sites` of resid_post.
        multipliers: Strengths, in `unit`s for fitted directions; must hold 0 and one above 0.
        positions: Which tokens are steered, e.g. "all"; by default from the prompt's end on.
        unit: What multiplier 1 adds at a layer: by default the longest vector that is sure to be
            within the budget there ("equal_kl"), so that layers and methods compare at equal cost
            and most cells can be used; or a length that `Add` knows.
        neutral: Ordinary texts for the cost, or how many of them the unsteered model writes: 64 by
            default. Every second one is for choosing and the others for reporting.
        budget: KL to the unsteered model that steering may cost, nats per token.
        nulls: How many null maps to make of each kind at most (directions fitted to shuffled labels;
            other directions as long as the real ones): at least 19, where 20 allow p = 0.048 at the
            best; or 0 for a map without p-values. Fewer are made where the answer is clear earlier,
            i.e. where p is far above 0.05. By default 20 for fitted directions and for interventions
            that are all along one direction (random directions only), and 0 for others.
        null_products: "bfloat16" computes the null maps, and nothing else, with products in half
            precision, as in `sweep`: faster on processors that have them.
        seed: Seeds the null maps.
        cells: Where finished parts are kept, so that a stopped run goes on.

    Raises:
        ValueError: For multipliers without 0, questions shared between the splits, a site that the
            model does not have, an intervention that does not fit it, answers that cannot be
            scored, or `null_products` of a model that cannot have them; all before the sweep starts.

    Source: propensity and slope, arXiv:2407.12404; utility, arXiv:2602.02343; the strength unit,
    the splits, the nulls and the budget are ours.
    """
    model, sites = as_model(model), sites_or_layers(sites, layers)
    multipliers = require_multipliers(multipliers)
    budget, seed = as_float("budget", budget), as_int("seed", seed)
    nulls = None if nulls is None else as_int("nulls", nulls)
    fit, choose = _pairs_or_arms(fit), as_contrast_set(choose)
    report = None if report is None else as_contrast_set(report)
    fitted = isinstance(fit, ContrastSet | Activations)
    products_of(model, null_products)
    require_disjoint(fit=fit if fitted else None, choose=choose, report=report)
    for part in (choose, report):
        if part is not None:
            questions(model, part)
    cells = cells_or_none(cells, "", progress)
    texts, what = given_or_written(model, neutral, seed, cells)
    ordinary = split_texts(model, texts, choose)
    if isinstance(fit, ContrastSet | Activations):
        require_unit(unit, MapUnit)
        where = require_sites(model, fit, sites)
        count = require_nulls(nulls, {}, fitted=True)
        family: FittedFamily | None = fit_family(
            model, fit, where, ordinary[0], method=as_method(method or DiffMean()),
            positions=as_positions(positions or Positions.from_prompt_end()), unit=unit,
            budget=budget, cells=cells,
        )  # fmt: skip
        arms: Mapping[str, Intervention] = family.arms
    else:
        _require_no_fitting(method=method, sites=sites, positions=positions, unit=unit)
        if not isinstance(fit, Mapping | Sequence):
            raise TypeError(
                f"fit={fit!r:.80} is neither pairs nor activations nor several interventions. Give "
                "interventions by name: {'name': intervention, …}."
            )
        family, arms = None, named_arms(fit)
        require_fits(model, arms)
        count = require_nulls(nulls, arms, fitted=False)
    return map_of(
        model, family or arms, choose, report, multipliers=multipliers, ordinary=ordinary,
        ordinary_are=what, budget=budget, nulls=count, null_products=null_products, seed=seed,
        cells=cells,
    )  # fmt: skip


def _pairs_or_arms(
    fit: PairsLike | Activations | Arms,
) -> ContrastSet | Activations | Arms:
    """A list of pairs, tuples or mappings as a set; interventions and activations as they are."""
    pair = ContrastPair | tuple | Mapping
    if isinstance(fit, Sequence) and fit and all(isinstance(one, pair) for one in fit):
        return as_contrast_set(fit)
    return cast("ContrastSet | Activations | Arms", fit)


def _require_no_fitting(unit: str, **given: Any) -> None:
    """Raises ValueError if something was given that only directions to be fitted can use."""
    named = [name for name, value in given.items() if value is not None]
    named += ["unit"] if unit != "equal_kl" else []
    if named:
        raise ValueError(
            f"{', '.join(named)} cannot be used with interventions, which state themselves where "
            "and how they act. Leave it out, or give pairs or activations to fit directions to."
        )
