"""Tensors out of files that others wrote: safetensors, torch.save, NumPy. Data only, never code.

What a file announces is compared with its size before anything is allocated, and no file is
unpickled: torch's are read by its weights-only reader, NumPy's without objects.
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
"""Bytes that a compressed file may grow to: thousands of vectors."""


def read_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of floating point numbers in a file, by name, and its metadata.

    The kind of file is seen from its content. A file with one nameless tensor calls it "".

    Raises:
        DirectionError: If the file is damaged, of no known kind, or holds code.
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
    """Whether a length and an opened brace stand at the start, as in every safetensors file."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def read_safetensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of a safetensors file.

    Raises:
        DirectionError: If it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        raise DirectionError(f"{path} is not a readable safetensors file: {error}") from error


def read_torch(path: Path | str, known: Mapping[str, type] | None = None) -> Any:
    """What `torch.save` wrote, as far as it is data.

    Args:
        known: Classes that may stand in for others, by the name that the file gives them.

    Raises:
        DirectionError: If the file is damaged, older than torch 1.6, or holds anything but data.
    """
    _require_plain_zip(path)
    allowed = [(stand_in, name) for name, stand_in in (known or {}).items()]
    try:
        with torch.serialization.safe_globals(allowed):  # type: ignore[arg-type]
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to ask for
        raise DirectionError(
            f"{path} is damaged, or holds more than tensors, which would have to be run to be read "
            f"({_in_short(error)}). Where it was made, save the tensors alone: "
            "safetensors.torch.save_file({'vector': tensor}, path). A SteeringVector is read by "
            "exchange.steering_vectors.load."
        ) from error


def _in_short(error: Exception) -> str:
    """The one line of torch's advice that says what it met."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "GLOBAL" in line or "Unsupported" in line] or lines
    return f"{type(error).__name__}: {told[0][:160]}" if told else type(error).__name__


def require_plain(tensor: Tensor, source: str) -> Tensor:
    """A tensor that is what it says: numbers in a row in memory, as many as the file holds.

    Raises:
        DirectionError: If it is sparse, quantised, on no device, or its numbers are repeated views
            of fewer (a few bytes can announce terabytes).
    """
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not plain or tensor.is_quantized or tensor.is_nested:
        raise DirectionError(
            f"{source} holds a sparse, quantised or otherwise special tensor. Save it as dense "
            "numbers: tensor.to_dense().float()."
        )
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise DirectionError(
            f"{source} announces a tensor of shape {tuple(tensor.shape)} and holds fewer numbers. "
            "Save it again: tensor.contiguous()."
        )
    return tensor.detach()


def _require_plain_zip(path: Path | str) -> None:
    """Refuses older pickles, and archives that unpack to more than they hold."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [e for e in archive.infolist() if e.compress_type != zipfile.ZIP_STORED]
            if packed or sum(e.file_size for e in archive.infolist()) > Path(path).stat().st_size:
                raise DirectionError(f"{path} is a compressed archive, which torch.save never is.")
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError) as error:
        if isinstance(error, DirectionError | FileNotFoundError | PermissionError):
            raise
        raise DirectionError(
            f"{path} is no file of tensors that is known here: safetensors, .npy, .npz, or what "
            f"torch.save writes since 1.6 ({error}). A pickle is never read, since it can run "
            "code; save the tensors as safetensors where it was made."
        ) from error


def _tensors(found: Any, source: str, name: str, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Tensors in nested dicts and lists; texts and numbers beside them are passed over."""
    if isinstance(found, Tensor):
        yield name, require_plain(found, source)
        return
    if depth > 4:
        raise DirectionError(f"{source} nests its tensors too deeply to name them.")
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
    except Exception as error:  # NumPy parses the header as Python text, which fails in many ways
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
                raise DirectionError(f"{path} unpacks to more than {MAX_UNPACKED >> 20} MiB.")
            for entry in entries:
                with archive.open(entry) as file:
                    name = entry.filename.removesuffix(".npy")
                    tensors[name] = _array(file, entry.file_size, f"{name} in {path}")
    except Exception as error:  # zipfile and zlib raise many kinds for damaged archives
        raise _damaged_numpy(path, error) from error
    return tensors


def _array(file: Any, size: int, source: str) -> Tensor:
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise DirectionError(f"{source} is of NumPy format {version}; known are 1.0 and 2.0.")
    shape, fortran, dtype = read_header(file)
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise DirectionError(
            f"{source} holds {dtype}, not floating point numbers. Objects are never read, since "
            "they can run code; save array.astype('float32')."
        )
    n = math.prod(shape)
    if n < 0 or n * dtype.itemsize > size:
        raise DirectionError(f"{source} announces {n} numbers, more than fit into it.")
    raw = file.read(n * dtype.itemsize)
    if len(raw) < n * dtype.itemsize:
        raise DirectionError(f"{source} ends before its numbers do.")
    order = "F" if fortran else "C"
    array = np.frombuffer(raw, dtype).astype(dtype.newbyteorder("=")).reshape(shape, order=order)
    return torch.from_numpy(np.ascontiguousarray(array))


def _damaged_numpy(path: Path | str, error: Exception) -> DirectionError:
    if isinstance(error, DirectionError):
        return error
    return DirectionError(f"{path} is a damaged NumPy file: {type(error).__name__}: {error}")
