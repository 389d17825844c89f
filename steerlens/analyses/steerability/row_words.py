"""What the rows of a map are called on the report page."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from steerlens.analyses.steerability.map_numbers import MapNumbers
from steerlens.report.numbers import format_interval, format_layers, in_words
from steerlens.report.section import Heading
from steerlens.stats import Interval


def interval_at(band: Sequence[Tensor], *place: int) -> str:
    """One place of (mean, low, high) as text."""
    return format_interval(Interval(*(float(x[place]) for x in band)))


def row_word(numbers: MapNumbers, count: int = 1) -> str:
    """What a row is."""
    word = "intervention" if numbers.layers is None else "layer"
    return word if count == 1 else f"{word}s"


def row_heading(numbers: MapNumbers) -> Heading:
    """The head of a table's column of rows."""
    return Heading(row_word(numbers), number=numbers.layers is not None)


def rows_named(numbers: MapNumbers, rows: Tensor) -> str:
    """Some rows in words."""
    chosen = rows.nonzero()[:, 0].tolist()
    if numbers.layers is None:
        return in_words([f"**{numbers.rows[i]}**" for i in chosen])
    return format_layers([numbers.layers[i] for i in chosen])
