"""Whether the probability of a token rises and then falls over the strength."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens import stats
from steerlens.stats import Groups, group_numbers

CLEAR = 0.1
"""How far the maximum of one question must be above both ends, as a share of itself."""


class Bumps(NamedTuple):
    """Which curves have an inner maximum that is above both ends of the sweep."""

    found: Bool[Tensor, "*grid"]
    """Whether the mean over questions is sure to have one."""
    seen: Bool[Tensor, "*grid"]
    """Whether the mean over these questions has one, sure or not."""
    share: Float[Tensor, "*grid"]
    """The share of questions whose own curve has one, a tenth of itself above both ends. NaN for a
    curve with NaN."""
    peak: Float[Tensor, "*grid"]
    """The multiplier of the maximum, chosen on one half of the questions."""


def find_bumps(
    multipliers: Float[Tensor, " multiplier"],
    values: Float[Tensor, "*grid multiplier question"],
    groups: Groups = None,
) -> Bumps:
    """Looks for an inner maximum on one half of the questions, and confirms it on the other.

    A bump is sure where the mean at the maximum is above the mean at both ends of the sweep, each by
    a difference whose 95% interval over groups of the other half is above 0. Both must hold, so at
    most one of 40 curves without a bump is taken for one. Questions differ: the mean of many with a
    bump need not have a sure one, since their maxima lie elsewhere.

    Args:
        values: Probabilities. A curve with NaN has no bump.
        groups: The group of each question.

    Raises:
        ValueError: If the halves have fewer groups than an interval needs.
    """
    order = multipliers.argsort()
    m, values = multipliers[order], values[..., order, :].double()
    own = torch.arange(values.shape[-1]) if groups is None else group_numbers(groups.tolist())
    looked = own % 2 == 0
    fewest = min(len(own[half].unique()) for half in (looked, ~looked))
    if fewest < stats.FEWEST:
        raise ValueError(
            f"The questions have {len(own.unique())} groups, and half of them look for a bump while "
            f"the others confirm it: {2 * stats.FEWEST} groups are needed. Give more questions."
        )
    place = values[..., looked].mean(-1).nan_to_num(-1.0).argmax(-1)
    told = values[..., ~looked]
    index = place[..., None, None].expand(*place.shape, 1, told.shape[-1])
    above = told.gather(-2, index) - told[..., [0, -1], :]
    low = stats.mean_interval(above, own[~looked])[1]
    mean = values.mean(-1)
    each = values.amax(-2)
    clear = (each - values[..., 0, :] > CLEAR * each) & (each - values[..., -1, :] > CLEAR * each)
    unknown = values.isnan().any(-1).any(-1)
    return Bumps(
        found=(low > 0).all(-1) & (place > 0) & (place < len(m) - 1),
        seen=(mean.amax(-1) > mean[..., 0]) & (mean.amax(-1) > mean[..., -1]),
        share=clear.double().mean(-1).masked_fill(unknown, torch.nan),
        peak=m[place],
    )
