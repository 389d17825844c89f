"""Arguments made plain where they enter: NumPy and torch numbers become Python's, or are refused."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable


class ArgumentError(ValueError, TypeError):
    """An argument of the wrong type or with an impossible value; the message says what to write.

    Both a ValueError and a TypeError, since a caller should not have to know which of the two a
    wrong argument is.
    """


@runtime_checkable
class _HoldsNumber(Protocol):
    """NumPy scalars, and the arrays and tensors of NumPy, torch and JAX."""

    def item(self) -> Any: ...


def as_int(name: str, value: object, *, least: int | None = None) -> int:
    """A whole number as Python's `int`: also of NumPy, torch and anything with `__index__`.

    Args:
        name: Name of the argument, for the message.
        value: A whole number. A float is refused even where it is whole, and so is a bool.
        least: The smallest number that is allowed.

    Raises:
        ArgumentError: If it is not a whole number, or below `least`.

    >>> import numpy as np
    >>> as_int("seed", np.int64(3))
    3
    """
    plain = _unwrapped(name, value)
    try:
        if isinstance(plain, bool):
            raise TypeError
        number = operator.index(plain)  # type: ignore[arg-type]
    except TypeError:
        whole = isinstance(plain, float) and plain.is_integer()
        advice = f"Write {int(plain)}" if whole else "Write e.g. 3"  # type: ignore[arg-type]
        raise ArgumentError(f"{name}={value!r:.80} is not a whole number. {advice}.") from None
    if least is not None and number < least:
        raise ArgumentError(f"{name}={number} is too small: the smallest allowed value is {least}.")
    return number


def as_float(name: str, value: object, *, finite: bool = True) -> float:
    """A number as Python's `float`: also of NumPy, torch and whole numbers.

    Args:
        finite: Refuse NaN and infinity.

    Raises:
        ArgumentError: If it is not one number, or is not finite.

    >>> import numpy as np
    >>> as_float("budget", np.float32(0.5))
    0.5
    """
    plain = _unwrapped(name, value)
    try:
        if isinstance(plain, bool | str | bytes | bytearray):
            raise TypeError
        number = float(plain)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise ArgumentError(f"{name}={value!r:.80} is not a number. Write e.g. 0.5.") from None
    if finite and not math.isfinite(number):
        raise ArgumentError(f"{name}={number} is not finite. Give a finite number.")
    return number


def as_positive(name: str, value: object) -> float:
    """A finite number above 0 as Python's `float`.

    Raises:
        ArgumentError: If it is none.

    >>> as_positive("rate", 1)
    1.0
    """
    number = as_float(name, value)
    if number <= 0:
        raise ArgumentError(f"{name}={number:g} must be above 0.")
    return number


def as_floats(name: str, values: object) -> tuple[float, ...]:
    """Several finite numbers as Python's floats: of a sequence, an array or a tensor.

    Raises:
        ArgumentError: If it is one number, or some element is not a finite number.

    >>> import torch
    >>> as_floats("multipliers", torch.tensor([-1.0, 0.0, 1.0]))
    (-1.0, 0.0, 1.0)
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ArgumentError(
            f"{name}={values!r:.80} is not a sequence of numbers. Write e.g. (-1.0, 0.0, 1.0)."
        )
    try:
        elements = list(values)
    except TypeError:  # arrays and tensors of one number, which announce that they can be iterated
        raise ArgumentError(
            f"{name}={values!r:.80} is one number, and several are needed. Write e.g. "
            "(-1.0, 0.0, 1.0)."
        ) from None
    numbers = tuple(as_float(f"{name}[{i}]", x, finite=False) for i, x in enumerate(elements))
    if not all(map(math.isfinite, numbers)):
        raise ArgumentError(f"{name}={numbers} are not all finite numbers. Give finite numbers.")
    return numbers


def as_texts(name: str, values: object) -> tuple[str, ...]:
    """Texts as a tuple of Python strings; one string alone is refused, since it is many letters.

    Raises:
        ArgumentError: If it is one text, something in it is no text, or a text is blank.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ArgumentError(
            f"{name}={values!r:.80} is not a list of texts. Write [{values!r:.40}] for one text."
            if isinstance(values, str)
            else f"{name}={values!r:.80} is not a list of texts. Give a list of strings."
        )
    texts = tuple(values)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ArgumentError(f"{name}[{i}]={text!r:.80} is not a text. Give strings.")
        if not text.strip():
            raise ArgumentError(f"{name}[{i}]={text!r} is blank. Leave it out, or write a text.")
    return tuple(map(str, texts))


def as_bool(name: str, value: object) -> bool:
    """True or False as Python's `bool`; numbers are refused.

    Raises:
        ArgumentError: If it is neither.
    """
    plain = _unwrapped(name, value)
    if not isinstance(plain, bool):
        raise ArgumentError(f"{name}={value!r:.80} is not a bool. Write True or False.")
    return plain


def _unwrapped(name: str, value: object) -> object:
    """The Python number in a NumPy or torch scalar."""
    if isinstance(value, int | float) and type(value).__module__ == "builtins":
        return value
    if not isinstance(value, _HoldsNumber) or isinstance(value, type):
        return value
    try:
        return value.item()
    except Exception as error:  # each library has a kind of its own for several elements
        raise ArgumentError(
            f"{name}={value!r:.80} is not one number. Give a single number."
        ) from error
