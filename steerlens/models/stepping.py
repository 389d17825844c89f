"""Columns of texts without hooks, one run after the other, with whatever is attached applied."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.models.attached import AttachedEdits, Chosen, SteeringError, edits_by_block
from steerlens.models.kernel import Columns, Kept, Kernel, Peeked
from steerlens.models.nudges import Ahead, AttachedNudge
from steerlens.models.prompts import AttachedPrompt, Inserted
from steerlens.sites import Site, TokenBatch


class Stepping:
    """The blocks over columns that come in order; their keys and values are kept.

    Edits between blocks, edits of the kept keys and values, and nudges are applied as hooks and full
    passes would; a column that is nudged is computed alone.
    """

    def __init__(self, attached: AttachedEdits, kernel: Kernel, width: int) -> None:
        """
        Args:
            width: Columns of the longest text that will come, without prompts.
        """
        self.attached, self.kernel, self.width = attached, kernel, width
        self.kept: dict[tuple[AttachedPrompt, ...], list[Kept]] = {}
        """Keys and values of the texts with each choice of prompts in them."""
        self.edits = edits_by_block(attached)
        inside = [one.site for one in attached if one.site.entry is None]
        if inside:
            raise SteeringError(
                f"An edit at {inside[0]}, inside a block, cannot be attached beside a nudge, which "
                "runs without hooks. Edit a stream that enters a block."
            )

    def run(
        self,
        texts: TokenBatch,
        start: int,
        inserted: tuple[Inserted, ...],
        *,
        last_only: bool = False,
        entries: dict[int, list[Tensor]] | None = None,
    ) -> Float[Tensor, "row some d_model"]:
        """The normed final states of all columns from `start` on.

        Args:
            last_only: Only those of the last column.
            entries: By the number of a block: a list to which what enters it is added.
        """
        key = tuple(one.prompt for one in inserted)
        if key not in self.kept:
            width = self.width + sum(one.width for one in inserted)
            self.kept[key] = [Kept(width) for _ in range(self.kernel.n_layers)]
        kept, found = self.kept[key], []
        if start == 0 and (cut := self.attached.cut(texts)) is not None:
            for begin, stop in self._pieces(start, cut.column):
                found.append(self._columns(texts, begin, stop, inserted, kept, last_only, entries))
            positions = texts.positions[:, None, : cut.column]
            for layer, own in enumerate(kept):
                keys, values = (
                    None if one is None else one.transpose(1, 2)[:, None]
                    for one in (cut.of_keys(layer), cut.of_values(layer))
                )  # fmt: skip
                if keys is not None:
                    keys = self.kernel.turned(layer, keys, positions)
                own.add(keys, values)
            cut.done()
            start = cut.column
        elif start == 0 and last_only and not inserted and entries is None:
            start = self._shared(texts, kept)
        for begin, stop in self._pieces(start, texts.width):
            found.append(self._columns(texts, begin, stop, inserted, kept, last_only, entries))
        return found[-1] if last_only else torch.cat(found, 1)

    def keep(self, rows: Int[Tensor, " row"]) -> None:
        """Goes on with some of the rows."""
        for kept in self.kept.values():
            for layer in kept:
                layer.keep(rows)

    def entering(
        self, texts: TokenBatch, sites: tuple[Site, ...], inserted: tuple[Inserted, ...]
    ) -> dict[Site, Float[Tensor, "row pos d_model"]]:
        """The stream at some sites.

        Raises:
            ValueError: If a site is inside a block.
        """
        if inside := [site for site in sites if site.entry is None]:
            raise ValueError(
                f"{inside[0]} is inside a block and cannot be read while a nudge is attached. Read "
                "resid_pre or resid_post."
            )
        entries = {site: site.entry for site in sites if site.entry is not None}
        found: dict[int, list[Tensor]] = {entry: [] for entry in entries.values()}
        self.run(texts, 0, inserted, entries=found)
        return {site: torch.cat(found[entry], 1) for site, entry in entries.items()}

    def _shared(self, texts: TokenBatch, kept: list[Kept]) -> int:
        """Keeps the columns before the first edited one, computed once for texts that are equal there.

        Returns:
            How many columns that are; 0 where no two texts are equal, and all is still to be computed.
        """
        if self.attached.nudges or torch.is_grad_enabled():
            return 0
        width = texts.width - 1  # the state of the last column is asked for
        for rule in {one.positions for one in self.attached}:
            edited = self.attached.chosen(rule, texts.width).any(0).nonzero()
            width = min(width, int(edited[0]) if len(edited) else width)
        if width == 0:
            return 0
        start = texts.columns(0, width)
        _, of_row, counts = torch.unique(
            torch.cat([start.tokens, start.mask.long()], 1),
            dim=0, return_inverse=True, return_counts=True,
        )  # fmt: skip
        if len(counts) == len(texts):
            return 0
        first = of_row.argsort(stable=True)[counts.cumsum(0) - counts]
        found = self.kernel.prefix(start.rows(first), width)
        assert found is not None
        for own, (keys, values) in zip(kept, found, strict=True):
            own.append(keys[of_row, None], values[of_row, None])
        return width

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Columns that are computed at once: those that are nudged alone."""
        alone = torch.zeros(stop - start, dtype=torch.bool)
        for one in self.attached.nudges:
            alone |= self.attached.chosen(one.nudge.positions, stop - start).any(0).cpu()
        begin = start
        for column in (alone.nonzero()[:, 0] + start).tolist():
            if begin < column:
                yield begin, column
            yield column, column + 1
            begin = column + 1
        if begin < stop:
            yield begin, stop

    def _columns(
        self,
        texts: TokenBatch,
        start: int,
        stop: int,
        inserted: tuple[Inserted, ...],
        kept: list[Kept],
        last_only: bool,
        entries: dict[int, list[Tensor]] | None,
    ) -> Float[Tensor, "row some d_model"]:
        """The normed states of some columns, whose keys and values are kept."""
        attached, kernel, new = self.attached, self.kernel, stop - start
        if start:
            attached.go_on(start)
        columns = Columns.of(texts, start, stop)
        rules = {one.positions for one in attached}  # each once: an edit in every block is usual
        chosen = {rule: Chosen.of(attached.chosen(rule, new)) for rule in rules}
        factor = {one: attached.factor(one.factors, new) for one in attached}

        def edit(entry: int, resid: Float[Tensor, "row 1 pos d_model"]) -> Tensor:
            for one in self.edits.get(entry, ()):
                where = chosen[one.positions]
                if where.mask.shape[1] != resid.shape[2]:  # the last block gives its last column
                    where = where.mask[:, -resid.shape[2] :]
                resid = one.apply(resid[:, 0], where, factor[one])[:, None]
            return resid

        def enter(entry: int, resid: Float[Tensor, "row 1 pos d_model"]) -> Tensor:
            if entry == 0:
                for k, prompt in enumerate(inserted):
                    resid = prompt.enter(resid[:, 0], inserted[k + 1 :], start)[:, None]
            resid = edit(entry, resid)
            for one in attached.nudges:
                if one.entry == entry:
                    resid = self._nudged(one, texts, start, resid, columns, kept, edit)
            if entries is not None and entry in entries:
                entries[entry].append(resid[:, 0])
            return resid

        # In the last block only the last column matters, unless an edit after it must count.
        short = last_only and kernel.n_layers not in self.edits
        resid = kernel.climb(
            kernel.embed(texts.tokens[:, None, start:stop], columns.positions),
            columns,
            enter=enter,
            kept=kept,
            tail=1 if short else None,
        )
        return kernel.states(resid[:, 0, -1:] if last_only else resid[:, 0])

    def _nudged(
        self,
        one: AttachedNudge,
        texts: TokenBatch,
        start: int,
        resid: Float[Tensor, "row 1 pos d_model"],
        columns: Columns,
        kept: list[Kept],
        edit: Callable[[int, Tensor], Tensor],
    ) -> Float[Tensor, "row 1 pos d_model"]:
        """The stream after a nudge; columns that are not alone have none."""
        chosen = self.attached.chosen(one.nudge.positions, columns.positions.shape[2])
        if resid.shape[2] != 1 or not bool(chosen.any()):
            return resid
        peeked: list[Kept] = [Peeked(layer) for layer in kept]

        def look(vectors: Float[Tensor, "row d_model"]) -> Ahead:
            seen: dict[int, Tensor] = {}

            def pass_by(entry: int, above: Tensor) -> Tensor:
                above = above if entry == one.entry else edit(entry, above)
                seen[entry] = above[:, 0, 0]
                return above

            last = self.kernel.climb(
                vectors[:, None, None], columns, enter=pass_by, kept=peeked, first=one.entry
            )
            return Ahead(self.kernel.logits(self.kernel.states(last[:, 0, 0])), seen)

        rows = zip(texts.tokens.tolist(), texts.mask.tolist(), strict=True)
        ids = [[t for t, own in zip(row[: start + 1], real[: start + 1], strict=True) if own]
               for row, real in rows]  # fmt: skip
        factor = self.attached.factor(one.factors, 1)
        return one.apply(resid[:, 0, 0], chosen[:, 0], factor, look, ids)[:, None, None]
