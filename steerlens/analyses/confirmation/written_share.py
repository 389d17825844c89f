"""The share of an effect and the AUROC of a reader, with intervals over groups of prompts."""

from __future__ import annotations

import torch
from jaxtyping import Float
from scipy import stats as scipy_stats
from torch import Tensor

from steerlens.stats import Interval
from steerlens.stats.grouped import FEWEST, Groups, Units

DRAWS = 2000
POOR = 0.7
"""A reader whose AUROC, or its lower end half way down to 0.5, is below this is refused."""
UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


def is_good_reader(auroc: Interval) -> bool:
    """Whether a reader tells the texts of the two contexts apart well enough to be used."""
    return auroc.value >= POOR and auroc.low >= (POOR + 0.5) / 2


def why_no_reader(auroc: Interval) -> str:
    """Why a reader is not used; "" where it is."""
    if is_good_reader(auroc):
        return ""
    return (
        f"the reader tells texts written under the two contexts apart with AUROC {auroc} only, so it "
        "is not used"
    )


def resampled_prompts(
    n: int, draws: int = DRAWS, groups: Groups = None
) -> Float[Tensor, "draw prompt"]:
    """Weights of prompts in resamples of their groups, from a fixed seed."""
    units = Units.of(groups, n)
    generator = torch.Generator().manual_seed(0)
    picked = torch.randint(len(units), (draws, len(units)), generator=generator)
    counts = torch.zeros(draws, len(units)).scatter_add_(1, picked, torch.ones_like(picked).float())
    each = counts[:, units.index].double()
    return each / each.sum(-1, keepdim=True)


def tail_share(n: float, level: float = 0.95) -> float:
    """Which percentile of resamples ends an interval: further out for few prompts or groups.

    Source: the expanded percentile interval, Hesterberg 2015, doi:10.1080/00031305.2015.1089789.
    """
    reach = (n / (n - 1)) ** 0.5 * scipy_stats.t.ppf((1 + level) / 2, n - 1)
    return float(scipy_stats.norm.cdf(-reach))


def share_interval(
    done: Float[Tensor, " prompt"], *scales: Float[Tensor, " prompt"], groups: Groups = None
) -> Interval:
    """Mean of `done` over the largest mean of the scales, with a paired bootstrap over groups.

    NaN for fewer than eight groups of prompts, and where the largest mean is not above 0 with 97.5%
    confidence: there is then no scale.

    >>> whole = torch.linspace(0.5, 1.5, 20)
    >>> share_interval(0.5 * whole, whole)
    Interval(value=0.5, low=0.5, high=0.5)
    """
    units = Units.of(groups, len(done))
    if len(units) < FEWEST:
        return UNKNOWN
    weights, tail = resampled_prompts(len(done), groups=groups), tail_share(units.effective)
    wholes = torch.stack([weights @ scale.double() for scale in scales]).amax(0)
    if float(torch.quantile(wholes, tail)) <= 0:
        return UNKNOWN
    ratios = (weights @ done.double()) / wholes.clamp(min=1e-9)
    low, high = torch.quantile(ratios, torch.tensor([tail, 1 - tail], dtype=torch.float64))
    value = float(done.double().mean() / max(float(scale.double().mean()) for scale in scales))
    # Rounded as what was measured in single precision.
    return Interval(*(float(f"{float(x):.7g}") for x in (value, low, high)))


def auroc_interval(
    positive: Float[Tensor, "prompt draw"],
    negative: Float[Tensor, "prompt draw"],
    groups: Groups = None,
) -> Interval:
    """AUROC of positive against negative texts, with an interval that resamples groups of prompts.

    Where all resamples agree it is Wilson's interval.

    >>> auroc_interval(torch.ones(4, 1), torch.zeros(4, 1)).value
    1.0
    """
    n = len(positive)
    above = (positive[:, None, :, None] > negative[None, :, None, :]).double()
    equal = (positive[:, None, :, None] == negative[None, :, None, :]).double()
    wins = (above + 0.5 * equal).mean((-1, -2))  # [prompt, prompt]
    value = float(wins.mean())
    units = Units.of(groups, n)
    if len(units) < 2:
        return Interval(value, float("nan"), float("nan"))
    weights, tail = resampled_prompts(n, groups=groups), tail_share(units.effective)
    found = torch.einsum("di,ij,dj->d", weights, wins, weights)
    low, high = torch.quantile(found, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    if high - low < 1e-9:
        known = scipy_stats.binomtest(round(value * len(units)), len(units)).proportion_ci(
            0.95, method="wilson"
        )
        low, high = float(known.low), float(known.high)
    return Interval(value, low, high)
