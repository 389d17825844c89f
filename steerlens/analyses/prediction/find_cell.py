"""The cell to steer at, without a map of every layer: predictors choose, an exact map decides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, SupportsFloat, SupportsIndex

from steerlens.analyses.prediction.layer_predictions import LayerPredictions, require_share
from steerlens.analyses.prediction.predict_layers import TEXTS, predict_layers
from steerlens.analyses.prediction.predictors import PREDICTORS
from steerlens.analyses.steerability.measure_steerability import steerability
from steerlens.analyses.steerability.steerability_map import SteerabilityMap
from steerlens.arguments import ArgumentError, as_int
from steerlens.data.contrast_set import PairsLike, as_contrast_set
from steerlens.directions.methods.method import Method
from steerlens.measures.ordinary_texts import given_or_written, text_halves
from steerlens.measures.reading import activations
from steerlens.models.model import Model, as_model
from steerlens.results import Cell
from steerlens.sites import Positions, SiteLike, sites_or_layers
from steerlens.store.cells import cells_or_none
from steerlens.units import BUDGET


@dataclass(frozen=True, eq=False)
class FoundCell:
    """What a search found."""

    predictions: LayerPredictions
    """The predictor of all sites."""
    map: SteerabilityMap
    """Of the sites on the shortlist, with the statistics of every map."""

    @property
    def cell(self) -> Cell | None:
        """The cell to steer at; None where no cell of the shortlist is to be used."""
        return self.map.chosen

    def __repr__(self) -> str:
        tried, known = len(self.map.rows), len(self.predictions.sites)
        said = f"{tried} of {known} sites were mapped, chosen by what is known without steering."
        return f"{said}\n{self.map.summary()}"


def find_cell(
    model: Model,
    fit: PairsLike,
    choose: PairsLike,
    report: PairsLike | None = None,
    *,
    share: float = 0.2,
    by: str = "slope at budget",
    method: Method | str | None = None,
    sites: SiteLike | Iterable[SiteLike] | None = None,
    layers: Iterable[SupportsIndex] | None = None,
    positions: Positions | str | None = None,
    neutral: Sequence[str] | SupportsIndex | None = None,
    budget: SupportsFloat = BUDGET,
    progress: bool = True,
    **of_the_map: Any,
) -> FoundCell:
    """The recommended cell, from a map of the sites that a predictor puts first.

    The shortlist is chosen on the contexts and on `choose`, the cell on `choose`, and what is
    reported is measured on `report`, as in `steerability`. The p-value is that of the map of the
    shortlist.

    Args:
        fit: Pairs to fit a direction at each site.
        choose: Questions with two answers, other than those of `fit`.
        report: Questions that chose nothing.
        share: Which part of the sites is mapped.
        by: The predictor that orders them.
        of_the_map: What `steerability` takes besides: multipliers, unit, nulls, seed, cells.

    Raises:
        ArgumentError: If there is no such predictor, or `share` is no part.
        ValueError: As `steerability`.
    """
    model, where = as_model(model), sites_or_layers(sites, layers)
    if by not in PREDICTORS:
        raise ArgumentError(f"by={by!r} is not one of {', '.join(PREDICTORS)}. Use one of them.")
    require_share(share)
    pairs = as_contrast_set(fit)
    read = activations(model, pairs, where, progress=progress)
    common: dict[str, Any] = {
        "method": method, "positions": positions, "budget": budget, "progress": progress,
    }  # fmt: skip
    seed, cells = as_int("seed", of_the_map.get("seed", 0)), of_the_map.get("cells")
    texts, what = given_or_written(model, neutral, seed, cells_or_none(cells, "", progress))
    few = text_halves(texts)[0][:TEXTS]  # none of those that report the cost
    predictions = predict_layers(
        model, read, choose, neutral=few, predictors={by: PREDICTORS[by]}, **common
    )
    kept = sorted(predictions.shortlist(share, by), key=read.sites.index)
    found = steerability(
        model, read, choose, report, sites=kept, neutral=texts, **common, **of_the_map
    )
    facts = {**found.made_by, "ordinary": what, "shortlist": {"share": share, "by": by}}
    return FoundCell(predictions, replace(found, made_by=facts))
