"""Results as tidy tables (pandas) and as labelled arrays (xarray)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    import pandas
    import xarray


class Column(NamedTuple):
    """One column of a result's table: a quantity with a value for every combination of its axes."""

    name: str
    axes: tuple[str, ...]
    values: Tensor


Coordinates = Callable[[str, int], Mapping[str, Sequence[Any]]]
"""The columns that name the places of an axis, given the axis and its length."""


def to_frame(columns: Sequence[Column], coordinates: Coordinates) -> pandas.DataFrame:
    """A tidy table: a row for every combination of the axes, coordinates first.

    Raises:
        ValueError: If two columns disagree on the length of an axis.
    """
    import pandas

    sizes = _sizes(columns)
    named = {axis: coordinates(axis, size) for axis, size in sizes.items()}
    places = list(itertools.product(*(range(size) for size in sizes.values())))
    table: dict[str, list[Any]] = {}
    for k, axis in enumerate(sizes):
        for name, values in named[axis].items():
            table[name] = [values[place[k]] for place in places]
    order = list(sizes)
    for column in columns:
        spread = column.values
        # Put the column's own axes in the table's order, then let it be the same along the others.
        own = [axis for axis in order if axis in column.axes]
        spread = spread.permute([column.axes.index(axis) for axis in own])
        for k, axis in enumerate(order):
            if axis not in own:
                spread = spread.unsqueeze(k)
        spread = spread.expand(tuple(sizes.values()))
        table[column.name] = spread.reshape(-1).tolist()
    return pandas.DataFrame(table)


def to_xarray(
    arrays: Sequence[Column], coordinates: Coordinates, attributes: Mapping[str, Any]
) -> xarray.Dataset:
    """Labelled arrays; an axis whose length differs between arrays gets a name for each length."""
    import xarray

    seen: dict[str, int] = {}
    variables: dict[str, Any] = {}
    axes: dict[str, tuple[str, int]] = {}
    for name, own, values in arrays:
        dims = []
        for axis, size in zip(own, values.shape, strict=True):
            dim = axis if seen.setdefault(axis, size) == size else f"{axis} of {name}"
            axes[dim] = (axis, size)
            dims.append(dim)
        variables[name] = (tuple(dims), values.detach().cpu().numpy())
    coords: dict[str, Any] = {}
    for dim, (axis, size) in axes.items():
        for name, values in coordinates(axis, size).items():
            if dim == axis:
                coords[name] = (dim, list(values))
    coords = {name: one for name, one in coords.items() if name not in variables}
    return xarray.Dataset(variables, coords=coords, attrs=dict(attributes))


def _sizes(columns: Sequence[Column]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, axes, values in columns:
        for axis, size in zip(axes, values.shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                raise ValueError(
                    f"Column {name!r} has {size} places along {axis!r} and another has "
                    f"{sizes[axis]}, so they do not fit one table."
                )
    return sizes
