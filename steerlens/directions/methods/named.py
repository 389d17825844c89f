"""A method from whatever stands for one: an instance, a class, a name, or the label of a figure."""

from __future__ import annotations

import ast
from typing import Any

from steerlens.arguments import ArgumentError
from steerlens.directions.methods.diffmean import DiffMean
from steerlens.directions.methods.lda import LDA
from steerlens.directions.methods.logistic import Logistic
from steerlens.directions.methods.method import Method
from steerlens.directions.methods.pca import PCA
from steerlens.directions.methods.random import Random

METHODS: dict[str, type] = {
    found.__name__: found for found in (DiffMean, PCA, Logistic, LDA, Random)
}
"""The methods of steerlens by name."""


def as_method(value: Any) -> Method:
    """A method from an instance, its class, its name, or its label such as "Logistic(c=0.1)".

    A label holds literals only, so that no code runs that a text names.

    Raises:
        ArgumentError: If it is none of these, or the arguments are not those of the method.

    >>> as_method("DiffMean"), as_method(DiffMean), as_method("Logistic(c=0.1)")
    (DiffMean(), DiffMean(), Logistic(c=0.1, max_iter=1000))
    """
    if isinstance(value, str):
        return make_method(*_known(value))
    if isinstance(value, type):
        return make_method(value, {})
    if not isinstance(value, Method):
        raise ArgumentError(
            f"method={value!r:.80} is not a method: it cannot be called with the activations of "
            f"both sides. Use one of {', '.join(METHODS)}, e.g. DiffMean()."
        )
    return value


def parse_label(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the keyword arguments of a label. The arguments are literals: no code runs.

    Raises:
        ArgumentError: If it is not a name, or a name with keyword arguments.

    >>> parse_label("Logistic(c=0.1)"), parse_label("DiffMean")
    (('Logistic', {'c': 0.1}), ('DiffMean', {}))
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body if len(text) < 1000 else None
        arguments: dict[str, Any] = {}
        if isinstance(node, ast.Call):
            if node.args or not all(keyword.arg for keyword in node.keywords):
                raise ValueError
            arguments = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
            node = node.func
        if isinstance(node, ast.Name):
            return node.id, arguments
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        pass
    raise ArgumentError(
        f"method={text!r:.80} is not the name of a method. Use one of {', '.join(METHODS)}, with "
        "arguments by name where it has some: 'Logistic(c=0.1)'."
    )


def _known(text: str) -> tuple[type, dict[str, Any]]:
    """The class of a label, and its keyword arguments."""
    name, arguments = parse_label(text)
    if name not in METHODS:
        raise ArgumentError(
            f"method={text!r:.80}: there is no method {name!r}. Use one of {', '.join(METHODS)}."
        )
    return METHODS[name], arguments


def make_method(kind: type, arguments: dict[str, Any]) -> Method:
    """A method of a class with keyword arguments.

    Raises:
        ArgumentError: If it cannot be made with them.
    """
    try:
        made = kind(**arguments)
    except ArgumentError:
        raise
    except TypeError as error:
        raise ArgumentError(
            f"method={kind.__name__} cannot be made with {arguments or 'no arguments'}: {error}. "
            f"Pass an instance: method={kind.__name__}(…)."
        ) from error
    return as_method(made)
