"""Types of fields that the command line reads, and checks that experiments share."""

from __future__ import annotations

import importlib
import re
from typing import Annotated, Literal, cast

import tyro

from steerlens.arguments import ArgumentError
from steerlens.directions.methods import METHODS, as_method
from steerlens.directions.methods.method import Method
from steerlens.directions.methods.named import make_method, parse_label
from steerlens.experiment.experiment_data import ExperimentError

SteeredRule = Literal["all", "last", "from_prompt_end", "generated"]
"""The rules of `Positions` that need no answer or span, by name."""


def method_named(text: str) -> Method:
    """A method as it is written on the command line.

    Args:
        text: A name of steerlens.directions.methods, or "module:Name" for any other; with keyword
            arguments in parentheses where the defaults are not wanted. Arguments are literals, and
            nothing is evaluated; but the named module is imported.

    >>> method_named("DiffMean"), method_named("PCA(centred=True)")
    (DiffMean(), PCA(centred=True))
    """
    return cast(Method, _method(text))


def _method(text: str) -> object:
    module, colon, label = text.strip().partition(":")
    try:
        if not (colon and re.fullmatch(r"\w+(\.\w+)*", module)):
            return as_method(text)
        name, arguments = parse_label(label)
        found = getattr(importlib.import_module(module), name)
        if isinstance(found, type):
            return make_method(found, arguments)
        if arguments:
            raise ArgumentError(f"{name} is not a class, so it takes no arguments.")
        return as_method(found)
    except ArgumentError as error:
        ours = colon or text.partition("(")[0].strip() in METHODS
        more = "" if ours else " For a method of your own, write module:Name."
        raise ExperimentError(f"{error}{more}") from error
    except (ImportError, AttributeError) as error:
        raise ExperimentError(
            f"There is no method {text!r} ({error}). Use one of {', '.join(METHODS)}, or "
            "module:Name for a method of your own."
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


def require_several(**prompts: int) -> None:
    """Raises ExperimentError where texts of a single prompt are asked for."""
    for name, count in prompts.items():
        if count == 1:
            raise ExperimentError(
                f"{name}=1: an interval needs at least two prompts. Use 0 for none."
            )


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


def require_nulls(nulls: int) -> None:
    """Raises ExperimentError unless the null maps allow a p-value of 5%, or are none."""
    if nulls and nulls < 19:
        raise ExperimentError(
            f"nulls={nulls}: a threshold at 5% needs at least 19. Use 0 for no p-values."
        )


def require_layers(layers: tuple[int, ...] | None, name: str = "layers") -> None:
    """Raises ExperimentError unless layers are named, counted from 0, or None for all."""
    if layers is not None and (not layers or min(layers) < 0):
        raise ExperimentError(
            f"{name}={layers}: name at least one layer, counted from 0; or None for all."
        )
