"""Tensors on disk that are known to be whole: safetensors, written atomically, with a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from steerlens.store.files import DamagedFile as DamagedFile
from steerlens.store.files import explained, write_bytes

METADATA = "steerlens"
"""The one entry of the file's metadata: safetensors writes several in an order of chance."""


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, states: Mapping[str, str] | None = None
) -> str:
    """Writes one safetensors file with a checksum of its content in its metadata.

    Equal content gives equal bytes.

    Args:
        states: What the file is, for `read_tensors` to check; covered by the checksum.

    Returns:
        The checksum.

    Raises:
        StorageError: If it cannot be written.
    """
    content, checksum = encode_tensors(tensors, states=states)
    write_bytes(path, content)
    return checksum


def encode_tensors(
    tensors: Mapping[str, Tensor], *, states: Mapping[str, str] | None = None
) -> tuple[bytes, str]:
    """The bytes that `write_tensors` writes, and the checksum in them."""
    content: dict[str, Tensor] = {}
    held: set[int] = set()
    for name, tensor in tensors.items():
        content[name] = tensor.detach().cpu().contiguous()
        memory = content[name].untyped_storage().data_ptr()
        if memory in held:  # a view of another one, which the format does not hold
            content[name] = content[name].clone()
        held.add(memory)
    stated = dict(states or {})
    checksum = _checksum(content, stated)
    metadata = json.dumps({"sha256": checksum, "states": stated}, sort_keys=True)
    return save(content, metadata={METADATA: metadata}), checksum


def read_tensors(path: Path, *, states: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """Reads what `write_tensors` wrote.

    Args:
        states: What the file must state; None to accept anything.

    Raises:
        FileNotFoundError: If there is no such file.
        StorageError: If it cannot be read.
        DamagedFile: If its content is not what was written, or it states that it is something else.
    """
    return read_with_checksum(path, states)[0]


def read_with_checksum(
    path: Path, states: Mapping[str, str] | None
) -> tuple[dict[str, Tensor], str]:
    """`read_tensors`, and the checksum that `write_tensors` returned."""
    tensors, metadata = _read(path)
    # safetensors checks its header, not its numbers; a flipped bit must not pass for data.
    if METADATA in metadata:
        try:
            stated = json.loads(metadata[METADATA])
            checksum, stated = stated["sha256"], stated["states"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedFile(f"{path} is damaged (its metadata cannot be read).") from error
        whole = checksum == _checksum(tensors, stated)
    else:  # written before files stated what they are, as the SAEs that ship were
        checksum, stated = metadata.get("sha256", ""), {}
        whole = checksum == _checksum_of_numbers(tensors)
    if not whole:
        raise DamagedFile(f"{path} is damaged (its checksum does not match its content).")
    if states is not None and stated != dict(states):
        raise DamagedFile(f"{path} is another file: it states {_differing(stated, states)}.")
    return tensors, checksum


def has_checksum(path: Path) -> bool:
    """Whether a safetensors file states a checksum of ours.

    Raises:
        FileNotFoundError: If there is no such file.
        StorageError: If it cannot be read.
        DamagedFile: If it is no safetensors file.
    """
    return bool({METADATA, "sha256"} & _read(path, tensors=False)[1].keys())


def _read(path: Path, tensors: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    with explained(path, "read"):
        if path.stat().st_size == 0:
            raise DamagedFile(f"{path} is damaged (it is empty).")
        try:
            with safe_open(path, framework="pt") as file:
                names = file.keys() if tensors else ()
                return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
        except (OSError, MemoryError):
            raise
        except Exception as error:  # safetensors and torch raise many kinds for damaged headers
            raise DamagedFile(f"{path} is damaged ({error}).") from error


def _checksum(tensors: Mapping[str, Tensor], stated: Any) -> str:
    found = hashlib.sha256(json.dumps(stated, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        found.update(_numbers(tensor))
    return found.hexdigest()


def _checksum_of_numbers(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(_numbers(tensors[name]))
    return found.hexdigest()


def _numbers(tensor: Tensor) -> memoryview:
    # One number may have any stride and counts as contiguous, but not to be viewed as bytes.
    flat = tensor.contiguous().as_strided((tensor.numel(),), (1,))
    return flat.view(torch.uint8).numpy().data


def _differing(stated: Any, needed: Mapping[str, str]) -> str:
    """What a file states that it should not, for a message."""
    stated = stated if isinstance(stated, Mapping) else {}
    names = sorted(n for n in {*stated, *needed} if stated.get(n) != needed.get(n))
    has = {name: repr(stated[name]) if name in stated else "nothing" for name in names}
    needs = {name: repr(needed[name]) if name in needed else "nothing" for name in names}
    return ", ".join(f"{name} {has[name]} instead of {needs[name]}" for name in names)
