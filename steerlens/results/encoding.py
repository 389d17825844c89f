"""Results as JSON and tensors, read from the annotations of their fields."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
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


@functools.cache
def hints_of(cls: type) -> Mapping[str, Any]:
    """The annotations of a dataclass's fields, in their order.

    Raises:
        TypeError: If it is no dataclass, or an annotation names something that is not there at run
            time.
    """
    if not dataclasses.is_dataclass(cls):
        raise TypeError(
            f"{cls.__name__} is no dataclass, so its fields are not known. Write "
            "@dataclass(frozen=True, eq=False, repr=False) above it."
        )
    try:
        hints = typing.get_type_hints(cls)
    except NameError as error:
        raise TypeError(
            f"An annotation of {cls.__name__} cannot be read: {error}. Import what it names at the "
            "top of the file, not under TYPE_CHECKING and not inside a function."
        ) from error
    return types.MappingProxyType(
        {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}
    )


def encode(value: Any, hint: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON can hold it; its tensors are put into `tensors` by their path.

    Raises:
        TypeError: For a value that cannot be stored.
    """
    hint = plain(hint)
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, Tensor):
        if axes_of(hint) is None:
            raise TypeError(
                f"{path} is a tensor and annotated as {_name(hint)}. Annotate it with its axes, "
                'e.g. Float[Tensor, "row multiplier"], or store value.tolist().'
            )
        tensors[path] = value
        return TENSOR
    if isinstance(value, Site):
        return value.hook
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            name: encode(getattr(value, name), inner, _join(path, name), tensors)
            for name, inner in hints_of(type(value)).items()
        }
    if isinstance(value, Mapping):
        inner = (get_args(hint) or (str, Any))[1]
        for key in value:
            if not isinstance(key, str):
                raise TypeError(
                    f"{path} has the key {key!r}. Only text can be a key: use str(key)."
                )
        return {k: encode(v, inner, _join(path, k), tensors) for k, v in value.items()}
    if isinstance(value, tuple | list):
        inner = _inner(hint, len(value))
        return [
            encode(v, h, _join(path, i), tensors)
            for i, (v, h) in enumerate(zip(value, inner, strict=True))
        ]
    raise TypeError(
        f"{path} is {value!r:.60}, a {type(value).__name__}, which cannot be stored. Use numbers, "
        "text, tensors, sites, dataclasses, and tuples and mappings of them; e.g. repr(value)."
    )


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
        return _tensor(tensors[path], hint, path)
    if hint is Site:
        return Site.from_hook(stored)
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(stored, hint, path, tensors)
    origin = get_origin(hint)
    if origin is not None and issubclass(_type(origin), Mapping):
        _require(stored, dict, "a mapping", path)
        inner = get_args(hint)[1]
        return {k: decode(v, inner, _join(path, k), tensors) for k, v in stored.items()}
    if origin in (tuple, list) or _is_named_tuple(hint):
        _require(stored, list, "a list", path)
        inner = _inner(hint, len(stored))
        values = [
            decode(v, h, _join(path, i), tensors)
            for i, (v, h) in enumerate(zip(stored, inner, strict=True))
        ]
        return hint(*values) if _is_named_tuple(hint) else (origin or tuple)(values)
    if hint in (str, int, float, bool):
        allowed = (int, float) if hint is float else (hint,)
        if not isinstance(stored, allowed) or (isinstance(stored, bool) and hint is not bool):
            raise TypeError(f"{path} is {stored!r:.60} instead of a {hint.__name__}")
        return hint(stored)
    if origin is Literal and stored not in get_args(hint):
        raise ValueError(f"{path} is {stored!r:.60} instead of one of {get_args(hint)}")
    return stored


def _decode_dataclass(stored: Any, cls: Any, path: str, tensors: Mapping[str, Tensor]) -> Any:
    _require(stored, dict, "a mapping", path)
    hints = hints_of(cls)
    if unknown := sorted(stored.keys() - hints.keys()):
        raise TypeError(f"{_join(path, unknown[0])} is not known to this version of steerlens")
    defaults = {
        f.name
        for f in dataclasses.fields(cls)
        if f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
    }
    return cls(
        **{
            name: decode(stored[name], inner, _join(path, name), tensors)
            for name, inner in hints.items()
            if name in stored or name not in defaults  # a field that is newer than the file
        }
    )


def _tensor(tensor: Tensor, hint: Any, path: str) -> Tensor:
    if not isinstance(tensor, hint):
        found = f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
        raise TypeError(f"{path} is {found} instead of {_name(hint)}")
    return tensor


def _require(stored: Any, kind: type, words: str, path: str) -> None:
    if not isinstance(stored, kind):
        raise TypeError(f"{path} is a {type(stored).__name__} instead of {words}")


def _join(path: str, name: str | int) -> str:
    return f"{path}.{name}" if path else str(name)


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint))


def _inner(hint: Any, count: int) -> tuple[Any, ...]:
    """The type of every element of a tuple or list."""
    if _is_named_tuple(hint):
        return tuple(typing.get_type_hints(hint).values())
    args = get_args(hint)
    if (len(args) == 2 and args[1] is Ellipsis) or (get_origin(hint) is list and args):
        return (args[0],) * count
    return args if len(args) == count else (Any,) * count


def _is_named_tuple(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields")


def _type(origin: Any) -> type:
    return origin if isinstance(origin, type) else object
