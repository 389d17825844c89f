"""Activations on disk: read once, keyed by everything that decides the numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from steerlens.data import ContrastSet
from steerlens.directions import Activations
from steerlens.measures.reading import Chunk, activations, reading_positions
from steerlens.models.model import Model, as_model
from steerlens.sites import Positions, Site
from steerlens.store.files import write_text
from steerlens.store.tensors import DamagedFile, read_tensors, write_tensors

FORMAT = "steerlens.activations/1"


class StoreError(ValueError):
    """An entry of the store that cannot be trusted."""


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
        sites: Sequence[Site] | None = None,
        *,
        positions: Positions | None = None,
        batch_size: int = 32,
        progress: bool = True,
    ) -> Activations:
        """`steerlens.activations`, from disk where it was read before.

        Raises:
            StoreError: If a stored file is damaged, or steering or hooks are attached to the model.
        """
        model = as_model(model)
        if model.attached or model.attached.foreign_hooks:
            on = ", ".join(model.attached.foreign_hooks)
            what = f"There are hooks on {on}" if on else ""
            raise StoreError(
                f"{what or 'Steering is attached to the model'}, so its activations are not the "
                "model's own and are not stored. Use steerlens.activations(…) for them."
            )
        sites = tuple(sites or model.sites())
        positions = positions or reading_positions(pairs)
        facts = {
            "format": FORMAT,
            "fingerprint": model.fingerprint,
            "dtype": str(next(model.wrapped.parameters()).dtype),
            "tokens": _token_hash(model, pairs),
            "special": model.special_ids,
            "sites": [site.hook for site in sites],
            "positions": repr(positions),
            "batch_size": batch_size,
        }
        folder = self.root / _digest(facts)
        if not (folder / "entry.json").exists():
            write_text(folder / "entry.json", json.dumps({**facts, "data": pairs.hash}, indent=1))
        return activations(
            model, pairs, sites, positions=positions, batch_size=batch_size, progress=progress,
            have=lambda k: _read(folder / f"{k:06d}.safetensors"),
            done=lambda k, chunk: _write(folder / f"{k:06d}.safetensors", chunk),
        )  # fmt: skip


def _digest(facts: dict) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _token_hash(model: Model, pairs: ContrastSet) -> str:
    found = hashlib.sha256()
    for pair in pairs:
        for side in (pair.positive, pair.negative):
            ids = model.split(pair.prompt, side) if pair.prompt else model.ids(side)
            found.update(repr(ids).encode())
    return found.hexdigest()


def _write(path: Path, chunk: Chunk) -> None:
    write_tensors(path, {f.name: getattr(chunk, f.name) for f in fields(chunk)})


def _read(path: Path) -> Chunk | None:
    if not path.exists():
        return None
    try:
        return Chunk(**read_tensors(path))
    except DamagedFile as error:
        raise StoreError(f"{error} Delete this file; only its texts are read again.") from error
