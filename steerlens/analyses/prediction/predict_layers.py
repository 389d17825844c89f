"""Numbers of every layer that need no steering of a question: where is it worth to steer?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import SupportsFloat, SupportsIndex

import torch

from steerlens.analyses.prediction.layer_predictions import LayerPredictions
from steerlens.analyses.prediction.predictors import PREDICTORS, Evidence, Predictor
from steerlens.analyses.question_splits import require_disjoint
from steerlens.arguments import ArgumentError, as_float, as_int
from steerlens.data.contrast_set import PairsLike, as_contrast_set
from steerlens.directions import Activations
from steerlens.directions.methods import DiffMean, as_method
from steerlens.directions.methods.method import Method
from steerlens.measures.ordinary_texts import given_or_written
from steerlens.measures.reading import activations
from steerlens.measures.tokenised import questions
from steerlens.models.model import Model, as_model
from steerlens.sites import Positions, SiteLike, as_positions, sites_or_layers
from steerlens.store.cells import cells_or_none
from steerlens.units import BUDGET

TEXTS = 16
"""Ordinary texts, where none are given: a look at the cost needs few."""


@torch.no_grad()
def predict_layers(
    model: Model,
    fit: PairsLike | Activations,
    asked: PairsLike,
    *,
    method: Method | str | None = None,
    sites: SiteLike | Iterable[SiteLike] | None = None,
    layers: Iterable[SupportsIndex] | None = None,
    positions: Positions | str | None = None,
    neutral: Sequence[str] | SupportsIndex | None = None,
    budget: SupportsFloat = BUDGET,
    predictors: Mapping[str, Predictor] | None = None,
    seed: SupportsIndex = 0,
    progress: bool = True,
) -> LayerPredictions:
    """What can be known of every site before a question is steered there.

    The contexts give a direction at each site, one backward pass of the questions its first-order
    effect, and one look at a few ordinary texts its cost.

    Args:
        fit: Pairs, or activations already read from them.
        asked: Questions with two answers, other than those of `fit`; their log-odds are read
            unsteered and differentiated.
        method: How a direction is fitted; by default `DiffMean`.
        sites: By default those that were read, or resid_post of every layer.
        layers: Short for `sites` of resid_post.
        positions: Which tokens would be steered; by default from the prompt's end on.
        neutral: Ordinary texts, or how many of them the unsteered model writes.
        budget: Nats of KL per token that steering may cost.
        predictors: By name; by default all of `predictors.PREDICTORS`.

    Raises:
        ValueError: For questions shared between the sets, a site that the model does not have, or
            answers that cannot be scored.
    """
    model, sites = as_model(model), sites_or_layers(sites, layers)
    budget, asked = as_float("budget", budget), as_contrast_set(asked)
    if budget <= 0:
        raise ArgumentError(f"budget={budget} is no cost that steering could have. Use e.g. 0.1.")
    chosen = PREDICTORS if predictors is None else dict(predictors)
    if not chosen:
        raise ArgumentError("predictors is empty. Give at least one, or leave it out for all.")
    pairs = fit if isinstance(fit, Activations) else as_contrast_set(fit)
    require_disjoint(fit=pairs, choose=asked, report=None)
    questions(model, asked)
    texts, what = given_or_written(
        model, TEXTS if neutral is None else neutral, as_int("seed", seed),
        cells_or_none(None, "", progress),
    )  # fmt: skip
    if isinstance(pairs, Activations):
        if sites is not None:
            raise ArgumentError(
                "Activations were read at their own sites. Leave sites and layers out."
            )
        read = pairs
    else:
        read = activations(model, pairs, sites, progress=progress)
    evidence = Evidence(
        model, read, asked, tuple(texts), as_method(method or DiffMean()),
        as_positions(positions or Positions.from_prompt_end()), budget, progress,
    )  # fmt: skip
    return LayerPredictions(
        names=tuple(chosen),
        sites=read.sites,
        values=torch.stack([one(evidence).float() for one in chosen.values()]),
        budget=budget,
        made_by={
            **model.facts, "method": repr(evidence.method), "positions": repr(evidence.positions),
            "fit": read.data, "asked": asked.hash, "data_name": asked.name, "ordinary": what,
        },
    )  # fmt: skip
