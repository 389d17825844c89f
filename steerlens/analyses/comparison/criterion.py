"""What a criterion of ways is, and what it is computed from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from steerlens.analyses.comparison.concept_numbers import ConceptNumbers
from steerlens.analyses.comparison.crossed import crossed_interval
from steerlens.report.numbers import NOTHING, format_number
from steerlens.stats import Bounds, Groups

Examples = tuple[list[Float[Tensor, "way repeat _example"]], list[Groups]]
"""Numbers of every example, and the groups of the examples, for each concept."""
Better = Literal["more", "less"]
About = Literal["does", "breaks", "takes", "leaves"]
"""Whether it says what a way is for, what else it does, what it takes, or what it leaves behind."""


@runtime_checkable
class Compared(Protocol):
    """What criteria are computed from."""

    @property
    def each(self) -> tuple[ConceptNumbers, ...]: ...
    @property
    def at_budget(self) -> int: ...
    @property
    def has_ideal(self) -> bool: ...
    @property
    def readers(self) -> tuple[str, ...]: ...
    @property
    def parameters(self) -> Int[Tensor, " way"]: ...
    @property
    def stored(self) -> Int[Tensor, " way"]: ...


@dataclass(frozen=True)
class Criterion:
    """One number of every way."""

    name: str
    short: str
    """Its name in tables and figures."""
    unit: str
    meaning: str
    better: Better
    examples: Callable[[Compared], Examples] | None = None
    """The numbers that it is the mean of, where it is one of examples."""
    made: Callable[[Compared], Bounds] | None = None
    """How it comes about where it is not."""
    there: Callable[[Compared], bool] = lambda result: True
    least: float | None = None
    """The smallest possible value, where an interval about a mean may reach below it."""
    log: bool = False
    """Whether figures show it on a logarithmic axis."""
    written: Callable[[float], str] = format_number
    about: About = "does"

    def bounds(self, result: Compared) -> Bounds:
        """Value, low and high of every way; NaN where it was not measured."""
        if self.made is not None:
            return self.made(result)
        assert self.examples is not None
        value, low, high = crossed_interval(*self.examples(result))
        return value, low if self.least is None else low.clamp(min=self.least), high


def format_count(value: float) -> str:
    """A whole number with its thousands apart.

    >>> format_count(1681536.0)
    '1,681,536'
    """
    return NOTHING if value != value else f"{int(value):,}"


def format_tokens(value: float) -> str:
    """A number of tokens; "more" for one that is beyond what was read.

    >>> format_tokens(3.0), format_tokens(float("inf"))
    ('3', 'more')
    """
    return "more" if value == float("inf") else format_number(value)
