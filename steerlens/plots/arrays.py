"""What callers pass, read and checked at the door: what does not fit raises a ValueError."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steerlens.plots.words import measured

Array = NDArray[np.float64]
Order = NDArray[np.intp]
Shape = tuple[int | None, ...]
"""None stands for an axis of any length."""


class Band(NamedTuple):
    """Means along an axis, with the ends of their intervals; NaN ends where there is none."""

    mean: Array
    low: Array
    high: Array

    @property
    def has_interval(self) -> bool:
        """Whether any place has an interval."""
        return not np.isnan(self.low).all()

    def text(self, i: int, unit: str, quantity: str | None = None) -> str:
        """The number at this place, in words."""
        mean, low, high = (float(part[i]) for part in self)
        return measured(mean, unit, low, high, quantity=quantity)


def array(name: str, values: Any, shape: Shape | None = None, axes: str = "") -> Array:
    """The values as floats of this shape, finite or missing (NaN)."""
    try:
        numbers = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is not an array of numbers ({error}). Pass nested lists of equal length or an "
            "array, with NaN for what was not measured."
        ) from error
    if shape is not None:
        fit(name, numbers, shape, axes)
    if numbers.size == 0:
        raise ValueError(f"{name} is empty (shape {numbers.shape}), so there is nothing to draw.")
    if np.isinf(numbers).any():
        where = tuple(np.argwhere(np.isinf(numbers))[0].tolist())
        raise ValueError(
            f"{name} is infinite at {where}, and no scale shows that. "
            "Use NaN for a cell without a number."
        )
    return numbers


def mask(name: str, values: Any, shape: Shape, axes: str) -> NDArray[np.bool_]:
    """The values as booleans of this shape; all False for None."""
    flags = np.zeros(tuple(n or 0 for n in shape), bool) if values is None else np.asarray(values)
    if flags.dtype != np.bool_:
        raise ValueError(
            f"{name} holds {flags.dtype}, not booleans. Compare first, e.g. `values < threshold`."
        )
    return fit(name, flags, shape, axes)


def fit(name: str, given: NDArray[Any], shape: Shape, axes: str) -> NDArray[Any]:
    """The array, which must have this shape; `axes` says the shape in words."""
    if given.ndim != len(shape) or any(
        want not in (None, got) for want, got in zip(shape, given.shape, strict=True)
    ):
        raise ValueError(
            f"{name} has shape {given.shape}, which does not fit {axes}. "
            f"Pass shape {tuple('any' if s is None else s for s in shape)}."
        )
    return given


def band(name: str, value: Any, order: Order, axes: str) -> Band:
    """(mean, low, high), or the mean alone, in drawing order."""
    if not (isinstance(value, tuple) and len(value) == 3 and np.ndim(value[0]) == 1):
        mean = array(name, value, (len(order),), axes)[order]
        return Band(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    parts = zip(Band._fields, value, strict=True)
    read = [array(f"{name} {part}", v, (len(order),), axes)[order] for part, v in parts]
    mean, low, high = read
    if (low > high).any():
        i = int(np.argmax(low > high))
        raise ValueError(
            f"The interval of {name} is upside down: [{low[i]}, {high[i]}]. "
            "Pass (mean, low, high) in this order."
        )
    return Band(mean, low, high)


def bands(name: str, series: Mapping[str, Any], order: Order, axes: str) -> dict[str, Band]:
    """`band` for each of some named series, of which there must be one."""
    if not series:
        raise ValueError(f"{name} is empty, so there is nothing to draw. Pass at least one.")
    return {key: band(f"{name}[{key!r}]", value, order, axes) for key, value in series.items()}


def ordered(name: str, places: Iterable[Any]) -> tuple[list[Any], Order]:
    """The places along an axis in increasing order, and that order."""
    plain = [place.item() if hasattr(place, "item") else place for place in places]
    numbers = array(name, plain)
    if np.isnan(numbers).any():
        raise ValueError(f"{name}={plain} holds a value that is not finite.")
    if len(set(plain)) != len(plain):
        raise ValueError(f"{name}={plain} holds a value twice. Each needs its own place.")
    order = np.argsort(numbers, kind="stable")
    return [plain[i] for i in order], order


def holes(values: Array) -> list[Any]:
    """Nested lists with None for NaN: JSON has no NaN, and None is what plotly leaves empty."""
    cells = values.astype(object)
    cells[np.isnan(values)] = None
    return cells.tolist()
