"""Numbers and titles as a reader sees them."""

from __future__ import annotations

import html
import math
import textwrap


def number(value: float, digits: int = 4) -> str:
    """Short and exact enough to read: 4 digits, a true minus sign.

    >>> number(-0.12345), number(-0.0)
    ('−0.1235', '0')
    """
    return f"{float(value) + 0.0:.{digits}g}".replace("-", "−")


def measured(
    value: float,
    unit: str,
    low: float = math.nan,
    high: float = math.nan,
    *,
    quantity: str | None = None,
) -> str:
    """A number with its interval and its unit, or that there is none.

    >>> measured(2.5, "nats", 2.25, 2.75, quantity="gain"), measured(math.nan, "nats")
    ('gain 2.5 [2.25, 2.75] nats', 'not measured')
    """
    lead = f"{quantity} " if quantity else ""
    if math.isnan(value):
        return f"{lead}not measured"
    ends = "" if math.isnan(low + high) else f" [{number(low)}, {number(high)}]"
    return f"{lead}{number(value)}{ends} {unit}"


def axis_title(quantity: str | None, unit: str) -> str:
    """What an axis shows, with its unit."""
    return f"{quantity} ({unit})" if quantity else unit


def broken(text: str, width: int) -> str:
    """The text in lines of at most `width` characters, as plotly breaks them."""
    return "<br>".join(textwrap.wrap(text, width))


def safe(text: str) -> str:
    """The text without markup, which plotly would read."""
    return html.escape(text, quote=False)
