"""Activations on disk: read once, keyed by everything that decides the numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex

from steerlens.data import ContrastSet
from steerlens.directions import Activations
from steerlens.measures.reading import Pool, activations, pooled, reading_positions
from steerlens.models.model import Model, as_model
from steerlens.sites import Positions, SiteLike, as_positions, as_sites, sites_or_layers
from steerlens.store.cells import Cells
from steerlens.store.documents import write_document
from steerlens.store.files import DamagedFile

FORMAT = "steerlens.activations/2"


class StoreError(ValueError):
    """Activations that cannot be stored, or an entry of the store that cannot be trusted."""


class DamagedEntry(StoreError, DamagedFile):
    """A stored file that is not what was written, or belongs to another entry."""


@dataclass(frozen=True)
class ActivationStore:
    """A folder of activations. An entry is a folder of small files, written as they are read.

    The key holds the model's weights, the token ids of every text, the sites, the position rule
    and the batch size; change one and another entry is used. A killed read goes on where it was.
    """

    root: Path

    def activations(
        self,
        model: Model,
        pairs: ContrastSet,
        sites: SiteLike | Iterable[SiteLike] | None = None,
        *,
        layers: Iterable[SupportsIndex] | None = None,
        positions: Positions | str | None = None,
        pool: Pool = "none",
        batch_size: int = 32,
        progress: bool = True,
    ) -> Activations:
        """`steerlens.activations`, from disk where it was read before.

        Raises:
            DamagedEntry: If a stored file is damaged or belongs to another entry.
            StoreError: If steering or hooks are attached to the model.
            StorageError: If the folder cannot be read or written.
        """
        model = as_model(model)
        if model.attached or model.attached.foreign_hooks:
            on = ", ".join(model.attached.foreign_hooks)
            what = f"There are hooks on {on}" if on else ""
            raise StoreError(
                f"{what or 'Steering is attached to the model'}, so its activations are not the "
                "model's own and are not stored. Use steerlens.activations(…) for them."
            )
        asked = sites_or_layers(sites, layers)
        where = model.sites() if asked is None else as_sites(asked)
        rule = reading_positions(pairs) if positions is None else as_positions(positions)
        facts = {
            "format": FORMAT,
            "fingerprint": model.fingerprint,
            "dtype": str(next(model.wrapped.parameters()).dtype),
            "tokens": _token_hash(model, pairs),
            "special": model.special_ids,
            "sites": [site.hook for site in where],
            "positions": pooled(rule, pool),
            "batch_size": batch_size,
        }
        digest = _digest(facts)
        folder = self.root / digest[:16]
        if not (folder / "entry.json").exists():  # for a reader; the chunks state the digest
            write_document(folder / "entry.json", {**facts, "data": pairs.hash, "entry": digest})
        cells = Cells(folder, "activations", {"entry": digest}, progress)
        try:
            return activations(
                model, pairs, where, positions=rule, pool=pool, batch_size=batch_size, cells=cells
            )
        except DamagedFile as error:
            raise DamagedEntry(str(error)) from error


def _digest(facts: dict) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _token_hash(model: Model, pairs: ContrastSet) -> str:
    found = hashlib.sha256()
    for pair in pairs:
        for side in (pair.positive, pair.negative):
            ids = model.split(pair.prompt, side) if pair.prompt else model.ids(side)
            found.update(repr(ids).encode())
    return found.hexdigest()
