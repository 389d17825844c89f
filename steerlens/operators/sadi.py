"""SADI: the elements that a contrast moves most, scaled by the input's own activation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, SupportsFloat, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import ArgumentError, as_float, as_int
from steerlens.data.contrast_set import PairsLike, as_contrast_set
from steerlens.interventions.scale_mask import ScaleMask
from steerlens.interventions.together import Together
from steerlens.measures.reading import chunks, reading_positions
from steerlens.models.model import Model, as_model
from steerlens.sites import Positions, Site, Stream

Elements = Literal["heads", "neurons", "hidden"]

STREAMS: dict[Elements, Stream] = {"heads": "z", "neurons": "mlp_post", "hidden": "resid_post"}
"""Where the elements are."""


def sadi(
    model: Model,
    pairs: PairsLike,
    elements: Elements = "heads",
    *,
    k: SupportsIndex = 4,
    strength: SupportsFloat = 4.0,
    layers: Iterable[int] | None = None,
    both_ends: bool = False,
    read_at: Positions | None = None,
    positions: Positions | None = None,
) -> Together:
    """A mask of the k elements that differ most between the sides of pairs, and their scaling.

    D is the mean difference of activations, positive less negative: of a head the mean over its
    entries. The elements with the largest D, among all layers, are scaled by
    1 + multiplier · strength.

    Args:
        elements: Attention heads, MLP neurons, or coordinates of the stream after a block.
        strength: What multiplier 1 adds, in multiples of the element's own value.
        layers: By default all.
        both_ends: Half of the elements are those with the smallest D, as in the authors' code.
        read_at: The token that is read; by default where the answers differ, or the last.
        positions: The tokens that are edited; by default the prompt's last.

    Raises:
        ArgumentError: If there are not so many elements, or elements of no such kind.

    Source: SADI, arXiv:2410.12299. Departures: the number of elements and the strength are
    arguments, to be chosen on data that is not reported on (the authors choose on the reported
    data); ties are broken by order.
    """
    model, pairs = as_model(model), as_contrast_set(pairs)
    if elements not in STREAMS:
        raise ArgumentError(
            f"elements={elements!r:.80} can not be masked. Use one of {', '.join(STREAMS)}."
        )
    chosen = range(model.n_layers) if layers is None else list(layers)
    sites = [Site(layer, STREAMS[elements]) for layer in chosen]
    differences = mean_differences(model, pairs, sites, read_at)
    size = model.cfg.d_head if elements == "heads" else 1
    each = differences.unflatten(-1, (-1, size)).mean(-1)  # [site, element]
    count = as_int("k", k, least=1)
    if count > each.numel():
        raise ArgumentError(
            f"k={count} of {each.numel()} {elements} cannot be chosen. Use a smaller k, or more "
            "layers."
        )
    mask = torch.zeros_like(each)
    order = each.flatten().argsort(descending=True, stable=True)
    lowest = count // 2 if both_ends else 0
    mask.view(-1)[order[: count - lowest]] = 1.0
    if lowest:
        mask.view(-1)[order[-lowest:]] = 1.0
    where = Positions.last() if positions is None else positions
    amount = as_float("strength", strength)
    return Together(
        tuple(
            ScaleMask(site, row.repeat_interleave(size), amount, where)
            for site, row in zip(sites, mask, strict=True)
            if bool(row.any())
        )
    )


def mean_differences(
    model: Model, pairs: PairsLike, sites: Sequence[Site], read_at: Positions | None = None
) -> Float[Tensor, "site width"]:
    """The mean difference, positive less negative, at each of some sites of one width.

    Args:
        read_at: The token that is read; by default where the answers differ, or the last.
    """
    given = as_contrast_set(pairs)
    rule = reading_positions(given) if read_at is None else read_at
    total = torch.zeros(len(sites), model.width(sites[0]), dtype=torch.float64)
    for chunk in chunks(model, tuple(given), sites, rule, 32):
        total += (chunk.positive.double() - chunk.negative.double()).sum(0)
    return (total / len(given)).float()
