"""Means over texts of which some have ended, compared by resampling prompts."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analyses.confirmation.written_share import (
    UNKNOWN,
    resampled_prompts,
    tail_share,
)
from steerlens.stats import Interval
from steerlens.stats.grouped import FEWEST

Means = tuple[float, Float[Tensor, " draw"]]
"""The mean over the texts that are there, and over those of resampled prompts."""


def difference_interval(one: Float[Tensor, " prompt"], other: Float[Tensor, " prompt"]) -> Interval:
    """Mean of one kind of texts minus mean of another, with its 95% interval over prompts.

    Texts that are not there are NaN. Both kinds are resampled by the same prompts, so that what a
    prompt does to both cancels. There is no interval where fewer than 8 of either are there.

    Source: the expanded percentile interval, Hesterberg 2015, doi:10.1080/00031305.2015.1089789.
    """
    if not _enough(one, other):
        value = float(one.nanmean() - other.nanmean())
        return Interval(value, float("nan"), float("nan"))
    (a, drawn_a), (b, drawn_b) = _means(one), _means(other)
    return _interval(a - b, drawn_a - drawn_b, len(one))


def ratio_interval(
    done: tuple[Float[Tensor, " prompt"], Float[Tensor, " prompt"]],
    *scales: tuple[Float[Tensor, " prompt"], Float[Tensor, " prompt"], float],
) -> Interval:
    """A difference of means over the largest of some others, with its 95% interval over prompts.

    As `share_interval`, for texts of which some are not there (NaN). Unknown where fewer than 8 of
    any kind are there, or the largest scale is not above 0 with 97.5% confidence.

    Args:
        done: Two kinds of texts, of which the second is taken from the first.
        scales: The same, each with a factor.
    """
    if not _enough(*done, *(texts for scale in scales for texts in scale[:2])):
        return UNKNOWN
    pairs = [(_means(a), _means(b), factor) for a, b, factor in ((*done, 1.0), *scales)]
    value, *wholes = [factor * (a[0] - b[0]) for a, b, factor in pairs]
    drawn, *other = [factor * (a[1] - b[1]) for a, b, factor in pairs]
    scale = torch.stack(other).amax(0)
    if float(torch.nanquantile(scale, tail_share(len(done[0])))) <= 0:
        return UNKNOWN
    return _interval(value / max(wholes), drawn / scale.clamp(min=1e-9), len(done[0]))


def _enough(*kinds: Float[Tensor, " prompt"]) -> bool:
    return all(int(kind.isfinite().sum()) >= FEWEST for kind in kinds)


def _means(values: Float[Tensor, " prompt"]) -> Means:
    there = values.isfinite().double()
    filled = values.double().nan_to_num()
    weights = _weights(len(values))
    return float(filled.sum() / there.sum()), (weights @ filled) / (weights @ there)


@lru_cache(maxsize=4)
def _weights(prompts: int) -> Float[Tensor, "draw prompt"]:
    """The same resamples for every mean, so that differences are paired by prompt."""
    return resampled_prompts(prompts)


def _interval(value: float, drawn: Float[Tensor, " draw"], prompts: int) -> Interval:
    tail = tail_share(prompts)
    ends = torch.nanquantile(drawn, torch.tensor([tail, 1 - tail], dtype=torch.float64))
    # Rounded as what was measured in single precision.
    low, high = (float(f"{float(x):.7g}") for x in ends)
    return Interval(float(f"{value:.7g}"), low, high)
