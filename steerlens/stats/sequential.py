"""Evidence that may be looked at after every unit: paired differences in, e-values out."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

BETS = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Sizes of the effects that are betted on, in root mean squares of the differences so far."""
PLACES = 401
"""Candidates for the centre of the differences."""


def log_evidence(differences: Float[Tensor, "*grid unit"]) -> Float[Tensor, "*grid unit"]:
    """Logarithm of the e-value against "both sides are exchangeable", after every unit.

    Under the null a difference is as likely to have either sign, whatever its size. A bet on the
    sign of each difference, exp(b d / s) / cosh(b d / s), then has the mean 1, and so has the product
    of the bets. The e-value is the mean of that product over several b of both signs; s is the root
    mean square of the differences so far. The chance that it ever reaches 1/α is at most α, however
    often one looks: a test of level α rejects as soon as it does. It assumes no distribution.

    Args:
        differences: One side minus the other, in the order in which they were seen; the mean over a
            group where examples belong together.

    Source: de la Peña 1999, doi:10.1214/aop/1022677393 (sums of symmetric variables); Ville's
    inequality; arXiv:2009.03167 for e-processes. Departure: the scale and the set of bets are
    choices of this project.

    >>> found = log_evidence(torch.ones(12))
    >>> bool(found[3] < math.log(20) < found[11])
    True
    """
    d = differences.double()
    counts = torch.arange(1, d.shape[-1] + 1, dtype=d.dtype)
    scale = (d.square().cumsum(-1) / counts).sqrt()
    x = torch.where(scale > 0, d / scale.clamp(min=1e-300), 0.0)
    bets = torch.tensor([sign * b for b in BETS for sign in (1, -1)], dtype=d.dtype)
    y = bets.view(-1, *[1] * d.ndim) * x
    steps = y - (y.abs() + torch.log1p(torch.exp(-2 * y.abs())) - math.log(2))
    return (torch.logsumexp(steps.cumsum(-1), 0) - math.log(len(bets))).to(differences)


def p_value_anytime(evidence: Float[Tensor, "*grid unit"]) -> Float[Tensor, "*grid"]:
    """The p-value that holds however often one looked: 1 over the largest e-value so far, or 1."""
    return torch.exp(-evidence.amax(-1)).clamp(max=1.0)


def confidence_sequence(
    differences: Float[Tensor, " unit"], *, level: float = 0.95
) -> tuple[Float[Tensor, " unit"], Float[Tensor, " unit"]]:
    """Ends of the interval of the differences' centre, after every unit; all of them hold at once.

    It holds every centre about which the differences could be symmetric (`log_evidence` of what is
    left below 1 / (1 - level)). The ends are NaN while anything is possible.
    """
    d = differences.double()
    reach = 4 * float(d.std()) + 1e-12 if len(d) > 1 else 1.0
    low, high = float(d.min()) - reach, float(d.max()) + reach
    places = torch.linspace(low, high, PLACES, dtype=d.dtype)
    kept = log_evidence(d - places[:, None]) < -math.log(1 - level)  # [place, unit]
    first, last = kept.int().argmax(0), PLACES - 1 - kept.flip(0).int().argmax(0)
    step = (high - low) / (PLACES - 1)  # outwards, so that the grid loses nothing
    known = kept.any(0) & (first > 0) & (last < PLACES - 1)
    ends = (places[first] - step, places[last] + step)
    return tuple(torch.where(known, end, torch.nan).to(differences) for end in ends)  # type: ignore[return-value]
