"""Numbers as a page shows them: few digits, a true minus sign, an interval in brackets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from steerlens.stats import Interval

NOTHING = "–"
"""What stands for a number that was not measured."""


def format_number(value: Any) -> str:
    """Three significant digits and a true minus sign; a dash for None and NaN.

    >>> format_number(-0.12345), format_number(None)
    ('−0.123', '–')
    """
    number = math.nan if value is None else float(value) + 0.0  # not −0
    return NOTHING if math.isnan(number) else with_minus(f"{number:.3g}")


def format_signed(value: Any) -> str:
    """`format_number` with a plus sign for numbers above zero.

    >>> format_signed(0.5), format_signed(-0.5), format_signed(0.0)
    ('+0.5', '−0.5', '0')
    """
    text = format_number(value)
    return f"+{text}" if text != NOTHING and float(value) > 0 else text


def format_percent(value: Any) -> str:
    """A share as per cent, to a tenth; in whole per cent from ten times on.

    >>> format_percent(0.125), format_percent(12.94)
    ('12.5%', '1,294%')
    """
    number = float(value)
    if abs(number) >= 9.995:
        return with_minus(f"{100 * number:,.0f}%")
    return NOTHING if math.isnan(number) else f"{format_number(round(100 * number, 1))}%"


def format_interval(interval: Interval | None, form: Callable[[Any], str] = format_number) -> str:
    """An estimate with its interval in brackets; the estimate alone where it has no interval.

    Args:
        form: How each of the three numbers is written, e.g. `format_percent`.

    >>> format_interval(Interval(0.5, 0.25, 0.75)), format_interval(None)
    ('0.5 [0.25, 0.75]', '–')
    """
    if interval is None or math.isnan(interval.value):
        return NOTHING
    if math.isnan(interval.low):
        return form(interval.value)
    return f"{form(interval.value)} [{form(interval.low)}, {form(interval.high)}]"


def format_share(interval: Interval) -> str:
    """A share with its interval, as per cent.

    >>> format_share(Interval(0.5, 0.25, 0.75))
    '50% [25%, 75%]'
    """
    return format_interval(interval, format_percent)


def format_p_value(value: float, nulls: int) -> str:
    """A p-value; it says so when no smaller one is possible with this number of null maps.

    >>> format_p_value(0.05, 19)
    'p = 0.05, the smallest that 19 null maps allow'
    """
    least = value <= 1.0001 / (nulls + 1)
    limit = f", the smallest that {nulls} null maps allow" if least else ""
    return f"p = {format_number(value)}{limit}"


def format_layers(layers: Sequence[int]) -> str:
    """Layers in words, with runs of three or more joined.

    >>> format_layers((0, 1, 2, 5)), format_layers((4,))
    ('layers 0–2 and 5', 'layer 4')
    """
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    names: list[str] = []
    for run in runs:
        joined = f"{run[0]}–{run[-1]}"
        names += [joined] if len(run) > 2 else [str(layer) for layer in run]
    return f"{'layer' if len(layers) == 1 else 'layers'} {in_words(names)}"


def in_words(names: Sequence[str]) -> str:
    """Names as a list in a sentence.

    >>> in_words(["a"]), in_words(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def with_minus(text: str) -> str:
    """The text with true minus signs for hyphens."""
    return text.replace("-", "−")
