"""Results as tidy tables (pandas) and as labelled arrays (xarray)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas
    import xarray


class Column(NamedTuple):
    """One column of a result's table: a quantity with a value for every combination of its axes."""

    name: str
    axes: tuple[str, ...]
    values: Tensor | np.ndarray
    """Numbers, or an array of texts (with dtype=object)."""


Coordinates = Callable[[str, int], Mapping[str, Sequence[Any]]]
"""The columns that name the places of an axis, given the axis and its length."""


def to_frame(columns: Sequence[Column], coordinates: Coordinates) -> pandas.DataFrame:
    """A tidy table: a row for every combination of the axes, coordinates first.

    Raises:
        ValueError: If two columns disagree on the length of an axis.
    """
    import pandas

    sizes = _sizes(columns)
    order, shape = list(sizes), tuple(sizes.values())
    table: dict[str, Any] = {}
    for k, (axis, size) in enumerate(sizes.items()):
        along = np.arange(size).reshape([-1 if k == i else 1 for i in range(len(shape))])
        places = np.broadcast_to(along, shape).reshape(-1)
        for name, values in coordinates(axis, size).items():
            table[name] = pandas.Series(list(values)).take(places).reset_index(drop=True)
    for column in columns:
        # Put the column's own axes in the table's order, then let it be the same along the others.
        own = [axis for axis in order if axis in column.axes]
        spread = _plain(column.values).transpose([column.axes.index(axis) for axis in own])
        spread = spread.reshape([sizes[axis] if axis in own else 1 for axis in order])
        table[column.name] = np.broadcast_to(spread, shape).reshape(-1)
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
        if isinstance(values, Tensor):
            values = values.detach().cpu()
            values = values.float() if values.dtype == torch.bfloat16 else values  # NumPy has none
            values = values.numpy()
        variables[name] = (tuple(dims), values)
    coords: dict[str, Any] = {}
    for dim, (axis, size) in axes.items():
        for name, values in coordinates(axis, size).items():
            if dim == axis:
                coords[name] = (dim, list(values))
    coords = {name: one for name, one in coords.items() if name not in variables}
    return xarray.Dataset(variables, coords=coords, attrs=dict(attributes))


def _plain(values: Tensor | np.ndarray) -> np.ndarray:
    """Numbers in double precision, if they are no integers; texts as they are."""
    if not isinstance(values, Tensor):
        return values
    values = values.detach().cpu()
    return (values.double() if values.is_floating_point() else values).numpy()


def _sizes(columns: Sequence[Column]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, axes, values in columns:
        if len(axes) != values.ndim or len(set(axes)) != len(axes):
            raise ValueError(
                f"Column {name!r} states the axes {axes} for values of shape {tuple(values.shape)}. "
                "Give every axis of the values one name of its own."
            )
        for axis, size in zip(axes, values.shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                raise ValueError(
                    f"Column {name!r} has {size} places along {axis!r} and another has "
                    f"{sizes[axis]}, so they do not fit one table."
                )
    return sizes
