"""A folder that one process at a time works in, and that states when it is finished.

    if not is_finished(path):                     # needs no lock and writes nothing
        with RunFolder.open(path) as folder:      # FolderInUse if another process works in it
            if not folder.finished:               # the other process may just have finished it
                ...                               # units of work by `Cells(path / "cells")`
                result.save(folder.path)
                write_text(folder.path / "report.html", page)
                folder.finish()                   # last: the marker, with a digest of every file

A process that is killed before `finish` leaves no marker, so the next one does what is missing.
`verify` says which files of a finished run are missing or damaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from steerlens.store.documents import read_document, write_document
from steerlens.store.files import (
    TEMPORARY,
    DamagedFile,
    StorageError,
    expanded,
    explained,
    make_folder,
    remove_file,
    remove_temporaries,
    sha256_of,
)

LOCK, MARKER = ".lock", "finished.json"
FORMAT = "steerlens.finished/1"


class FolderInUse(StorageError):
    """A folder that another process works in."""


@dataclass(frozen=True)
class RunFolder:
    """A folder that this process alone works in; see the module for how it is used."""

    path: Path

    @classmethod
    @contextmanager
    def open(cls, path: Path | str) -> Iterator[RunFolder]:
        """Makes the folder if needed, locks it, and removes what killed processes left half done.

        The system releases the lock when the process ends, however it ends.

        Raises:
            FolderInUse: If another process works in it.
            StorageError: If it cannot be made or written.
        """
        path = make_folder(expanded(path))
        lock = FileLock(path / LOCK, thread_local=False)
        with explained(path / LOCK):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise FolderInUse(
                    f"Another process works in {path}. Wait until it has finished, or stop it, or "
                    "choose another results folder."
                ) from None
        try:
            remove_temporaries(path)
            yield cls(path)
        finally:
            lock.release()

    @property
    def finished(self) -> bool:
        """Whether `finish` was called and every file is still there."""
        return is_finished(self.path)

    def finish(self, files: Iterable[Path | str] | None = None) -> Path:
        """Writes the marker of a finished run, which lists every file with its SHA-256.

        Call it last, after every file is written.

        Args:
            files: Paths inside the folder; by default all files directly in it. Folders are left
                out by default: what `Cells` keeps checks itself, and may be deleted.
        """
        if files is None:
            here = self.path.iterdir()
            files = [p.name for p in here if p.is_file() and p.name[0] != "."]
        names = sorted((self.path / file).relative_to(self.path).as_posix() for file in files)
        listed = {name: sha256_of(self.path / name) for name in names if name != MARKER}
        return write_document(self.path / MARKER, {"format": FORMAT, "files": listed})

    def reopen(self) -> None:
        """Takes the marker away. Call it before the files of a finished run are written again."""
        remove_file(self.path / MARKER)


def is_empty(folder: Path | str) -> bool:
    """Whether a folder does not exist, or holds only a lock and what killed processes left."""
    folder = expanded(folder)
    if not folder.exists():
        return True
    with explained(folder, "read"):
        return all(p.name == LOCK or p.name.endswith(TEMPORARY) for p in folder.iterdir())


def is_finished(folder: Path | str) -> bool:
    """Whether a folder has the marker of a finished run, and every file that the marker lists.

    The content of the files is not looked at; `verify` does that.
    """
    folder = expanded(folder)
    try:
        return all((folder / name).is_file() for name in finished_files(folder))
    except (FileNotFoundError, DamagedFile):
        return False


def finished_files(folder: Path | str) -> dict[str, str]:
    """The files of a finished run and the SHA-256 of each, as its marker lists them.

    Raises:
        FileNotFoundError: If there is no marker: the run is not finished.
        DamagedFile: If the marker is damaged.
    """
    path = expanded(folder) / MARKER
    content = read_document(path)
    listed: Any = content.get("files")
    if content.get("format") != FORMAT or not isinstance(listed, dict):
        raise DamagedFile(f"{path} is of another format than {FORMAT}. Delete it and run again.")
    return {name: digest for name, digest in listed.items() if _inside(name)}


def verify(folder: Path | str) -> list[str]:
    """What is wrong with the files of a finished run, a sentence each; empty if nothing is.

    Raises:
        StorageError: If a file cannot be read.
    """
    folder = expanded(folder)
    try:
        listed = finished_files(folder)
    except FileNotFoundError:
        return [f"{folder} has no {MARKER}: the run in it is not finished."]
    except DamagedFile as error:
        return [str(error)]
    wrong = []
    for name, digest in listed.items():
        try:
            if sha256_of(folder / name) != digest:
                wrong.append(f"{folder / name} is damaged or was changed after the run.")
        except FileNotFoundError:
            wrong.append(f"{folder / name} is missing.")
    return wrong


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
