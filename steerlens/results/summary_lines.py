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


def summary_rows(text: str) -> dict[str, str]:
    """The rows of a summary by their labels; of two with one label, the first.

    >>> summary_rows("Which layers?\\n" + labelled("cost", "0.1 nats\\nof 0.2 allowed"))
    {'cost': '0.1 nats\\nof 0.2 allowed'}
    """
    rows: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        label, said = line[2 : 2 + WIDTH], line[3 + WIDTH :]
        if not line.startswith("  ") or line[2 + WIDTH : 3 + WIDTH].strip():
            current = []  # a heading, or a line that is set in another way
        elif label.strip():
            current = [said]
            rows.setdefault(label.strip(), current)
        else:
            current.append(said)
    return {label: "\n".join(lines) for label, lines in rows.items()}
