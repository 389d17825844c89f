"""Whether a command was run to its end before, said without loading torch or a model.

When a run is finished, the command that asked for it is noted in the run's folder, with the hashes
of all files that it read: the experiment's file, what that imports from its own folder, and the
files that the experiment's fields name. The same command on the same files finds the note. Whatever
differs takes the long way, which compares everything.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from steerlens.store.documents import read_document, write_document
from steerlens.store.files import DamagedFile, expanded, sha256_of
from steerlens.store.run_folder import verify

FILE = "commands.json"
LARGE = 64 * 2**20
"""Bytes above which a file is known by its size and time instead of its content."""


def finished_before(path: Path, words: Sequence[str], results: Path) -> tuple[Path, str] | None:
    """The folder of the finished run that the same command gave, and what it printed; or None."""
    if not path.is_file():
        return None
    try:
        key = _key(path, words)
        for noted in sorted(results.glob(f"*/{FILE}")):
            found: Any = read_document(noted)["commands"].get(key)
            if found and _same_files(found["files"]) and not verify(noted.parent):
                return noted.parent, str(found["printed"])
    except (DamagedFile, OSError, KeyError, TypeError, AttributeError):
        pass  # the long way says what is wrong
    return None


def note(
    path: Path, words: Sequence[str], folder: Path, printed: str, named: Iterable[object]
) -> None:
    """Notes that a command gave the finished run in a folder.

    Args:
        printed: What the command printed.
        named: Values of the experiment's fields, some of which may name files or folders.
    """
    try:
        files = [*_imported_from(path.parent), *_named(named)]
        known = read_document(folder / FILE)["commands"] if (folder / FILE).exists() else {}
        stated = {str(file): _stamp(file) for file in files}
        key = _key(path, words)
        if known.get(key) != (entry := {"files": stated, "printed": printed}):
            write_document(folder / FILE, {"commands": {**known, key: entry}})
    except (DamagedFile, OSError, KeyError, TypeError):
        pass  # the note only saves time


def _key(path: Path, words: Sequence[str]) -> str:
    """The command: the content of the experiment's file and the words after it."""
    asked = [sha256_of(path), str(path.resolve()), os.getcwd(), *words]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _same_files(stated: dict[str, str]) -> bool:
    return all(_stamp(Path(file)) == stamp for file, stamp in stated.items())


def _stamp(path: Path) -> str:
    """What tells whether a file, or one directly in a folder, has changed."""
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.is_file())
        return json.dumps([[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in found])
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    return sha256_of(path) if size < LARGE else f"{size} {path.stat().st_mtime_ns}"


def _imported_from(folder: Path) -> list[Path]:
    """Files of loaded modules that stand in the folder of the experiment's file or below."""
    root, own = folder.resolve(), Path(__file__).resolve().parents[1]
    found = []
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str):
            continue
        path = Path(file).resolve()
        outside = "site-packages" in path.parts or own in path.parents
        if root in path.parents and not outside and path.suffix == ".py":
            found.append(path)
    return found


def _named(values: Iterable[object]) -> list[Path]:
    """The files and folders that values name, those in tuples included."""
    found = []
    for value in values:
        if isinstance(value, tuple | list):
            found += _named(value)
        elif isinstance(value, str | Path) and len(str(value)) < 1000 and expanded(value).exists():
            found.append(expanded(value).resolve())
    return found
