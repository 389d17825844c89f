"""Numbers as the report page writes them: three digits, a true minus sign, intervals in brackets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from steerlens.stats import Interval


def number(value: Any) -> str:
    """Three significant digits and a true minus sign; a dash for what was not measured (or None).

    >>> number(-0.12345), number(None)
    ('−0.123', '–')
    """
    value = math.nan if value is None else float(value) + 0.0
    return "–" if math.isnan(value) else with_minus(f"{value:.3g}")


def signed(value: Any) -> str:
    """`number`, with a plus sign above zero.

    >>> signed(0.5), signed(0.0)
    ('+0.5', '0')
    """
    value = math.nan if value is None else float(value) + 0.0
    return f"+{number(value)}" if value > 0 else number(value)


def percent(value: Any) -> str:
    """A share as per cent.

    >>> percent(0.125)
    '12.5%'
    """
    value = float(value)
    return "–" if math.isnan(value) else f"{number(round(100 * value, 1))}%"


def interval(found: Interval | None, form: Callable[[Any], str] = number) -> str:
    """An estimate with its interval; a dash where nothing was measured.

    Args:
        form: How each number is written: `number`, `signed` or `percent`.

    >>> interval(Interval(0.5, 0.25, 0.75)), interval(Interval(0.5, 0.25, 0.75), percent)
    ('0.5 [0.25, 0.75]', '50% [25%, 75%]')
    """
    if found is None or math.isnan(found.value):
        return "–"
    if math.isnan(found.low):
        return form(found.value)
    return f"{form(found.value)} [{form(found.low)}, {form(found.high)}]"


def p_value(value: float, nulls: int) -> str:
    """A p-value, and whether it is the smallest that so few null maps allow.

    >>> p_value(0.5, 20)
    'p = 0.5'
    """
    least = " (the smallest possible)" if value <= 1.0001 / (nulls + 1) else ""
    return f"p = {number(value)}{least}"


def with_minus(text: str) -> str:
    """The text with true minus signs for its hyphens."""
    return text.replace("-", "−")


def layers(found: Sequence[int]) -> str:
    """Layers in words, runs joined.

    >>> layers((0, 1, 2, 5)), layers((4,))
    ('layers 0–2 and 5', 'layer 4')
    """
    runs: list[list[int]] = []
    for layer in sorted(found):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    names: list[str] = []
    for run in runs:
        joined = f"{run[0]}–{run[-1]}"
        names += [joined] if len(run) > 2 else [str(layer) for layer in run]
    return f"{'layer' if len(found) == 1 else 'layers'} {listed(names)}"


def listed(names: Sequence[str]) -> str:
    """Names in words.

    >>> listed(("a", "b", "c"))
    'a, b and c'
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
