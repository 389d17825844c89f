"""Tensors on disk that are known to be whole: safetensors, written atomically, with a checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from steerlens.store.files import write_bytes


class DamagedFile(ValueError):
    """A file of tensors that is not what was written."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Writes one safetensors file with a checksum of its numbers in its metadata."""
    content = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    return write_bytes(path, save(content, metadata={"sha256": _checksum(content)}))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads what `write_tensors` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedFile: If it cannot be read, or its numbers are not those that were written.
    """
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            # safetensors checks its header, not its numbers; a flipped bit must not pass for data.
            sound = (file.metadata() or {}).get("sha256") == _checksum(tensors)
    except SafetensorError as error:
        raise DamagedFile(f"{path} is damaged ({error}).") from error
    if not sound:
        raise DamagedFile(f"{path} is damaged (its checksum does not match its content).")
    return tensors


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(tensors[name].numpy().tobytes())
    return found.hexdigest()
