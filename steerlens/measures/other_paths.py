"""Paths for changes that are no edits of the stream: weights, and prompts with a dial."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from steerlens.interventions.changes import PromptChange, StreamEdit, WeightChange
from steerlens.interventions.composition import new_weights
from steerlens.measures.paths import (
    Grid,
    Path,
    Runs,
    SeveralEdits,
    Wavefront,
    chosen_tokens,
    edits_by_entry,
    of_examples,
)  # fmt: skip
from steerlens.measures.tokenised import Examples
from steerlens.models.kernel import Columns, Kernel
from steerlens.models.model import Model
from steerlens.models.prompts import mix


class Reweighted(Path):
    """Changes of weights, and edits beside them, from the stream that enters the first changed block.

    That stream is computed once for all cells. Only the changed blocks are laid out anew.
    """

    name = "weights"

    def __init__(self, model: Model, kernel: Kernel, grid: Grid, arms: Sequence[int]) -> None:
        super().__init__(model, grid, arms)
        self.kernel = kernel
        self.weights = {
            i: [c for c in grid.changes[i] or () if isinstance(c, WeightChange)] for i in arms
        }
        self.edits = {i: edits_by_entry(grid.edits(i)) for i in arms}
        self.starts = {i: self._start(i) for i in arms}

    @property
    def at_once(self) -> int:
        return 1

    def columns(self, examples: Examples) -> int:
        return examples.batch.width

    def _start(self, i: int) -> int:
        """The first block that sees another stream, or has other weights."""
        blocks = [change.block for change in self.weights[i]]
        known = [self.model.n_layers if block is None else block for block in blocks]
        return min([*known, *self.edits[i]])

    def runs(self, examples: Examples, cells: int, unsteered: bool) -> Runs:
        batch = examples.batch
        columns = Columns.of(batch)
        kept: dict[int, Tensor] = {}
        wanted = set(self.starts.values()) if self.cells else set()

        def keep(entry: int, resid: Tensor) -> Tensor:
            if entry in wanted:
                kept[entry] = resid
            return resid

        n_layers = self.model.n_layers
        embedded = self.kernel.embed(batch.tokens[:, None], columns.positions)
        top = n_layers if unsteered else max(wanted, default=0)
        resid = self.kernel.climb(
            embedded, columns, enter=keep, top=top, tail=examples.read if unsteered else None
        )
        if unsteered:
            yield [], of_examples(self.kernel.states(resid[:, 0]), examples)[:, None]
        chosen = {
            edit.positions: chosen_tokens(edit, batch)
            for i in self.arms
            for edit in self.grid.edits(i)
        }
        for i, j in self.cells:
            m, start = self.grid.multipliers[j], self.starts[i]
            with self.model.reweighted(new_weights(self.weights[i], m)):
                kernel = self.kernel.relaid(self.model.wrapped, _blocks(self.weights[i]))
                entering = kept[start]
                if any(change.name.startswith(_EMBEDDINGS) for change in self.weights[i]):
                    entering = kernel.embed(batch.tokens[:, None], columns.positions)
                edits = self.edits[i]

                def enter(entry: int, resid: Tensor, edits: dict = edits, m: float = m) -> Tensor:
                    for edit in edits.get(entry, ()):
                        rows, width = resid[:, 0], resid.shape[2]
                        where = chosen[edit.positions][:, -width:, None]
                        resid = torch.where(where, edit.edit(rows, m), rows)[:, None]
                    return resid

                resid = kernel.climb(
                    entering, columns, enter=enter, first=start, tail=examples.read
                )
                states = kernel.states(resid[:, 0])
                # Read while they are exchanged: the unembedding may be changed.
                yield [(i, j)], of_examples(states, examples)[:, None]


_EMBEDDINGS = ("embed.", "pos_embed.")


def _blocks(changes: Sequence[WeightChange]) -> set[int]:
    """The blocks whose weights are changed."""
    found = (re.match(r"blocks\.(\d+)\.", change.name) for change in changes)
    return {int(block[1]) for block in found if block}


class Prompted(Path):
    """Prompts with a dial: two passes, without and with the prompt, are mixed for every cell."""

    name = "prompts"

    def columns(self, examples: Examples) -> int:
        return examples.batch.width + max(len(self._prompt(i).tokens) for i in self.arms)

    def _prompt(self, i: int) -> PromptChange:
        changes = self.grid.changes[i]
        assert changes is not None and isinstance(change := changes[0], PromptChange)
        return change

    def runs(self, examples: Examples, cells: int, unsteered: bool) -> Runs:
        base = of_examples(self.model.states(examples.batch), examples)
        if unsteered:
            yield [], base[:, None]
        for i in self.arms if self.cells else ():
            change = self._prompt(i)
            with self.model.prompted(change.tokens, 1.0, change.entering):
                prompted = of_examples(self.model.states(examples.batch), examples)
            own = [cell for cell in self.cells if cell[0] == i]
            for k in range(0, len(own), cells):
                part = own[k : k + cells]
                strengths = [self.grid.multipliers[j] * float(change.weight) for _, j in part]
                yield part, torch.stack([mix(base, prompted, m) for m in strengths], 1)


def path_of(grid: Grid, i: int) -> type[Path] | None:
    """The fastest path that holds an intervention by what it says it changes; None for none."""
    changes, edits = grid.changes[i], grid.edits(i)
    if not changes or any(edit.site.entry is None for edit in edits):
        return None
    if len(edits) == len(changes):
        return Wavefront if len(edits) == 1 else SeveralEdits
    kinds = {type(change) for change in changes}
    if kinds <= {WeightChange, StreamEdit}:
        return Reweighted
    return Prompted if len(changes) == 1 else None
