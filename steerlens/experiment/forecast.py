"""How long an experiment will take on this machine, part by part, and what to leave out for less."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class ForecastPart:
    """One part of an experiment."""

    name: str
    seconds: float
    without: str = ""
    """The field that leaves it out, as it is written on the command line; "" for what is needed."""
    at_most: bool = False
    """Whether it can end earlier, by what is measured."""


@dataclass(frozen=True)
class Forecast:
    """What an experiment will take. It is an estimate: expect it to be right within a factor of 1.5.

    The start, the summary and the page are not in it, about 15 s together; nor is what calls cost
    beside their products, so that it says half of what a very small model takes.

    The work is counted; its speed is measured on two blocks and one read-out, so that another load
    of the machine while the experiment runs changes the time and not the forecast.
    """

    parts: tuple[ForecastPart, ...]

    @property
    def seconds(self) -> float:
        """All parts together."""
        return sum(part.seconds for part in self.parts)

    def within(self, seconds: float) -> tuple[ForecastPart, ...]:
        """What to leave out, the longest parts first, so that the rest takes at most so long.

        Raises:
            ValueError: If what is needed takes longer by itself.
        """
        optional = sorted((p for p in self.parts if p.without), key=lambda p: -p.seconds)
        least = self.seconds - sum(p.seconds for p in optional)
        if least > seconds:
            raise ValueError(
                f"What cannot be left out takes about {format_seconds(least)}. Use fewer layers, "
                "multipliers or questions, or a smaller model."
            )
        left, out = self.seconds, []
        for part in optional:
            if left <= seconds:
                break
            out.append(part)
            left -= part.seconds
        return tuple(out)

    def line(self) -> str:
        """The whole, and its longest parts, in one line."""
        longest = sorted(self.parts, key=lambda part: -part.seconds)[:3]
        listed = ", ".join(f"{part.name} {format_seconds(part.seconds)}" for part in longest)
        return f"about {format_seconds(self.seconds)} on this machine ({listed})"

    def __str__(self) -> str:
        rows = [("part", "time", "left out by")]
        rows += [
            (
                part.name,
                f"{'at most ' if part.at_most else ''}{format_seconds(part.seconds)}",
                f"--{part.without}" if part.without else "",
            )
            for part in sorted(self.parts, key=lambda part: -part.seconds)
        ]
        rows.append(("all", format_seconds(self.seconds), ""))
        widths = [max(len(row[k]) for row in rows) for k in range(2)]
        return "\n".join(
            f"{name:{widths[0]}s}  {took:>{widths[1]}s}  {left}".rstrip()
            for name, took, left in rows
        )

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def forecast_of(parts: Iterable[ForecastPart | None]) -> Forecast:
    """A forecast of those parts that there are."""
    return Forecast(tuple(part for part in parts if part is not None))


def format_seconds(seconds: float) -> str:
    """A time as people say it.

    >>> format_seconds(0.4), format_seconds(12.3), format_seconds(250), format_seconds(9000)
    ('1 s', '12 s', '4 min 10 s', '2 h 30 min')
    """
    whole = max(1, math.ceil(seconds - 0.5))
    if whole < 90:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(5 * round(whole / 5), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, rest = divmod(round(whole / 60), 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"
