"""Values of an experiment's fields: made plain, as JSON holds them, and where classes are defined."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Optional, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch

from steerlens.arguments import ArgumentError, as_bool, as_float, as_int
from steerlens.experiment.experiment_data import ExperimentError
from steerlens.experiment.fields import SteeredRule

_WHY = {SteeredRule: "cannot be steered by name"}
"""Why a value that a Literal lacks cannot be used, where there is more to say."""


def plain_fields(experiment: Any) -> dict[str, Any]:
    """The values of a dataclass's fields, each as the plain value that its annotation asks for.

    Numbers, texts, booleans and tuples of them are made plain or refused; fields of other types,
    and those whose annotation cannot be read, keep what they hold.

    Raises:
        ExperimentError: If a value is not of the annotated type, nor can stand for one that is.
    """
    hints = _hints(type(experiment))
    try:
        return {name: plain(name, getattr(experiment, name), of) for name, of in hints.items()}
    except ArgumentError as error:
        raise ExperimentError(str(error)) from error


def plain(name: str, value: Any, of: Any) -> Any:
    """A value as its annotation asks for it: equal values become the same, whatever their type.

    Args:
        name: Name of the field, for the message.
        of: The annotation: bool, int, float, str, a Literal of texts, None, a tuple, list or
            sequence of them, or a union. Of any other a value is kept (see `normalised`).

    Raises:
        ArgumentError: If it cannot be made plain.

    >>> plain("n_fit", torch.tensor(48), int), plain("budget", np.float32(0.1), float)
    (48, 0.1)
    """
    origin, inner = get_origin(of), get_args(of)
    if of is bool:
        return as_bool(name, value)
    if of is int:
        return as_int(name, value)
    if of is float:
        return _as_float(name, value)
    if of is type(None):
        return _as_none(name, value)
    if of is str:
        return _as_text(name, value)
    if origin is Literal and all(isinstance(one, str) for one in inner):
        return _as_choice(name, value, of)
    if origin in (Union, types.UnionType):
        return _as_one_of(name, value, inner)
    several = origin in (tuple, list) or origin is Sequence and inner[0] in (int, float, str)
    if several and inner:
        return _as_tuple(name, value, inner if origin is tuple else (*inner, ...))
    return normalised(value)


def _as_float(name: str, value: Any) -> float:
    """A finite number; of a fraction in low precision the shortest that rounds to it, as it prints."""
    number = as_float(name, value)
    if isinstance(value, torch.Tensor | np.generic | np.ndarray) and not number.is_integer():
        make = torch.as_tensor if isinstance(value, torch.Tensor) else np.asarray
        for digits in range(1, 17):
            short = float(f"{number:.{digits}g}")
            with np.errstate(over="ignore"):
                rounded = make(short, dtype=value.dtype)  # type: ignore[arg-type]
            if rounded.item() == number:
                return short
    return number


def _as_none(name: str, value: Any) -> None:
    """None, and nothing else."""
    if value is not None:
        raise ArgumentError(f"{name}={value!r:.80} is not None. Write None.")


def _as_text(name: str, value: Any) -> str:
    """A text; a path by its name, a device or dtype of torch as torch's functions take it."""
    value = _unwrapped(value)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, torch.device | torch.dtype):
        value = str(value).removeprefix("torch.")
    if not isinstance(value, str):
        raise ArgumentError(f"{name}={value!r:.80} is not a text. Give a string.")
    return str.__str__(value)  # of numpy.str_, and of enumerations of texts, the text itself


def _as_choice(name: str, value: Any, of: Any) -> str:
    """One of the texts of a Literal."""
    options = get_args(of)
    try:
        text = _as_text(name, value)
    except ArgumentError:
        text = None
    if text is None or text not in options:
        raise ArgumentError(
            f"{name}={value!r:.80} {_WHY.get(of, 'is none of the values it can have')}. Use one of "
            f"{', '.join(options)}."
        )
    return text


