"""An experiment as plain data and back: how it is handed to a worker.

What is sent is JSON: the experiment's class by module and name, its fields, and the digest of the
run. A worker finds the class by its name, makes the experiment anew, and compares the digest. Nothing
is pickled: of what the bytes name, only dataclasses are called, with their fields.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steerlens.experiment import Experiment, ExperimentError

_PLAIN = (bool, int, float, str, type(None))
SCRIPT, SCRIPT_IN_WORKER = "__main__", "__mp_main__"
"""A script as the process that runs it calls it, and as its workers do (as in multiprocessing)."""


def experiment_bytes(experiment: Experiment) -> bytes:
    """The experiment as JSON, seen to come back the same.

    Raises:
        ExperimentError: If its class or that of a field cannot be found by its name, or a field holds
            what is neither plain nor an object of plain attributes.
    """
    stated = {"experiment": _stated("", experiment), "digest": experiment.digest}
    content = json.dumps(stated).encode()
    try:
        made = _made(stated["experiment"])
    except Exception as error:  # whatever its constructor raises
        raise ExperimentError(
            f"{type(experiment).__name__} cannot be made again from its fields ({error}). Let its "
            "constructor, and those of its fields, take what their attributes hold."
        ) from error
    if made.digest != experiment.digest:
        before, after = experiment.fields(), made.fields()
        name = next(name for name in before if before[name] != after[name])
        raise ExperimentError(
            f"{name}={before[name]!r} comes back from plain data as {after[name]!r}. Let its class "
            "hold plain numbers and texts, as its constructor takes them."
        )
    return content


def read_experiment(content: bytes) -> Experiment:
    """The experiment of `experiment_bytes`.

    Raises:
        ExperimentError: If a class is not found here, or it makes another experiment of the fields.
    """
    stated = json.loads(content)
    made = _made(stated["experiment"])
    if not isinstance(made, Experiment) or made.digest != stated["digest"]:
        module, name = stated["experiment"]["of"]
        raise ExperimentError(
            f"{name} of {module} makes another experiment here than in the process that sent it. Its "
            "file has changed since, or a worker sees another version of it: start the grid again."
        )
    return made


def digest_in(content: bytes) -> str:
    """The digest that `experiment_bytes` states."""
    return str(json.loads(content)["digest"])


def classes_of(value: Any) -> set[type]:
    """The classes that a worker must find to make a value."""
    if type(value) in _PLAIN or isinstance(value, Path):
        return set()
    if isinstance(value, type):
        return {value}
    if type(value) in (tuple, list):
        return set[type]().union(*map(classes_of, value))
    if type(value) is dict:
        return classes_of([*value, *value.values()])
    held = _attributes(value) or {}
    return {type(value)} | classes_of(list(held.values()))


def found(module: str, name: str) -> Any:
    """What a module has under a name, with dots for what is inside a class.

    Raises:
        ExperimentError: If it has nothing there.
    """
    for known in (module, SCRIPT_IN_WORKER) if module == SCRIPT else (module,):
        try:
            value = sys.modules.get(known) or importlib.import_module(known)
            for part in name.split("."):
                value = getattr(value, part)
            return value
        except (ImportError, AttributeError):
            continue
    raise ExperimentError(
        f"There is no {name} in {module}. Define the class of the experiment, and of each field that "
        "is an object, at the top of a file: outside any function, and not below if __name__ == "
        '"__main__":.'
    )


# To plain data ------------------------------------------------------------------------------------


def _stated(where: str, value: Any) -> Any:
    """A value as JSON can hold it: a list for a tuple, and a mapping with one tag for all else."""
    if type(value) in _PLAIN:
        return value
    if type(value) is tuple:
        return [_stated(where, one) for one in value]
    if type(value) is list:
        return {"list": [_stated(where, one) for one in value]}
    if type(value) is dict:
        return {"dict": [[_stated(where, k), _stated(where, v)] for k, v in value.items()]}
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, type):
        return {"at": _place(value)}
    if isinstance(value, enum.Enum):
        module, name = _place(type(value))
        return {"at": [module, f"{name}.{value.name}"]}
    if (held := _attributes(value)) is None:
        raise ExperimentError(
            f"{where} is {value!r:.80}, of {type(value).__name__}, which a worker cannot be sent. "
            "Write it as numbers, texts, tuples, or a dataclass of these."
        )
    fields = {name: _stated(f"{where}.{name}".strip("."), one) for name, one in held.items()}
    return {"of": _place(type(value)), "fields": fields}


def _attributes(value: Any) -> Mapping[str, Any] | None:
    """What an object is made of; None where its attributes do not say it."""
    if isinstance(value, enum.Enum):
        return {}
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    if type(value).__new__ is object.__new__ and hasattr(value, "__dict__"):
        return vars(value)
    return None


def _place(cls: type) -> list[str]:
    """Where a class is found, seen to be there."""
    module, name = cls.__module__, cls.__qualname__
    if found(module, name) is not cls:
        raise ExperimentError(
            f"{module} has another {name} by now. Import it again and make the experiment anew."
        )
    return [module, name]


# From plain data ----------------------------------------------------------------------------------


def _made(stated: Any) -> Any:
    """The value of `_stated`."""
    if isinstance(stated, list):
        return tuple(map(_made, stated))
    if not isinstance(stated, dict):
        return stated
    match stated:
        case {"list": items}:
            return [_made(one) for one in items]
        case {"dict": items}:
            return {_made(key): _made(one) for key, one in items}
        case {"path": text}:
            return Path(text)
        case {"at": [module, name]}:
            return found(module, name)
    cls: Any = found(*stated["of"])
    fields = {name: _made(one) for name, one in stated["fields"].items()}
    if hasattr(cls, "__dataclass_fields__"):
        return cls(**fields)
    value = object.__new__(cls)
    value.__dict__.update(fields)
    return value
