"""Values of an experiment's fields: made plain, as JSON holds them, and where classes are defined."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from steerlens.experiment.experiment_data import ExperimentError


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
