"""Measures how far vectors lead from the stream's own distribution, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import SupportsFloat, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analyses.direction_nulls import along_random
from steerlens.analyses.manifold.stream_distance import (
    COMPONENT,
    CONTRAST,
    RANDOM,
    StreamDistance,
)
from steerlens.analyses.manifold.stream_shape import StreamShape
from steerlens.arguments import ArgumentError, as_floats, as_int
from steerlens.data.contrast_set import PairsLike, as_contrast_set
from steerlens.data.near_duplicates import text_groups
from steerlens.directions import Direction
from steerlens.interventions.residual import Add
from steerlens.measures import scores
from steerlens.measures.divergence import divergence
from steerlens.measures.ordinary_texts import text_halves
from steerlens.measures.surprisal import require_unsteered
from steerlens.measures.sweep import sweep
from steerlens.measures.tokenised import halved, questions
from steerlens.models.model import Model, as_model
from steerlens.sites import Positions, Site
from steerlens.store.cells import Cells, cells_or_none

LENGTHS = (0.1, 0.2, 0.4)
"""Lengths of the vectors, in median norms of the stream at their site."""
TEXTS = 32
"""Texts of one pass."""


@torch.no_grad()
def stream_distance(
    model: Model,
    directions: Mapping[str, Sequence[Direction]],
    texts: Sequence[str],
    asked: PairsLike | None = None,
    *,
    concepts: Mapping[str, str] | None = None,
    lengths: Iterable[SupportsFloat] = LENGTHS,
    randoms: SupportsIndex = 4,
    components: Iterable[SupportsIndex] = (1, 2, 10, -1),
    cost_texts: SupportsIndex | None = None,
    progress: bool = True,
    cells: Cells | None = None,
) -> StreamDistance:
    """Does the distance of steered states from the stream's own distribution predict the cost?

    At every site the mean and the shrunken covariance of the stream are fitted to the ordinary tokens
    of one half of the texts, the first one of each left out. On the other half every vector is added
    at lengths that are the same share of the stream's norm, so that within one length the norm orders
    nothing. The change of the mean squared Mahalanobis distance, at the tokens that are steered, is
    held against the KL there and against the loss of utility.

    Args:
        directions: By the name of the contrast, its directions at the same sites, of one stream.
        texts: Ordinary texts.
        asked: Questions whose utility is read; by default none are.
        concepts: The concept of contrasts, by their names, where several are of one, e.g. drawn from
            other data: it is the unit of the intervals. Others are units of their own.
        lengths: In median norms of the stream, above 0.
        randoms: Random directions at each site.
        components: Principal components of the fitted covariance: 1 for the largest variance, -1 for
            the smallest.
        cost_texts: On how many texts of the second half the cost is measured; by default on all.
        cells: Where finished units are kept; by default nowhere.

    Raises:
        ValueError: If directions are not at the same sites, state no resid_norm or do not fit the
            model; for a length that is not above 0; or for too few texts.
        SteeringError: If steering is attached to the model.

    Source: the manifold account of arXiv:2602.02343, which states that validity falls with distance
    from the manifold of activations and measures no distance; Mahalanobis in a shrunken covariance is
    our reading of it.
    """
    model = as_model(model)
    require_unsteered(model)
    sizes = as_floats("lengths", lengths)
    if not sizes or min(sizes) <= 0:
        raise ArgumentError(f"lengths={sizes}: a length of 0 or less moves nothing. Use e.g. 0.2.")
    sites = _sites(model, directions)
    if unknown := sorted(set(concepts or {}) - set(directions)):
        raise ArgumentError(f"concepts names {unknown}, which are no contrasts. Use their names.")
    count = as_int("randoms", randoms, least=0)
    numbers = [as_int("components", k) for k in components]
    asked = None if asked is None else as_contrast_set(asked)
    if asked is not None:
        questions(model, asked)
    fit, report = text_halves(list(texts))
    if cost_texts is not None:
        report = report[: as_int("cost_texts", cost_texts, least=2)]
    before, steered = _states(model, fit, sites, prompt=True), _states(model, report, sites)
    shapes = {site: StreamShape.of(before[site]) for site in sites}
    names, kinds, vectors = _rows(directions, sites, shapes, count, numbers)
    edits: list[Add] = []
    distance = torch.empty(len(names), len(sites), len(sizes))
    for i, own in enumerate(vectors):
        for s, one in enumerate(own):
            assert one.resid_norm is not None
            unit = one.vector.double() / one.vector.double().norm() * one.resid_norm
            for k, size in enumerate(sizes):
                distance[i, s, k] = shapes[sites[s]].change(steered[sites[s]], size * unit)
            edits.append(Add(one, Positions.from_prompt_end(), one.resid_norm))
    kept = cells_or_none(cells, "manifold", progress)
    strengths = (0.0, *sizes)
    shape = (len(names), len(sites))
    cost = divergence(model, report, edits, strengths, progress=progress, cells=kept.part("cost"))
    lost = torch.full((*shape, len(sizes), 0), torch.nan)
    if asked is not None:
        swept = sweep(model, asked, edits, strengths, progress=progress, cells=kept.part("utility"))
        utility = scores.utility(swept).value
        lost = (utility[:, :1] - utility[:, 1:]).unflatten(0, shape)
    return StreamDistance(
        directions=tuple(names),
        kinds=tuple(kinds),
        concepts=tuple(dict(concepts or {}).get(name, name) for name in names),
        sites=tuple(sites),
        lengths=torch.tensor(sizes),
        distance=distance,
        cost=cost[:, 1:].unflatten(0, shape).contiguous(),
        lost=lost.contiguous(),
        shrinkage=torch.tensor([shapes[site].shrinkage for site in sites]),
        width=model.d_model,
        groups=tuple(str(group) for group in text_groups(report)),
        made_by={
            **model.facts,
            "question": "Does distance from the stream's own distribution predict the cost?",
            "fitted_tokens": len(before[sites[0]]),
            "texts": len(report),
            "asked": None if asked is None else asked.hash,
        },
    )


def _sites(model: Model, directions: Mapping[str, Sequence[Direction]]) -> list[Site]:
    """The sites of all directions, in order."""
    if not directions:
        raise ArgumentError("There are no directions. Give at least one contrast.")
    found = {name: [one.site for one in own] for name, own in directions.items()}
    first = next(iter(found.values()))
    for name, sites in found.items():
        if sorted(sites) != sorted(first) or len(set(sites)) < len(sites) or not sites:
            raise ArgumentError(
                f"{name!r} has directions at {', '.join(map(str, sites))}, and the first contrast at "
                f"{', '.join(map(str, first))}. Fit all contrasts at the same sites, once each."
            )
    for own in directions.values():
        for one in own:
            model.require(one)
            model.require_site(one.site)
            if one.resid_norm is None:
                raise ArgumentError(
                    f"{one} does not state resid_norm, so a share of the stream's norm is not known. "
                    "Fit it with steerlens.activations(model, …)."
                )
    if len({site.stream for site in first}) > 1:
        raise ArgumentError("The directions are in several streams. Use one stream in a call.")
    return sorted(first)


def _rows(
    directions: Mapping[str, Sequence[Direction]],
    sites: Sequence[Site],
    shapes: Mapping[Site, StreamShape],
    randoms: int,
    components: Sequence[int],
) -> tuple[list[str], list[str], list[list[Direction]]]:
    """Names, kinds and directions of all rows: contrasts, random ones and components."""
    names, kinds = list(directions), [CONTRAST] * len(directions)
    vectors = [sorted(own, key=lambda one: one.site) for own in directions.values()]
    like = vectors[0]
    for k in range(randoms):
        names.append(f"random {k + 1}")
        kinds.append(RANDOM)
        vectors.append([
            along_random(Add(one, unit=1.0), 100 * k + s + 1).direction for s, one in enumerate(like)
        ])  # fmt: skip
    for number in components:
        names.append(f"component {number}")
        kinds.append(COMPONENT)
        vectors.append([
            replace(one, vector=shapes[site].component(number).float(), method=f"component {number}")
            for site, one in zip(sites, like, strict=True)
        ])  # fmt: skip
    return names, kinds, vectors


def _states(
    model: Model, texts: Sequence[str], sites: Sequence[Site], *, prompt: bool = False
) -> dict[Site, Float[Tensor, "token d_model"]]:
    """The stream at ordinary tokens: those that steering reaches, or also those of the prompt.

    A text's first half is its prompt, as in `divergence`. The first token of a text is left out: where
    there is no BOS, it has the massive activations of an attention sink (arXiv:2402.17762), which
    would be most of the covariance.
    """
    found: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for start in range(0, len(texts), TEXTS):
        batch = halved(model, texts[start : start + TEXTS])
        counted = batch.mask & ~batch.special & (batch.mask.cumsum(-1) > 1)
        if not prompt:
            counted &= Positions.from_prompt_end().mask(batch)
        for site, resid in model.cache(batch, sites).items():
            found[site].append(resid[counted].float().cpu())
    return {site: torch.cat(parts) for site, parts in found.items()}
