"""Annotations are checked while the tests run: those of a function in its first calls of a test.

A function in an inner loop is called a hundred thousand times with the same kinds of arguments;
checking every call would take a third of the time of all tests.
"""

from __future__ import annotations

import functools
from collections import Counter
from inspect import isfunction
from types import CodeType
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

FIRST = 2
"""Calls of each function that are checked in each test."""
ALWAYS = ("steerlens.results.encoding",)
"""Modules that ask themselves whether a value is what an annotation says. The names of axes that
they meet are those of the innermost checked call, which must be their own."""

_jaxtyped = jaxtyping.jaxtyped
_calls: Counter[CodeType] = Counter()
_made: Counter[CodeType] = Counter()


def check(checked: Any) -> Any:
    """Checks a function or class; an int may stand for a float."""
    return beartype(conf=BeartypeConf(is_pep484_tower=True))(checked)


def begin_test() -> None:
    """Counts the calls of every function from 0 again."""
    _calls.clear()
    _made.clear()


def first_calls(checked: Any = None, *, typechecker: Any = None) -> Any:
    """`jaxtyping.jaxtyped`, which checks the first calls of a function only.

    The checks of a function are built when it is first called, because most functions of a package
    are called by few tests. Those of an inner function are built where it is defined, because its
    annotations may name what is defined around it; so only the first ones of each test have checks.
    """
    if checked is None:
        return functools.partial(first_calls, typechecker=typechecker)
    if not isfunction(checked) or checked.__module__ in ALWAYS:
        return _jaxtyped(checked, typechecker=typechecker)
    code = checked.__code__
    build = functools.cache(functools.partial(_jaxtyped, checked, typechecker=typechecker))
    if "<locals>" in checked.__qualname__:
        if _made[code] >= FIRST:
            return checked
        _made[code] += 1
        build()

    @functools.wraps(checked)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _calls[code] >= FIRST:
            return checked(*args, **kwargs)
        _calls[code] += 1
        return build()(*args, **kwargs)

    return call


jaxtyping.jaxtyped = first_calls
