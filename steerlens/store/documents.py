"""JSON files with a checksum of their own content: a changed character is noticed when read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from steerlens.store.files import DamagedFile, read_bytes, write_text

CHECKSUM = "sha256"


def write_document(path: Path, content: dict[str, Any]) -> Path:
    """Writes a dictionary as JSON, with the checksum of its content as its last entry.

    Raises:
        StorageError: If it cannot be written.
        TypeError: If it holds something that JSON cannot hold.
        ValueError: If it has an entry of the checksum's name.
    """
    if CHECKSUM in content:
        raise ValueError(
            f"A document cannot have an entry {CHECKSUM!r}: its checksum is kept there."
        )
    text = json.dumps(content, indent=1)
    whole = {**content, CHECKSUM: checksum(json.loads(text))}  # as it will be read: keys are text
    return write_text(path, json.dumps(whole, indent=1))


def read_document(path: Path) -> dict[str, Any]:
    """Reads what `write_document` wrote, without the checksum.

    Raises:
        FileNotFoundError: If there is no such file.
        StorageError: If it cannot be read.
        DamagedFile: If it is no JSON object, or its content is not what was written.
    """
    try:
        content = json.loads(read_bytes(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is damaged ({error}).") from error
    if not isinstance(content, dict) or content.pop(CHECKSUM, None) != checksum(content):
        raise DamagedFile(f"{path} is damaged (its checksum does not match its content).")
    return content


def checksum(content: dict[str, Any]) -> str:
    """A hash of JSON content that does not depend on how it is laid out."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
