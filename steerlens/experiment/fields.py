"""Types of fields that the command line reads, and checks that experiments share."""

from __future__ import annotations

import ast
import importlib
import re
from typing import Annotated, Any, Literal

import tyro

from steerlens.directions import methods
from steerlens.experiment.experiment_data import ExperimentError
from steerlens.protocols import Method

SteeredRule = Literal["all", "last", "from_prompt_end", "generated"]
"""The rules of `Positions` that need no answer or span, by name."""

_METHOD = re.compile(r"(?:(?P<module>[\w.]+):)?(?P<name>\w+)(?P<arguments>\(.*\))?", re.DOTALL)


def method_named(text: str) -> Method:
    """A method as it is written on the command line.

    Args:
        text: A name of steerlens.directions.methods, or "module:Name" for any other; with keyword
            arguments in parentheses where the defaults are not wanted. Arguments are literals:
            nothing is evaluated.

    >>> method_named("DiffMean"), method_named("PCA(centred=True)")
    (DiffMean(), PCA(centred=True))
    """
    text = text.strip()
    parts = _METHOD.fullmatch(text)
    if parts is None:
        raise ExperimentError(f"method={text!r} is no name. {_HOW}")
    module, name = parts["module"], parts["name"]
    try:
        found = getattr(importlib.import_module(module) if module else methods, name)
    except (ImportError, AttributeError) as error:
        known = ", ".join(sorted(n for n in vars(methods) if n[0].isupper()))
        raise ExperimentError(
            f"There is no method {text!r} ({error}). Use one of {known}, or module:Name."
        ) from error
    if isinstance(found, type):
        arguments = _keywords(text, parts["arguments"] or "()")
        try:
            found = found(**arguments)
        except (TypeError, ValueError) as error:
            raise ExperimentError(f"{text} cannot be made ({error}).") from error
    elif parts["arguments"]:
        raise ExperimentError(f"{name} is not a class, so it takes no arguments: write {name!r}.")
    if not isinstance(found, Method):
        raise ExperimentError(f"{text} is not a method: it cannot be called with two activations.")
    return found


_HOW = "Write e.g. DiffMean, Logistic(c=0.1), or my_module:MyMethod."


def _keywords(text: str, arguments: str) -> dict[str, Any]:
    """The keyword arguments of a call, whose values must be literals."""
    try:
        call = ast.parse(f"f{arguments}", mode="eval").body
        assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        if call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ExperimentError(f"method={text!r}: give every argument by its name. {_HOW}")
        return {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, AssertionError) as error:
        if isinstance(error, ExperimentError):
            raise
        raise ExperimentError(
            f"method={text!r}: the arguments must be numbers, strings or other literals. {_HOW}"
        ) from error


# How the command line reads and shows a method.
MethodField = Annotated[
    Method,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="NAME|NAME(KEY=VALUE,…)|MODULE:NAME",
        instance_from_str=lambda given: method_named(given[0]),
        is_instance=lambda instance: isinstance(instance, Method),
        str_from_instance=lambda instance: [repr(instance)],
    ),
]


# Checks -------------------------------------------------------------------------------------------


def require_at_least(bound: float, **fields: float) -> None:
    """Raises ExperimentError, naming the field, if one is below a bound."""
    for name, value in fields.items():
        if value < bound:
            raise ExperimentError(f"{name}={value} is too small. Use at least {bound}.")


def require_examples(**sizes: int) -> None:
    """Raises ExperimentError unless every number of examples allows an interval."""
    for name, size in sizes.items():
        if size < 2:
            raise ExperimentError(f"{name}={size}: an interval needs at least two examples.")


def require_neutral(n_neutral: int) -> None:
    """Raises ExperimentError if there are too few ordinary texts to be halved."""
    if n_neutral < 4:
        raise ExperimentError(
            f"n_neutral={n_neutral}: at least 4 ordinary texts are needed, since half of them "
            "choose and half report."
        )


def require_layers(layers: tuple[int, ...] | None) -> None:
    """Raises ExperimentError unless layers are named, counted from 0, or None for all."""
    if layers is not None and (not layers or min(layers) < 0):
        raise ExperimentError(
            f"layers={layers}: name at least one layer, counted from 0; or None for all."
        )


def require_steered(positions: str) -> None:
    """Raises ExperimentError unless the positions can be steered by name."""
    known = SteeredRule.__args__  # type: ignore[attr-defined]
    if positions not in known:
        raise ExperimentError(
            f"positions={positions!r} cannot be steered by name. Use one of {', '.join(known)}."
        )
