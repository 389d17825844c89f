"""How many tokens it takes until what a way leaves has faded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens import stats
from steerlens.stats import Bounds, Units

SHARE = 0.1
"""Of its first value, below which a curve has faded."""
DRAWS = 1000


def fading(curves: Float[Tensor, "*grid token"], share: float = SHARE) -> Float[Tensor, "*grid"]:
    """Tokens since the first value until curves stay below a share of it.

    0 where there is nothing to fade, infinite where a curve has not faded at its end, and NaN where
    it was not measured.

    >>> fading(torch.tensor([[1.0, 0.5, 0.05, 0.02], [1.0, 0.05, 0.2, 0.15]])).tolist()
    [2.0, inf]
    """
    above = curves >= share * curves[..., :1]
    places = torch.arange(curves.shape[-1], device=curves.device)
    last = torch.where(above, places, -1).amax(-1)  # of those that have not faded
    found = (last + 1).to(curves)
    found = found.masked_fill(last == len(places) - 1, torch.inf)
    found = found.masked_fill((curves == 0).all(-1), 0.0)
    return found.masked_fill(curves.isnan().any(-1), torch.nan)


def fading_interval(
    parts: Sequence[Float[Tensor, "way repeat _text token"]],
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Bounds:
    """`fading` of the mean curve of every way, with a bootstrap interval over texts and repetitions.

    Curves of single texts are rough: most tokens of a language are certain whatever was written. So
    the mean over texts is taken first, and resampled. Percentile ends; each resample draws texts
    and, where there are several, repetitions. Below 8 texts of a part the ends are NaN; they are
    infinite where the curves of that many resamples have not faded.

    Args:
        parts: E.g. one for each concept; the mean over them is taken.
    """
    curve = torch.stack([part.mean((1, 2)) for part in parts]).mean(0)  # [way, token]
    value = fading(curve)
    if min(part.shape[2] for part in parts) < stats.FEWEST:
        unknown = torch.full_like(value, torch.nan)
        return value, unknown, unknown
    total = torch.zeros(draws, *curve.shape)
    for k, part in enumerate(parts):
        of_texts = _weights(part.shape[2], draws, seed + 2 * k)
        of_repeats = _weights(part.shape[1], draws, seed + 2 * k + 1)
        total += torch.einsum("dr,dt,wrtn->dwn", of_repeats, of_texts, part.float())
    found = fading(total / len(parts)).sort(0).values  # NaN and infinite come last
    tail = int(draws * (1 - level) / 2)
    low, high = found[tail], found[draws - 1 - tail]
    return value, low.masked_fill(value.isnan(), torch.nan), high


def _weights(n: int, draws: int, seed: int) -> Float[Tensor, "draw n"]:
    return Units.of(None, n).counts(draws, seed) / n
