"""The lines of a summary: what is measured in one column, and what it came to in the next."""

from __future__ import annotations

WIDTH = 15
"""Characters of the column of labels."""


def labelled(label: str, text: str) -> str:
    """The text with a label before its first line; the other lines stand below the first.

    >>> print(labelled("cost", "0.1 nats\\nof 0.2 allowed"))
      cost            0.1 nats
                      of 0.2 allowed
    """
    lines = text.splitlines() or [""]
    return "\n".join(
        f"  {label if i == 0 else '':{WIDTH}s} {line}".rstrip() for i, line in enumerate(lines)
    )
