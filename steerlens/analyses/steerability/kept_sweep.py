"""A sweep whose finished chunks are kept in cells."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from steerlens.data import ContrastSet
from steerlens.measures.sweep import Swept, sweep
from steerlens.models.model import Model
from steerlens.protocols import Intervention
from steerlens.store.cells import Cells


def kept_sweep(
    model: Model,
    pairs: ContrastSet,
    interventions: Sequence[Intervention],
    multipliers: Sequence[float],
    cells: Cells,
    *,
    log_odds_only: bool = False,
) -> Swept:
    """`sweep`, with a unit of the cells for each chunk of examples."""

    def unit(chunk: slice) -> str:
        return f"{chunk.start:06d}-{chunk.stop:06d}"

    def done(chunk: slice, values: Tensor) -> None:
        cells.save(unit(chunk), {"values": values})

    def have(chunk: slice) -> Tensor | None:
        found = cells.load(unit(chunk))
        return None if found is None else found["values"]

    return sweep(
        model, pairs, interventions, multipliers, log_odds_only=log_odds_only,
        progress=cells.progress, label=cells.name.rpartition("/")[2], done=done, have=have,
    )  # fmt: skip
