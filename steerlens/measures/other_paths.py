"""Paths for changes that are no edits of the stream: weights, caches, prompts with a dial."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from steerlens.interventions.changes import CacheEdit, PromptChange, StreamEdit, WeightChange
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
    shared_columns,
)  # fmt: skip
from steerlens.measures.tokenised import Examples
from steerlens.models.cache_edits import aligned, require_some
from steerlens.models.kernel import Columns, Kernel, KeysValues
from steerlens.models.model import Model
from steerlens.models.prompts import mix
from steerlens.models.speed import Work, passes
from steerlens.sites import TokenBatch


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

    def starts_at(self, i: int) -> int:
        return self.starts[i]

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


class Recached(Path):
    """Edits of cached keys and values: from each prompt's prefix, which all cells share.

    A cell computes the prompt's last token and what follows it.
    """

    name = "cache"

    def __init__(self, model: Model, kernel: Kernel, grid: Grid, arms: Sequence[int]) -> None:
        super().__init__(model, grid, arms)
        self.kernel = kernel

    @property
    def at_once(self) -> int:
        return 1

    def columns(self, examples: Examples) -> int:
        return examples.batch.width - examples.prompt_width + 1

    def runs(self, examples: Examples, cells: int, unsteered: bool) -> Runs:
        batch, shift = aligned(examples.batch)
        start, width, variants = (
            int(batch.prompt_end[0]) - 1,
            examples.batch.width,
            examples.variants,
        )
        prompts = batch.rows(slice(None, None, variants))
        prefix = self.kernel.prefix(prompts, start)
        columns = shared_columns(batch, start, variants)
        tokens = batch.tokens[:, start:].unflatten(0, (-1, variants))
        entering = self.kernel.embed(tokens, columns.positions)

        def states(shared: list[KeysValues] | None) -> Tensor:
            resid = self.kernel.climb(entering, columns, shared=shared)
            return self.kernel.states(resid).flatten(0, 1)

        at = (
            torch.arange(width - examples.read, width, device=shift.device) + shift[:, None] - start
        )
        index = at.clamp(min=0)[..., None].expand(-1, -1, self.model.d_model)
        before = at < 0  # columns of a prompt that are read beside others' answers
        own = states(prefix).gather(1, index)
        if bool(before.any()):
            whole = self.kernel.climb(
                self.kernel.embed(batch.tokens[:, None], batch.positions[:, None]),
                Columns.of(batch),
            )
            whole = self.kernel.states(whole[:, 0])
            unmoved = (at + start)[..., None].expand(-1, -1, self.model.d_model)
            own = torch.where(before[..., None], whole.gather(1, unmoved), own)
        if unsteered:
            yield [], of_examples(own, examples)[:, None]
        for i, j in self.cells:
            edit, m = self._edit(i), self.grid.multipliers[j]
            changed = self._changed(edit, m * edit.weight, prompts, prefix, start)
            steered = states(changed).gather(1, index)
            steered = torch.where(before[..., None], own, steered)
            yield [(i, j)], of_examples(steered, examples)[:, None]

    def work(self, examples: Examples) -> Work:
        n_layers, width, columns = self.model.n_layers, examples.batch.width, self.columns(examples)
        begun = passes(n_layers, len(examples), width - columns)
        blocks = n_layers * (1 + len(self.cells))
        tokens = blocks * len(examples.batch) * columns
        return begun + Work(blocks, tokens, tokens * width)

    def _edit(self, i: int) -> CacheEdit:
        changes = self.grid.changes[i]
        assert changes is not None and isinstance(change := changes[0], CacheEdit)
        return change

    def _changed(
        self,
        edit: CacheEdit,
        multiplier: float,
        prompts: TokenBatch,
        prefix: list[KeysValues] | None,
        width: int,
    ) -> list[KeysValues]:
        """The keys and values of each prompt's prefix after an edit."""
        chosen = edit.positions.mask(prompts)[:, :width]
        require_some(edit.positions, chosen)
        assert prefix is not None  # it has a chosen token
        positions = prompts.positions[:, None, :width]
        found = []
        for layer, (keys, values) in enumerate(prefix):
            where = chosen[:, None, :, None] * multiplier
            if layer in edit.keys:
                added = where * edit.keys[layer].to(keys)[:, None]
                keys = keys + self.kernel.turned(layer, added[:, None].to(keys), positions)[:, 0]
            if layer in edit.values:
                values = values + where * edit.values[layer].to(values)[:, None]
            found.append((keys, values))
        return found


class Prompted(Path):
    """Prompts with a dial: two passes, without and with the prompt, are mixed for every cell."""

    name = "prompts"

    def columns(self, examples: Examples) -> int:
        return examples.batch.width + max(len(self._prompt(i).tokens) for i in self.arms)

    def work(self, examples: Examples) -> Work:
        found = passes(self.model.n_layers, len(examples.batch), examples.batch.width)
        for i in self.arms:
            width = examples.batch.width + len(self._prompt(i).tokens)
            found += passes(self.model.n_layers, len(examples.batch), width)
        return found

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
    alone: dict[type, type[Path]] = {PromptChange: Prompted, CacheEdit: Recached}
    return alone.get(kinds.pop()) if len(changes) == 1 else None
