"""A folder with a vector, its card and the digests of its files."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

from steerlens.directions import Direction
from steerlens.models.model import Model
from steerlens.sharing.vector_card import Effect, Shareable, vector_card
from steerlens.store.documents import read_document, write_document
from steerlens.store.files import (
    DamagedFile,
    expanded,
    make_folder,
    require_file,
    sha256_of,
    write_text,
)
from steerlens.training import TrainedIntervention

FORMAT = "steerlens.shared/1"
STATED, CARD, DIRECTION = "shared.json", "README.md", "direction.safetensors"
ENDINGS = (".safetensors", ".json", ".csv")
"""What a shared folder may hold beside the card: nothing that can run."""
LARGEST = 1 << 30
"""Bytes of all files together: more is no vector."""


class SharingError(ValueError):
    """Something that cannot be shared, or that was shared and cannot be read."""


def save_shared(
    shared: Shareable,
    folder: Path | str,
    *,
    name: str | None = None,
    license: str | None = None,
    effect: Effect | None = None,
    notes: str = "",
) -> Path:
    """Writes a direction or a trained intervention with its card, ready to be uploaded.

    Args:
        folder: Where to. It must not exist, or be empty.
        name: The title of the card, by default that of the folder; the rest as in `vector_card`.

    Returns:
        The folder: README.md, shared.json with the SHA-256 of every other file, and
        direction.safetensors or what `TrainedIntervention.save` writes.

    Raises:
        SharingError: If the folder holds something.
        CardError: If the effect is not of this vector.
        StorageError: If a file cannot be written.
    """
    if not isinstance(shared, Direction | TrainedIntervention):
        raise SharingError(
            f"A {type(shared).__name__} cannot be shared. Give a Direction, or a TrainedIntervention; "
            "the directions of several layers are shared one by one."
        )
    folder = expanded(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SharingError(f"{folder} is there and not empty. Give a new folder.")
    card = vector_card(
        shared, name=name or folder.name, license=license, effect=effect, notes=notes
    )
    make_folder(folder)
    if isinstance(shared, Direction):
        shared.save(folder / DIRECTION)
    else:
        shared.save(folder)
    digests = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.is_file()}
    kind = "direction" if isinstance(shared, Direction) else "trained"
    version = importlib.metadata.version("steerlens")
    stated = {"format": FORMAT, "kind": kind, "files": digests, "steerlens": version}
    write_document(folder / STATED, stated)
    write_text(folder / CARD, card)
    return folder


def load_shared(
    folder: Path | str, model: Model | None = None, *, form: Any = None
) -> Direction | TrainedIntervention:
    """Reads what `save_shared` wrote, after every file was compared with its digest.

    Args:
        model: The model to use it on: a direction of another model is refused, and one made under
            another weight processing converted if that is exact. A trained intervention needs it.
        form: As in `TrainedIntervention.load`.

    Raises:
        SharingError: If the folder is none of `save_shared`, a file is missing, damaged or edited,
            or the model is needed.
        DirectionError: If the direction does not fit the model.
        TrainingError: If the trained intervention does not.
    """
    folder = expanded(folder)
    kind = _checked(folder)
    if kind == "direction":
        return Direction.load(folder / DIRECTION, model)
    if model is None:
        raise SharingError(
            f"{folder} holds a trained intervention, which is read for a model. Pass the model: "
            "load_shared(folder, model)."
        )
    return TrainedIntervention.load(folder, model, form=form)


def require_shared(names: dict[str, int], source: str) -> None:
    """Raises SharingError unless files, by name with their bytes, can be those of a shared vector."""
    if STATED not in names:
        raise SharingError(
            f"{source} has no {STATED}, so it was not shared by steerlens. Download it, and read its "
            "file by steerlens.directions.exchange."
        )
    if sum(names.values()) > LARGEST:
        raise SharingError(
            f"{source} has {sum(names.values()) >> 20} MiB, more than any vector. Nothing was read."
        )


def _checked(folder: Path) -> str:
    """What a folder holds, after its files were compared with their digests."""
    if not (folder / STATED).is_file():
        require_shared({}, str(folder))
    try:
        stated: Any = read_document(folder / STATED)
        kind, files = stated["kind"], stated["files"]
        if stated["format"] != FORMAT or kind not in ("direction", "trained"):
            raise SharingError(
                f"{folder / STATED} is of format {stated['format']!r:.40}, and this steerlens reads "
                f"{FORMAT!r}. Update steerlens."
            )
        listed = {str(name): str(digest) for name, digest in files.items()}
    except (DamagedFile, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise SharingError(
            f"{folder / STATED} cannot be read ({error}). Download it again."
        ) from error
    for name, digest in listed.items():
        if Path(name).name != name or Path(name).suffix not in ENDINGS:
            raise SharingError(
                f"{folder / STATED} lists {name!r:.80}, which is no file of a vector. Nothing was read."
            )
        path = folder / name
        if not path.is_file():
            raise SharingError(f"{path} is missing. Download the folder again.")
        if sha256_of(require_file(path)) != digest:
            raise SharingError(
                f"{path} is damaged or was edited: its SHA-256 is not that of {STATED}. Download the "
                "folder again, or ask its author."
            )
    needed = DIRECTION if kind == "direction" else "trained.safetensors"
    if needed not in listed:
        raise SharingError(f"{folder / STATED} lists no {needed}. Download the folder again.")
    return kind
