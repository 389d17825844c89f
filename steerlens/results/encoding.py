"""Results as JSON and tensors, read from the annotations of their fields."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from torch import Tensor

from steerlens.sites import Site

TENSOR = "tensor"
"""What stands in the JSON for a tensor, which is in the other file under the path of its field."""


def axes_of(hint: Any) -> tuple[str, ...] | None:
    """The named axes of a jaxtyping annotation, e.g. ("row", "multiplier"); None for other types.

    >>> from jaxtyping import Float
    >>> axes_of(Float[Tensor, "row multiplier _example"])
    ('row', 'multiplier', 'example')
    >>> axes_of(Float[Tensor, "pair side=2"])
    ('pair', 'side')
    """
    found = getattr(plain(hint), "dim_str", None)
    if found is None:
        return None
    return tuple(name.lstrip("_*#").partition("=")[0] for name in found.split())


def plain(hint: Any) -> Any:
    """The type without `| None`."""
    if get_origin(hint) in (typing.Union, types.UnionType):
        some = [one for one in get_args(hint) if one is not type(None)]
        return some[0] if len(some) == 1 else Any
    return hint


def hints_of(cls: type) -> dict[str, Any]:
    """The annotations of a dataclass's fields, in their order."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}  # type: ignore[arg-type]


def encode(value: Any, hint: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON can hold it; its tensors are put into `tensors` by their path."""
    hint = plain(hint)
    if value is None:
        return None
    if axes_of(hint) is not None:
        tensors[path] = value
        return TENSOR
    if isinstance(value, Site):
        return value.hook
    if dataclasses.is_dataclass(value):
        return {
            name: encode(getattr(value, name), inner, f"{path}.{name}".lstrip("."), tensors)
            for name, inner in hints_of(type(value)).items()
        }
    if isinstance(value, Mapping):
        inner = (get_args(hint) or (str, Any))[1]
        return {str(k): encode(v, inner, f"{path}.{k}", tensors) for k, v in value.items()}
    if isinstance(value, tuple | list):
        inner = _inner(hint, len(value))
        return [
            encode(v, h, f"{path}.{i}", tensors)
            for i, (v, h) in enumerate(zip(value, inner, strict=True))
        ]
    return value


def decode(stored: Any, hint: Any, path: str, tensors: Mapping[str, Tensor]) -> Any:
    """What `encode` was given.

    Raises:
        KeyError, TypeError, ValueError: If the stored value is not of the annotated type.
    """
    optional, hint = plain(hint) is not hint, plain(hint)
    if stored is None:
        if optional or hint in (Any, type(None)):
            return None
        raise TypeError(f"{path} is missing")
    if axes_of(hint) is not None:
        return tensors[path]
    if hint is Site:
        return Site.from_hook(stored)
    if dataclasses.is_dataclass(hint):
        return hint(
            **{
                name: decode(stored[name], inner, f"{path}.{name}".lstrip("."), tensors)
                for name, inner in hints_of(hint).items()  # type: ignore[arg-type]
            }
        )
    origin = get_origin(hint)
    if origin is not None and issubclass(_type(origin), Mapping):
        inner = get_args(hint)[1]
        return {k: decode(v, inner, f"{path}.{k}", tensors) for k, v in stored.items()}
    if origin is tuple or _is_named_tuple(hint):
        if not isinstance(stored, list):
            raise TypeError(f"{path} is a {type(stored).__name__} instead of a list")
        inner = _inner(hint, len(stored))
        values = [
            decode(v, h, f"{path}.{i}", tensors)
            for i, (v, h) in enumerate(zip(stored, inner, strict=True))
        ]
        return hint(*values) if _is_named_tuple(hint) else tuple(values)
    if hint in (str, int, float, bool):
        allowed = (int, float) if hint is float else (hint,)
        if not isinstance(stored, allowed) or (isinstance(stored, bool) and hint is not bool):
            raise TypeError(f"{path} is {stored!r:.60} instead of a {hint.__name__}")
        return hint(stored)
    return stored


def _inner(hint: Any, count: int) -> tuple[Any, ...]:
    """The type of every element of a tuple."""
    if _is_named_tuple(hint):
        return tuple(typing.get_type_hints(hint).values())
    args = get_args(hint)
    if len(args) == 2 and args[1] is Ellipsis:
        return (args[0],) * count
    return args if len(args) == count else (Any,) * count


def _is_named_tuple(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields")


def _type(origin: Any) -> type:
    return origin if isinstance(origin, type) else object
