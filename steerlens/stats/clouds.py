"""Whether numbers fall into two clouds on both sides of zero."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

EXPLAINED = 0.85
"""Share of the variance that two clouds must explain: evenly spread numbers reach 0.75, normal ones
0.64, however they are cut."""
FEWEST_OF_A_CLOUD, SHARE_OF_A_CLOUD = 3, 0.1
"""How many numbers, and which share of them, a cloud has at least."""


class Clouds(NamedTuple):
    """Two clouds of numbers."""

    upper: Bool[Tensor, " example"]
    """Which numbers are in the upper cloud; the others are in the lower one."""
    means: tuple[float, float]
    """Of the lower and of the upper cloud."""
    explained: float
    """Share of the variance that lies between the clouds."""


def two_clouds(values: Float[Tensor, " example"]) -> Clouds | None:
    """Two clouds of numbers, one below and one above zero; None where there are not two.

    The cut is the one that leaves the least variance within the clouds.

    Source: Otsu 1979, doi:10.1109/TSMC.1979.4310076, on the numbers themselves, not on a histogram.

    >>> import torch
    >>> two_clouds(torch.tensor([-2.0, -1.5, -2.5, 3.0, 3.5, 2.5])).means
    (-2.0, 3.0)
    >>> two_clouds(torch.linspace(-1, 1, 50)) is None
    True
    """
    ordered = values.double().sort().values
    n = len(ordered)
    total = float((ordered - ordered.mean()).square().sum())
    if n < 2 * FEWEST_OF_A_CLOUD or total == 0:
        return None
    below = torch.arange(1, n)
    sums = ordered.cumsum(0)[:-1]
    low, high = sums / below, (ordered.sum() - sums) / (n - below)
    between = below * (n - below) / n * (high - low).square()
    cut = int(between.argmax())
    least = max(FEWEST_OF_A_CLOUD, SHARE_OF_A_CLOUD * n)
    means, explained = (float(low[cut]), float(high[cut])), float(between[cut]) / total
    if explained < EXPLAINED or min(cut + 1, n - cut - 1) < least or means[0] * means[1] >= 0:
        return None
    return Clouds(values > float(ordered[cut]), means, explained)


def explained_by(values: Float[Tensor, " example"], labels: tuple[str, ...]) -> float:
    """Share of the variance of some numbers that lies between labels (eta squared); 0 if constant.

    >>> import torch
    >>> explained_by(torch.tensor([1.0, 1.0, -1.0, -1.0]), ("A", "A", "B", "B"))
    1.0
    """
    values = values.double()
    total = float((values - values.mean()).square().sum())
    if total == 0:
        return 0.0
    between = 0.0
    for label in dict.fromkeys(labels):
        own = values[torch.tensor([one == label for one in labels])]
        between += len(own) * float((own.mean() - values.mean()).square())
    return between / total
