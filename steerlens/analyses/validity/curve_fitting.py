"""Least squares of a validity-decay curve, from fixed starts and with a constraint at 0."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from steerlens.analyses.validity.decay_curve import Branch, FittedCurve

Array = NDArray[np.float64]

PER_SIDE, FREE = 4, 8
"""Multipliers needed on either side of 0, and the free parameters of a preference curve."""

# Everything below is in units of the largest multiplier (x) and of the curve's own spread (y).
# A row of parameters is (slope, height, base, then centre, log width, log power of the negative
# and of the positive branch).
NAMES = ("slope", "height", "base") + tuple(
    f"{constant} of the {side} branch"
    for side in ("negative", "positive")
    for constant in ("centre", "width", "power")
)
WIDTHS, POWERS = (2 * math.log(0.02), 2 * math.log(30)), (math.log(0.05), math.log(50))
LINEAR = 100.0
"""Bound of slope, height and base, in spreads of the curve."""
KNOWN = (0.5, 0.5, 0.5) + 2 * (0.1, math.log(2), math.log(2))
"""Standard errors above which a parameter is not identified: half the spread of the curve, a tenth
of the sweep, a factor of two."""
STARTS = [
    (left, math.log(width), math.log(power), right, math.log(width), math.log(power))
    for places, shapes in (
        (
            [(0.05, 0.05), (-0.05, -0.05), (0.3, 0.3), (-0.3, -0.3)],
            [(0.25, 1), (0.04, 0.5), (1, 2)],
        ),
        ([(-0.4, 0.4), (-0.8, 0.8)], [(0.25, 1), (0.04, 0.5)]),
    )
    for width, power in shapes
    for left, right in places
]
"""One top, or one on either side, with equal widths, so that both branches agree at 0. No top is at
0 itself, where the constraint has no gradient."""

FOLDS = 4
"""Parts of the strengths that are left out in turn."""

TopOn = Literal["positive", "negative"]
"""On which side of 0 the fit must reach D = 1 (the other may as well)."""


class _Found(NamedTuple):
    parameters: Array
    loss: float
    converged: bool


def fit_curve(
    multipliers: Float[Tensor, " multiplier"],
    mean: Float[Tensor, " multiplier"],
    *,
    sloped: bool,
    start: FittedCurve | None = None,
) -> FittedCurve:
    """The curve nearest to these means, by least squares.

    Args:
        sloped: Whether the read-out moves with the multiplier, as preference does and utility
            does not; without a slope, the height is at least 0.
        start: A curve of nearly the same data to start from, instead of all the fixed places.
    """
    scale = float(multipliers.abs().max())
    x = (multipliers.double() / scale).numpy(force=True)
    raw = mean.double().numpy(force=True)
    centre, spread = float(raw.mean()), float(raw.std())
    if np.ptp(raw) <= 1e-5 * max(1.0, float(np.abs(raw).max())):
        return _flat(centre, mean - centre)
    y = (raw - centre) / spread
    found = [_minimise(x, y, decay, sloped, top) for decay, top in _starts(start, scale)]
    best = min(found, key=lambda one: one.loss)
    p = best.parameters
    sides = [
        Branch(float(c) * scale, math.exp(w) * scale**2, math.exp(e)) for c, w, e in (p[3:6], p[6:])
    ]
    value, validity, _ = _curve(x, p)
    residuals = (y - value) * spread
    unsure = _unsure(x, y, p, sloped)
    bound = [NAMES[i] for i in np.flatnonzero(_at_bound(x, p, sloped))]
    return FittedCurve(
        slope=float(p[0]) * spread / scale,
        height=float(p[1]) * spread,
        base=float(p[2]) * spread + centre,
        negative=sides[0],
        positive=sides[1],
        r2=1 - float(residuals @ residuals) / (spread**2 * len(x)),
        residuals=torch.from_numpy(residuals),
        base_seen=float(validity.min()) <= 0.5 and not {"height", "base"} & {*unsure, *bound},
        at_bounds=tuple(bound),
        flags=tuple(_flags(x, y, best, bound, unsure, sloped, scale)),
    )


def held_out_error(
    multipliers: Float[Tensor, " multiplier"],
    mean: Float[Tensor, " multiplier"],
    curve: FittedCurve,
    *,
    sloped: bool,
) -> float:
    """How far a curve fitted without some strengths is from the means there, in nats (RMS).

    The inner strengths are left out a quarter at a time, every fourth of them; the two ends never,
    since nothing is claimed beyond them. Each fit starts from the curve of all strengths.
    """
    order = multipliers.argsort()[1:-1]
    missed = []
    for start in range(FOLDS):
        left_out = order[start::FOLDS]
        kept = torch.ones(len(multipliers), dtype=torch.bool)
        kept[left_out] = False
        again = fit_curve(multipliers[kept], mean[kept], sloped=sloped, start=curve)
        missed.append((again.at(multipliers[left_out]) - mean[left_out].double()).square())
    return float(torch.cat(missed).mean().sqrt())


def _flat(value: float, residuals: Tensor) -> FittedCurve:
    nowhere = Branch(0.0, 1.0, 0.0)
    flag = "constant over the whole sweep, so R² is undefined and no decay can be seen"
    return FittedCurve(0.0, 0.0, value, nowhere, nowhere, math.nan, residuals, False, (), (flag,))


def _starts(start: FittedCurve | None, scale: float) -> Iterator[tuple[Array, TopOn]]:
    """Where to start: the six constants of D, and the side that must hold the top."""
    if start is None or not start.positive.power:
        for one in STARTS:
            yield np.array(one), "positive" if one[3] > 0 else "negative"
        return
    near = np.array([
        number
        for c, w, e in (start.negative, start.positive)
        for number in (c / scale, math.log(w / scale**2), math.log(e))
    ])  # fmt: skip
    if near[3] >= 0:
        yield near, "positive"
    if near[0] <= 0:
        yield near, "negative"


def _minimise(x: Array, y: Array, decay: Array, sloped: bool, top: TopOn) -> _Found:
    """One run of SLSQP; the linear parameters start where they are best for the decay."""
    known = np.concatenate([np.zeros(3), decay])
    validity = _curve(x, known)[1]
    columns = [x * validity, validity, np.ones_like(x)][0 if sloped else 1 :]
    linear = np.linalg.lstsq(np.stack(columns, 1), y, rcond=None)[0]
    known[0 if sloped else 1 : 3] = linear.clip(-LINEAR / 2, LINEAR / 2)
    bounds = _bounds(x, sloped, top)
    if not sloped:
        known[1] = max(known[1], 0.1)  # at 0 the decay has no gradient

    def loss(p: Array) -> tuple[float, Array]:
        value, validity, decay_gradient = _curve(x, p)
        off = value - y
        return float(off @ off) / len(x), 2 / len(x) * (
            off @ _jacobian(x, p, validity, decay_gradient)
        )

    result = minimize(
        loss,
        known,
        jac=True,
        method="SLSQP",
        bounds=bounds,
        constraints={"type": "eq", "fun": _jump, "jac": _jump_gradient},
        options={"maxiter": 400, "ftol": 1e-11},
    )
    # A run that ends where the branches disagree at 0 does not describe a curve.
    fair = bool(np.isfinite(result.fun)) and abs(_jump(result.x)) < 1e-6
    return _Found(result.x, float(result.fun) if fair else math.inf, bool(result.success) and fair)


def _bounds(x: Array, sloped: bool, top: TopOn) -> list[tuple[float, float]]:
    low, high = float(x.min()), float(x.max())
    slope = (-LINEAR, LINEAR) if sloped else (0.0, 0.0)
    height = (-LINEAR, LINEAR) if sloped else (0.0, LINEAR)
    # Validity has a top to fall from only if D reaches 1 on that side of 0.
    negative = (low, 0.0 if top == "negative" else high)
    positive = (0.0 if top == "positive" else low, high)
    decays = [negative, WIDTHS, POWERS, positive, WIDTHS, POWERS]
    return [slope, height, (-LINEAR, LINEAR), *decays]


def _curve(x: Array, p: Array) -> tuple[Array, Array, Array]:
    """The curve, its D, and the gradient of log D by the six constants [multiplier, 6]."""
    right = x >= 0
    c, log_width, log_power = (np.where(right, p[6 + k], p[3 + k]) for k in range(3))
    z, width, power = x - c, np.exp(log_width), np.exp(log_power)
    log_d = -power * np.log1p(z**2 / width)
    share = power * z / (width + z**2)
    own = np.stack([2 * share, share * z, log_d], 1)
    gradient = np.concatenate([own * ~right[:, None], own * right[:, None]], 1)
    d = np.exp(log_d)
    return (p[0] * x + p[1]) * d + p[2], d, gradient


def _jacobian(x: Array, p: Array, d: Array, gradient: Array) -> Array:
    """Of the curve, by all nine parameters."""
    linear = np.stack([x * d, d, np.ones_like(x)], 1)
    return np.concatenate([linear, ((p[0] * x + p[1]) * d)[:, None] * gradient], 1)


def _jump(p: Array) -> float:
    """The jump of log D at 0, from the negative to the positive branch."""
    at_zero = [np.exp(e) * np.log1p(c**2 / np.exp(w)) for c, w, e in (p[3:6], p[6:])]
    return float(at_zero[0] - at_zero[1])


def _jump_gradient(p: Array) -> Array:
    parts = []
    for sign, (c, w, e) in ((1, p[3:6]), (-1, p[6:])):
        share = np.exp(e) * c / (np.exp(w) + c**2)
        parts += [
            sign * 2 * share,
            -sign * share * c,
            sign * np.exp(e) * np.log1p(c**2 / np.exp(w)),
        ]
    return np.array([0.0, 0.0, 0.0, *parts])


def _flags(
    x: Array,
    y: Array,
    best: _Found,
    bound: list[str],
    unsure: list[str],
    sloped: bool,
    scale: float,
) -> Iterator[str]:
    """What to know before using the constants."""
    p, free = best.parameters, FREE if sloped else FREE - 1
    value, d, _ = _curve(x, p)
    off = y - value
    r2 = 1 - float(off @ off) / len(x)
    if not best.converged:
        yield "the fit did not converge"
    if r2 < 0.9:
        yield f"the curve explains only {r2:.0%} of the variance: look at the residuals"
    elif len(x) < 2 * free:
        yield f"{len(x)} multipliers for {free} free parameters: R² is always high, sweep more"
    if bound:
        yield f"at the bound of the search: {', '.join(bound)}"
    if unsure:
        yield f"not identified by these multipliers: {', '.join(unsure)}"
    if sloped:
        return
    for top, own in ((p[3], p[3] <= 0), (p[6], p[6] >= 0)):
        if own and min(top - x.min(), x.max() - top) < 1e-3:
            yield f"highest at the end of the sweep ({top * scale:g}), so no peak was seen there"
    if d.min() > 0.5:
        yield f"D_u falls no further than {d.min():.2g} in the sweep: sweep larger multipliers"


def _at_bound(x: Array, p: Array, sloped: bool) -> NDArray[np.bool_]:
    bounds = np.array(_bounds(x, sloped, "positive"))
    bounds[[3, 6]] = x.min(), x.max()  # the side of the top is chosen, not a bound of the search
    reach = bounds[:, 1:] - bounds[:, :1]
    near = (reach > 0) & (np.abs(p[:, None] - bounds) < 1e-4 * reach)
    return near[:, 0] | near[:, 1]


def _unsure(x: Array, y: Array, p: Array, sloped: bool) -> list[str]:
    """Parameters whose standard error, on the tangent of the constraint, is too large."""
    moving = ~_at_bound(x, p, sloped)
    moving[0] &= sloped
    value, d, gradient = _curve(x, p)
    jacobian = _jacobian(x, p, d, gradient)[:, moving]
    along = _jump_gradient(p)[moving]
    tangent = np.eye(moving.sum())
    if np.linalg.norm(along) > 1e-9:
        tangent = np.linalg.svd(along[None])[2][1:].T
    _, sizes, right = np.linalg.svd(jacobian @ tangent, full_matrices=False)
    # Without noise the error is that of rounding: a thousandth of the spread.
    squares = float((y - value) @ (y - value)) / max(1, len(x) - tangent.shape[1])
    errors = np.zeros(len(p))
    spread = (tangent @ right.T) / np.maximum(sizes, 1e-9)
    errors[moving] = math.sqrt(max(squares, 1e-6)) * np.linalg.norm(spread, axis=1)
    return [NAMES[i] for i in np.flatnonzero(errors > np.array(KNOWN))]