def _as_one_of(name: str, value: Any, types_: tuple[Any, ...]) -> Any:
    """A value of a union: as it is where its own type is in it, else as the first that takes it."""
    own, refused = type(_unwrapped(value)).__mro__, None
    for of in sorted(types_, key=lambda of: (of not in own, of is type(None))):
        try:
            return plain(name, value, of)
        except ArgumentError as error:
            refused = refused or error
    raise refused or ArgumentError(f"{name}={value!r:.80} cannot be used.")


def _as_tuple(name: str, value: Any, of: tuple[Any, ...]) -> tuple[Any, ...]:
    """Several values, of a list, a range, an array or a tensor; one alone is refused."""
    single = _unwrapped(value)
    if isinstance(single, str | bytes | os.PathLike) or not isinstance(single, Iterable):
        raise ArgumentError(
            f"{name}={value!r:.80} is one value, and {name} holds several. Write "
            f"{name}=({single!r:.60},) for one."
        )
    if isinstance(value, Set | Mapping):
        raise ArgumentError(
            f"{name}={value!r:.80} is a {type(value).__name__}, and {name} is a sequence. Write a "
            "tuple, e.g. (1, 2)."
        )
    values = tuple(value)
    each = of[:1] * len(values) if of[-1] is ... else of
    if len(values) != len(each):
        raise ArgumentError(f"{name}={values!r:.80} must hold {len(each)} values.")
    named = zip(values, each, strict=True)
    return tuple(plain(f"{name}[{i}]", given, to) for i, (given, to) in enumerate(named))


def _unwrapped(value: Any) -> Any:
    """What an array or a tensor without dimensions holds; anything else as it is."""
    alone = getattr(value, "ndim", None) == 0 and hasattr(value, "item")
    return value.item() if alone else value


def _hints(cls: type) -> dict[str, Any]:
    """The annotation of every field, with None where that is the default; Any if it names nothing."""
    found = {}
    for f in fields(cls):
        stated = types.SimpleNamespace(__annotations__={f.name: f.type})
        try:
            of = next(c for c in cls.__mro__ if f.name in vars(c).get("__annotations__", {}))
            hint = get_type_hints(stated, vars(sys.modules[of.__module__]))[f.name]
        except Exception:  # whatever the evaluation of an annotation raises
            hint = Any
        found[f.name] = Optional[hint] if f.default is None else hint  # noqa: UP045 (a value)
    return found


def normalised(value: Any) -> Any:
    """Plain numbers for those of NumPy, tuples for lists and arrays: equal values, equal runs."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return tuple(map(normalised, value)) if type(value) in (list, tuple, range) else value


def is_object(value: Any) -> bool:
    """Whether JSON has nothing for it."""
    return not isinstance(value, str | int | float | tuple | list | dict | Path | type(None))


def as_json(name: str, value: Any) -> Any:
    """A value as JSON can hold it; an object by its repr.

    Raises:
        ExperimentError: If the repr names a place in memory.
    """
    if isinstance(value, tuple | list):
        return [as_json(name, one) for one in value]
    if isinstance(value, dict):
        return {str(key): as_json(name, one) for key, one in value.items()}
    if isinstance(value, Path):
        return str(value)
    if not is_object(value):
        return value
    text = repr(value)
    if " at 0x" in text:
        raise ExperimentError(
            f"{name}={text}: its repr differs in every process, so it cannot name a run. Make the "
            "class a dataclass, or give it a __repr__ that states its settings."
        )
    return text


def place_of(cls: type) -> str:
    """A class as "module:Name": the outermost package that has it, below steerlens itself."""
    module = cls.__module__
    while module.count(".") > 1:
        outer = module.rpartition(".")[0]
        if getattr(sys.modules.get(outer), cls.__name__, None) is not cls:
            break
        module = outer
    return f"{module}:{cls.__qualname__}"
