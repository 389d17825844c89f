"""The base of results whose rows are named interventions."""

from __future__ import annotations

from typing import SupportsIndex

from steerlens.results.grid import find_row, layers_of
from steerlens.results.result import Result
from steerlens.sites import Site


class RowResult(Result):
    """A result with a row for each named intervention.

    A subclass is a frozen dataclass with the fields `rows` and `sites`.
    """

    rows: tuple[str, ...]
    """The name of each intervention: its site, where it has no other name."""
    sites: tuple[Site | None, ...]
    """Where each intervention acts; None where that is not one site."""

    @property
    def layers(self) -> tuple[int, ...] | None:
        """The layer of each row, where the rows are sites of one stream; else None."""
        return layers_of(self.rows, self.sites)

    @property
    def row_labels(self) -> tuple[int, ...] | tuple[str, ...]:
        """What figures call the rows: layers where they are layers, else their names."""
        return self.layers or self.rows

    def row_name(self, row: int) -> str:
        """A row in words: "layer 3", or its name."""
        return self.rows[row] if self.layers is None else f"layer {self.layers[row]}"

    def find(self, row: str | SupportsIndex | Site) -> int:
        """The index of a row, given by its name, its site, or its layer.

        Raises:
            ValueError: If there is no such row, or more than one.
        """
        return find_row(self.rows, self.sites, row)
