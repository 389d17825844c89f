"""A file beside others that lists their checksums: folders whose formats belong to other libraries.

Models and SAEs are stored in formats that others read too, so their checksums cannot stand inside
them. A folder without the list is one of another library, or older, and is not checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import xxhash

from steerlens.store.documents import read_document, write_document
from steerlens.store.files import DamagedFile, explained

CHECKSUMS = "checksums.json"
FORMAT = "steerlens.checksums/1"
ADVICE = f"Save or copy the folder again. If you changed it on purpose, delete {CHECKSUMS} in it."


def write_checksums(folder: Path, contents: Mapping[str, bytes] | Iterable[str]) -> Path:
    """Writes the list for a folder.

    Args:
        contents: Names of files that are there; or what will be written next, by name. Then files
            that a killed process wrote only in part are refused.

    Raises:
        StorageError: If it cannot be written, or a file cannot be read.
    """
    if isinstance(contents, Mapping):
        files = {name: xxhash.xxh3_128_hexdigest(content) for name, content in contents.items()}
    else:
        files = {name: _hash(folder / name) for name in contents}
    content = {"format": FORMAT, "hash": "xxh3_128", "files": dict(sorted(files.items()))}
    return write_document(folder / CHECKSUMS, content)


def require_unchanged(folder: Path) -> bool:
    """Compares the files of a folder with its list.

    Returns:
        Whether there is a list.

    Raises:
        DamagedFile: If a file is damaged, was changed, or is missing. The message says what to do.
        StorageError: If a file cannot be read.
    """
    try:
        content = read_document(folder / CHECKSUMS)
    except FileNotFoundError:
        return False
    except DamagedFile as error:
        raise DamagedFile(f"{error} {ADVICE}") from error
    files = content.get("files")
    if content.get("format") != FORMAT or not isinstance(files, Mapping):
        raise DamagedFile(
            f"{folder / CHECKSUMS} is of format {content.get('format')!r}, but this steerlens "
            f"reads {FORMAT!r}. Update steerlens, or save the folder again with this one."
        )
    for name, digest in files.items():
        try:
            found = _hash(folder / name)
        except FileNotFoundError:
            raise DamagedFile(f"{folder / name} is missing. {ADVICE}") from None
        if found != digest:
            raise DamagedFile(
                f"{folder / name} is damaged, or was changed after it was saved. {ADVICE}"
            )
    return True


def _hash(path: Path) -> str:
    found = xxhash.xxh3_128()
    with explained(path, "read"), open(path, "rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()
