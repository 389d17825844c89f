"""A law of the strength: a curve over the multiplier, its constants, and how it is fitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Array = NDArray[np.float64]
Curve = Callable[..., Array]
"""A curve at some multipliers, given its constants one by one."""


@dataclass(frozen=True)
class Constant:
    """A constant of a law.

    Laws are fitted with the largest multiplier as the unit of strength and the spread of the curve
    as the unit of its values. The powers say how a constant changes with both units.
    """

    name: str
    multiplier: int = 0
    """The power of the multiplier in its unit."""
    value: int = 0
    """The power of the fitted quantity in its unit."""
    is_level: bool = False
    """Whether it is a value of the curve itself, so that it moves with the zero of the quantity."""
    low: float = -np.inf
    high: float = np.inf
    """Its bounds, in the units of the fit."""

    def unit(self, quantity: str) -> str:
        """Its unit, where the fitted quantity has the unit `quantity`.

        >>> Constant("a", multiplier=-2, value=1).unit("nats")
        'nats per squared multiplier'
        """
        size = abs(self.multiplier)
        usual = {0: "", 1: "multiplier", 2: "squared multiplier"}
        power = usual.get(size, f"multiplier to the power {size}")
        above = [quantity] if self.value and quantity else []
        above += [power] if self.multiplier > 0 else []
        below = f"per {power}" if self.multiplier < 0 else ""
        return " ".join([*above, below]).strip()


@dataclass(frozen=True, eq=False)
class FittedLaw:
    """A law with constants."""

    constants: tuple[float, ...]
    """In the units of the curve that was fitted; NaN for a curve that is constant."""
    at: Callable[[Array], Array]
    """The curve at some multipliers, also at those beyond the fitted ones."""


@runtime_checkable
class Fit(Protocol):
    """Fits a law to a curve by least squares."""

    def __call__(self, m: Array, y: Array, start: FittedLaw | None = None) -> FittedLaw:
        """The law nearest to the values `y` at the multipliers `m`.

        Args:
            start: The law of nearly the same curve, to start from.
        """
        ...


@dataclass(frozen=True, eq=False)
class Law:
    """One law: one entry of the table `LAWS`."""

    name: str
    formula: str
    constants: tuple[Constant, ...]
    free: int
    """How many free parameters it has. It has fewer than constants where these are bound together."""
    fit: Fit


def curve_law(
    name: str,
    formula: str,
    curve: Curve,
    constants: Sequence[Constant],
    starts: Sequence[Sequence[float]],
) -> Law:
    """A law from a curve, fitted by least squares from some starts.

    Args:
        curve: A function of the multipliers and of the constants, in their order. It must keep its
            form when multipliers and values change their units, as the constants state.
        starts: Values of the constants in the units of the fit: multipliers from -1 to 1, and values
            with a spread of 1, about 0 where a constant is a level. The best fit is kept.
    """
    powers = np.array([(c.multiplier, c.value) for c in constants], dtype=float)
    levels = np.array([c.is_level for c in constants])
    low, high = (np.array([getattr(c, end) for c in constants]) for end in ("low", "high"))

    def fit(m: Array, y: Array, start: FittedLaw | None = None) -> FittedLaw:
        wide, spread = float(np.abs(m).max()), float(y.std())
        centre = float(y.mean()) if levels.any() else 0.0
        if wide == 0 or is_constant(y):
            return flat(y, len(constants))
        units = wide ** powers[:, 0] * spread ** powers[:, 1]
        x, z = m / wide, (y - centre) / spread
        begin = list(starts)
        if start is not None and np.isfinite(start.constants).all():
            begin = [(np.array(start.constants) - centre * levels) / units]
        found = [
            least_squares(lambda p: curve(x, *p) - z, np.clip(one, low, high), bounds=(low, high))
            for one in begin
        ]
        best = min(found, key=lambda one: one.cost).x
        own = best * units + centre * levels
        return FittedLaw(tuple(own.tolist()), lambda at: curve(np.asarray(at, float), *own))

    return Law(name, formula, tuple(constants), len(constants), fit)


def is_constant(y: Array) -> bool:
    """Whether a curve has no spread but rounding."""
    return bool(np.ptp(y) <= 1e-9 * max(1.0, float(np.abs(y).max())))


def flat(y: Array, count: int) -> FittedLaw:
    """The law of a constant curve: its mean everywhere."""
    level = float(y.mean())
    return FittedLaw((np.nan,) * count, lambda at: np.full(np.shape(at), level))
