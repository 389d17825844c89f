"""Tensors from files of other software: safetensors, torch.save, NumPy. Data only, never code.

The sizes that a file states are compared with its length before memory is allocated. Nothing is
unpickled: torch's files are read by its weights-only reader, NumPy's without objects.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from steerlens.directions import DirectionError

_ZIP, _NUMPY = b"PK\x03\x04", b"\x93NUMPY"
MAX_UNPACKED = 1 << 28
"""Bytes that a compressed file may unpack to: thousands of vectors."""
MAX_BYTES = 1 << 30
"""Bytes of the largest file that is read: more than any set of directions has."""


def read_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors in a file by name, and its metadata.

    The kind of file is recognised by its content. A single tensor without a name is named "".

    Raises:
        DirectionError: If the file is damaged, too large, of an unknown kind, or holds code.
    """
    with open(path, "rb") as file:
        head = file.read(16)
    if head.startswith(_NUMPY):
        return {"": _numpy(path)}, {}
    if head.startswith(_ZIP) and _is_npz(path):
        return _npz(path), {}
    if starts_like_safetensors(path):
        return read_safetensors(path)
    return dict(_tensors(read_torch(path), str(path), "")), {}


def starts_like_safetensors(path: Path | str) -> bool:
    """Whether a file starts with a length and an opening brace, like every safetensors file."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def read_safetensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of a safetensors file.

    Raises:
        DirectionError: If it is damaged or too large.
    """
    _require_moderate(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        raise DirectionError(
            f"{path} is not a readable safetensors file: {error}. Copy or save it again."
        ) from error


def read_torch(path: Path | str, known: Mapping[str, type] | None = None) -> Any:
    """The content of a file of `torch.save`, if it is data.

    Args:
        known: Classes to use in place of those that the file names, by the name in the file.

    Raises:
        DirectionError: If the file is damaged, too large, older than torch 1.6, or holds code.
    """
    _require_moderate(path)
    _require_plain_zip(path)
    allowed = [(stand_in, name) for name, stand_in in (known or {}).items()]
    try:
        with torch.serialization.safe_globals(allowed):  # type: ignore[arg-type]
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise any error
        raise DirectionError(
            f"{path} is damaged, or holds objects that cannot be read without running code "
            f"({_in_short(error)}). Save only the tensors with the software that made it: "
            "safetensors.torch.save_file({'vector': tensor}, path). A SteeringVector is read by "
            "exchange.steering_vectors.load."
        ) from error


def _in_short(error: Exception) -> str:
    """The line of torch's message that names the object."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "GLOBAL" in line or "Unsupported" in line] or lines
    return f"{type(error).__name__}: {named[0][:160]}" if named else type(error).__name__


def require_plain(tensor: Tensor, source: str) -> Tensor:
    """The tensor, if it is dense and the file holds all of its numbers.

    Raises:
        DirectionError: If it is sparse, quantised, without memory, or a view that repeats numbers
            (a view of a few bytes can have terabytes).
    """
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not plain or tensor.is_quantized or tensor.is_nested:
        raise DirectionError(
            f"{source} holds a sparse, quantised or otherwise special tensor. Save it as dense "
            "numbers: tensor.to_dense().float()."
        )
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise DirectionError(
            f"{source} states a tensor of shape {tuple(tensor.shape)} but holds fewer numbers. "
            "Save it again: tensor.contiguous()."
        )
    return tensor.detach()


def _require_moderate(path: Path | str) -> None:
    if (size := Path(path).stat().st_size) > MAX_BYTES:
        raise DirectionError(
            f"{path} has {size >> 20} MiB, more than any set of directions: it looks like a model. "
            "Save only the vectors."
        )


def _require_plain_zip(path: Path | str) -> None:
    """Refuses older pickles, and archives that unpack to more than they hold."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [e for e in archive.infolist() if e.compress_type != zipfile.ZIP_STORED]
            if packed or sum(e.file_size for e in archive.infolist()) > Path(path).stat().st_size:
                raise DirectionError(
                    f"{path} is a compressed archive, which torch.save does not write. Unpack it, "
                    "and load the files in it."
                )
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError) as error:
        if isinstance(error, DirectionError | FileNotFoundError | PermissionError):
            raise
        raise DirectionError(
            f"{path} is not a file of tensors of a known kind: safetensors, .npy, .npz, or "
            f"torch.save since version 1.6 ({error}). Pickles are not read, since they can run "
            "code. Save the tensors as safetensors with the software that made it."
        ) from error


def _tensors(found: Any, source: str, name: str, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Tensors in nested dicts and lists; texts and numbers are skipped."""
    if isinstance(found, Tensor):
        yield name, require_plain(found, source)
        return
    if depth > 4:
        raise DirectionError(
            f"{source} holds tensors in more than four nested dicts. Save them in one dict."
        )
    if isinstance(found, Mapping):
        parts = list(found.items())
    elif isinstance(found, list | tuple):
        parts = list(enumerate(found))
    else:
        return
    for key, part in parts:
        yield from _tensors(part, source, f"{name}.{key}" if name else str(key), depth + 1)


def _numpy(path: Path | str) -> Tensor:
    try:
        with open(path, "rb") as file:
            return _array(file, Path(path).stat().st_size, str(path))
    except Exception as error:  # NumPy parses the header as Python text, and any error can result
        raise _damaged_numpy(path, error) from error


def _is_npz(path: Path | str) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError):
        return False


def _npz(path: Path | str) -> dict[str, Tensor]:
    tensors = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [e for e in archive.infolist() if e.filename.endswith(".npy")]
            if sum(e.file_size for e in entries) > MAX_UNPACKED:
                raise DirectionError(
                    f"{path} unpacks to more than {MAX_UNPACKED >> 20} MiB. Save only the vectors."
                )
            for entry in entries:
                with archive.open(entry) as file:
                    name = entry.filename.removesuffix(".npy")
                    tensors[name] = _array(file, entry.file_size, f"{name} in {path}")
    except Exception as error:  # zipfile and zlib raise errors of many kinds for damaged archives
        raise _damaged_numpy(path, error) from error
    return tensors


def _array(file: Any, size: int, source: str) -> Tensor:
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise DirectionError(
            f"{source} has the NumPy format {version}, and 1.0 and 2.0 can be read. Save it again "
            "with numpy.save."
        )
    shape, fortran, dtype = read_header(file)
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise DirectionError(
            f"{source} holds {dtype}, not floating point numbers. Objects are not read, since "
            "they can run code. Save array.astype('float32')."
        )
    n = math.prod(shape)
    if n < 0 or n * dtype.itemsize > size:
        raise DirectionError(
            f"{source} states {n} numbers, more than the file can hold. Save it again."
        )
    raw = file.read(n * dtype.itemsize)
    if len(raw) < n * dtype.itemsize:
        raise DirectionError(f"{source} ends before its last number. Copy or save it again.")
    order = "F" if fortran else "C"
    array = np.frombuffer(raw, dtype).astype(dtype.newbyteorder("=")).reshape(shape, order=order)
    return torch.from_numpy(np.ascontiguousarray(array))


def _damaged_numpy(path: Path | str, error: Exception) -> DirectionError:
    if isinstance(error, DirectionError):
        return error
    return DirectionError(
        f"{path} is a damaged NumPy file: {type(error).__name__}: {error}. Copy or save it again."
    )
