"""The laws that are compared, for each quantity. A new one is a function and an entry of `LAWS`.

Sources: quadratic cost with a plateau, and sigmoid preference, arXiv:2602.02712 (which states their
form and no formula for a finite range: the formulas here are the simplest of that form); validity
decay, arXiv:2602.02343, fitted as by `fit_validity`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit

from steerlens.analyses.strength_laws.law import (
    Array,
    Constant,
    Fit,
    FittedLaw,
    Law,
    curve_law,
    flat,
    is_constant,
)
from steerlens.analyses.validity.curve_fitting import FREE, NAMES, fit_curve
from steerlens.analyses.validity.decay_curve import FittedCurve

UNITS = {"cost": "nats", "cross-entropy": "nats", "preference": "nats", "probability": ""}
"""What is measured over the strength, and its unit. The cost is KL, the cross-entropy its change,
both per token of ordinary text; the preference is the log-odds of the positive over the negative
answer; the probability is that of the positive answer."""


def quadratic(m: Array, below: float, above: float) -> Array:
    """A parabola through 0 with a curvature for each side."""
    return np.where(m < 0, below, above) * m**2


def sloped_quadratic(m: Array, slope: float, below: float, above: float) -> Array:
    """The same with a slope at 0."""
    return slope * m + quadratic(m, below, above)


def plateau(m: Array, below: float, above: float, width_below: float, width_above: float) -> Array:
    """A parabola near 0 that levels out at curvature times width on either side."""
    width = np.where(m < 0, width_below, width_above)
    return quadratic(m, below, above) / (1 + m**2 / width)


def line(m: Array, slope: float, level: float) -> Array:
    """A straight line."""
    return slope * m + level


def sigmoid(m: Array, middle: float, height: float, centre: float, steepness: float) -> Array:
    """A logistic curve between middle - height / 2 and middle + height / 2."""
    return middle + height * (expit(steepness * (m - centre)) - 0.5)


def mean(m: Array, level: float) -> Array:
    """The mean of what was fitted, everywhere."""
    return np.full(np.shape(m), level, dtype=float)


def _interpolated(m: Array, y: Array, start: FittedLaw | None = None) -> FittedLaw:
    """Straight lines between neighbouring strengths; beyond them the last value."""
    order = np.argsort(m)
    return FittedLaw((), lambda at: np.interp(at, m[order], y[order]))


def _decaying(sloped: bool, sign: float) -> Fit:
    """The validity-decay curve of `fit_curve`, of the values times a sign."""

    def fit(m: Array, y: Array, start: FittedLaw | None = None) -> FittedLaw:
        if is_constant(y):
            return flat(y, len(NAMES))
        near = start if isinstance(start, _Decay) else None
        curve = fit_curve(
            torch.from_numpy(m), torch.from_numpy(sign * y), sloped=sloped,
            start=None if near is None else near.curve,
        )  # fmt: skip
        branches = [x for one in (curve.negative, curve.positive) for x in one]
        linear = [sign * x for x in (curve.slope, curve.height, curve.base)]
        return _Decay((*linear, *branches), _of_curve(curve, sign), curve)

    return fit


@dataclass(frozen=True, eq=False)
class _Decay(FittedLaw):
    """A fitted decay, which keeps its curve to start others from."""

    curve: FittedCurve


def _of_curve(curve: FittedCurve, sign: float) -> Callable[[Array], Array]:
    return lambda at: sign * curve.at(torch.from_numpy(np.asarray(at, dtype=float))).numpy()


CURVATURES = (
    Constant("curvature below 0", multiplier=-2, value=1),
    Constant("curvature above 0", multiplier=-2, value=1),
)
WIDTHS = (
    Constant("width below 0", multiplier=2, low=1e-5, high=1e5),
    Constant("width above 0", multiplier=2, low=1e-5, high=1e5),
)
SLOPE, LEVEL = Constant("slope", multiplier=-1, value=1), Constant("level", value=1, is_level=True)
SIGMOID = (
    Constant("middle", value=1, is_level=True),
    Constant("height", value=1, low=-50, high=50),
    Constant("centre", multiplier=1, low=-3, high=3),
    Constant("steepness", multiplier=-1, low=0, high=500),
)
DECAY = tuple(
    Constant(
        name,
        multiplier=-1 if name == "slope" else 2 if "width" in name else int("centre" in name),
        value=int(name in ("slope", "height", "base")),
    )
    for name in NAMES
)

QUADRATIC = curve_law(
    "quadratic", "a± m²", quadratic, CURVATURES, starts=[(1.0, 1.0)],
)  # fmt: skip
SLOPED = curve_law(
    "slope and quadratic", "s m + a± m²", sloped_quadratic, (SLOPE, *CURVATURES),
    starts=[(0.0, 1.0, 1.0)],
)  # fmt: skip
PLATEAU = curve_law(
    "quadratic with a plateau", "a± m² / (1 + m²/w±)", plateau, (*CURVATURES, *WIDTHS),
    starts=[(a, a, w, w) for a, w in ((2.0, 3.0), (5.0, 0.5), (20.0, 0.1), (200.0, 0.01))],
)  # fmt: skip
LINE = curve_law("linear", "s m + b", line, (SLOPE, LEVEL), starts=[(0.0, 0.0)])
LOGISTIC = curve_law(
    "sigmoid", "c + h (1 / (1 + exp(−k (m − m₀))) − 1/2)", sigmoid, SIGMOID,
    starts=[
        (0.0, h, c, k) for h in (-2.5, 2.5) for c in (-0.3, 0.0, 0.3) for k in (3.0, 12.0)
    ],
)  # fmt: skip
MEAN = curve_law("mean", "mean of the fitted strengths", mean, (LEVEL,), starts=[(0.0,)])
LINES = Law(
    "interpolation", "lines between the fitted strengths, the last value beyond", (), 0,
    _interpolated,
)  # fmt: skip
"""It has no constants: it keeps every fitted value."""


def decay_law(formula: str, free: int, fit: Fit) -> Law:
    """The law of arXiv:2602.02343 for one quantity."""
    return Law("validity decay", formula, DECAY, free, fit)


FLAT_DECAY = decay_law("β D(m) + b with β ≤ 0", FREE - 1, _decaying(False, -1.0))
"""For costs: the published utility is β D + b with β ≥ 0, and a cost rises where D falls."""
SLOPED_DECAY = decay_law("(α m + β) D(m) + b", FREE, _decaying(True, 1.0))

LAWS: Mapping[str, tuple[Law, ...]] = {
    "cost": (QUADRATIC, PLATEAU, FLAT_DECAY, MEAN, LINES),
    "cross-entropy": (QUADRATIC, SLOPED, PLATEAU, FLAT_DECAY, MEAN, LINES),
    "preference": (LINE, LOGISTIC, SLOPED_DECAY, MEAN, LINES),
    "probability": (LINE, LOGISTIC, SLOPED_DECAY, MEAN, LINES),
}
"""The laws of each quantity, the baselines last."""
BASELINES = ("mean", "interpolation")
