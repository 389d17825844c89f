"""Tensors on disk that are known to be whole: safetensors, written atomically, with a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from steerlens.store.files import write_bytes


class DamagedFile(ValueError):
    """A file that is not what was written, or states that it is something else."""


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, states: Mapping[str, str] | None = None
) -> str:
    """Writes one safetensors file with a checksum of its content in its metadata.

    Args:
        states: What the file is, for `read_tensors` to check; covered by the checksum.

    Returns:
        The checksum.
    """
    content = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    stated = json.dumps(dict(states or {}), sort_keys=True)
    metadata = {"states": stated, "sha256": _checksum(content, stated)}
    write_bytes(path, save(content, metadata=metadata))
    return metadata["sha256"]


def read_tensors(path: Path, *, states: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """Reads what `write_tensors` wrote.

    Args:
        states: What the file must state; None to accept anything.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedFile: If it cannot be read, its content is not what was written, or it states that
            it is something else.
    """
    return read_with_checksum(path, states)[0]


def read_with_checksum(
    path: Path, states: Mapping[str, str] | None
) -> tuple[dict[str, Tensor], str]:
    """`read_tensors`, and the checksum that `write_tensors` returned."""
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise DamagedFile(f"{path} is damaged ({error}).") from error
    stated = metadata.get("states", "{}")
    # safetensors checks its header, not its numbers; a flipped bit must not pass for data.
    expected = _checksum(tensors, stated) if "states" in metadata else _numbers_checksum(tensors)
    if metadata.get("sha256") != expected:
        raise DamagedFile(f"{path} is damaged (its checksum does not match its content).")
    if states is not None and json.loads(stated) != dict(states):
        raise DamagedFile(
            f"{path} is another file: it states {stated}, and {dict(states)} is needed."
        )
    return tensors, metadata["sha256"]


def _checksum(tensors: Mapping[str, Tensor], stated: str) -> str:
    found = hashlib.sha256(stated.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _numbers_checksum(tensors: Mapping[str, Tensor]) -> str:
    """The checksum of files that state nothing, e.g. of an SAE that an earlier version saved."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(tensors[name].numpy().tobytes())
    return found.hexdigest()
