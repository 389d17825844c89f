"""The GGUF container, versions 2 and 3, little-endian: control vectors, and headers of models.

Layout: magic, version, counts; then key-value pairs; then a table of tensors; then, aligned, their
bytes. Every count and length is compared with the bytes that follow before memory is allocated. (The
`gguf` package does not compare array lengths, and a file of a hundred bytes can keep it busy without
end; hence this reader. Reading and writing are tested against that package.)

Source: the GGUF specification in the ggml repository, docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.directions import DirectionError
from steerlens.store.files import expanded, require_file, write_bytes

MAGIC = b"GGUF"
ALIGNMENT = 32
_STRING, _ARRAY, _U32 = 8, 9, 4
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_FLOATS = {0: torch.float32, 1: torch.float16, 28: torch.float64, 30: torch.bfloat16}
_MAX_DEPTH = 4
"""Nesting of arrays of arrays; files in use have a depth of 1."""


_Entry = tuple[str, tuple[int, ...], int, int]
"""Name, shape, GGML type and offset of a tensor."""


class BrokenGGUF(DirectionError):
    """A file that is not GGUF, or is damaged."""


@dataclass(frozen=True, eq=False)
class GGUFFile:
    """Key-value pairs and tensors of floating point numbers."""

    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class GGUFHeader:
    """What comes before the numbers: key-value pairs, and what tensors there are."""

    metadata: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], int]]
    """Shape and GGML type of each tensor."""

    @property
    def architecture(self) -> str:
        """What the file says that it is of."""
        return str(self.metadata.get("general.architecture"))


def read_gguf_header(path: Path | str) -> GGUFHeader:
    """Reads everything but the numbers of a file of any architecture.

    Raises:
        BrokenGGUF: If it is no GGUF, damaged, or big-endian.
    """
    with _opened(path) as cursor:
        metadata, table = cursor.head()
        return GGUFHeader(metadata, {name: (shape, kind) for name, shape, kind, _ in table})


def read_gguf(path: Path | str, architecture: str) -> GGUFFile:
    """Reads the key-value pairs and tensors of a file of one architecture.

    Raises:
        BrokenGGUF: If it is not GGUF, of another architecture, damaged, big-endian, or quantised.
        StorageError: If the path is not that of a regular file, or it cannot be read.
    """
    with _opened(path) as cursor:
        return cursor.file(architecture)


@contextmanager
def _opened(path: Path | str) -> Iterator[_Cursor]:
    with open(require_file(path), "rb") as file:
        if not (head := file.read(8)).startswith(MAGIC):
            raise BrokenGGUF(
                f"{path} is not a GGUF file: it starts with {head[:4]!r}, not with b'GGUF'. Check "
                "the path."
            )
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield _Cursor(content, str(path))


class _Cursor:
    def __init__(self, content: mmap.mmap, source: str) -> None:
        self.content, self.at, self.source = content, 0, source

    def broken(self, what: str) -> BrokenGGUF:
        return BrokenGGUF(
            f"{self.source} is a damaged GGUF file: {what} (byte {self.at}). Copy or export it again."
        )

    def take(self, length: int) -> bytes:
        if length > len(self.content) - self.at:
            raise self.broken(f"it states {length} more bytes than it has")
        self.at += length
        return self.content[self.at - length : self.at]

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def count(self, code: str, smallest: int) -> int:
        """The stated number of entries of at least `smallest` bytes each."""
        n = self.number(code)
        if n * smallest > len(self.content) - self.at:
            raise self.broken(f"it states {n} entries, more than fit into it")
        return n

    def string(self) -> str:
        try:
            return self.take(self.number("Q")).decode("utf-8")
        except UnicodeDecodeError:
            raise self.broken("a name is not UTF-8") from None

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.string()
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind != _ARRAY or depth > _MAX_DEPTH:
            raise self.broken(f"a value has the unknown kind {kind}")
        inner = self.number("I")
        smallest = struct.calcsize(f"<{_SCALARS[inner]}") if inner in _SCALARS else 8
        return [self.value(inner, depth + 1) for _ in range(self.count("Q", smallest))]

    def head(self, architecture: str | None = None) -> tuple[dict[str, Any], list[_Entry]]:
        """The key-value pairs and the table of tensors, of the given architecture."""
        self.take(len(MAGIC))
        version = self.number("I")
        if version not in (2, 3):
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            known = "it is big-endian" if swapped in (2, 3) else f"its version is {version}"
            raise BrokenGGUF(
                f"{self.source} cannot be read: {known}. Little-endian versions 2 and 3 can be "
                "read. Convert it with llama.cpp's tools."
            )
        n_tensors, n_pairs = self.count("Q", 24), self.count("Q", 13)
        metadata: dict[str, Any] = {}
        for _ in range(n_pairs):
            key = self.string()
            if key in metadata:
                raise self.broken(f"the key {key!r:.80} is there twice")
            metadata[key] = self.value(self.number("I"))
        named = metadata.get("general.architecture")
        if architecture is not None and named != architecture:
            raise BrokenGGUF(
                f"{self.source} is a GGUF file of {named!r:.80}, not of {architecture!r}. "
                "Pass the file of the vector, not that of the model."
            )
        return metadata, [self.tensor_entry() for _ in range(n_tensors)]

    def file(self, architecture: str) -> GGUFFile:
        metadata, table = self.head(architecture)
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self.broken(f"its alignment is {alignment!r:.80}")
        start = -(-self.at // alignment) * alignment
        tensors: dict[str, Tensor] = {}
        for name, shape, kind, offset in table:
            if name in tensors:
                raise self.broken(f"the tensor {name!r:.80} is there twice")
            tensors[name] = self.tensor(name, shape, kind, start + offset)
        return GGUFFile(metadata, tensors)

    def tensor_entry(self) -> _Entry:
        name, n_axes = self.string(), self.count("I", 8)
        if n_axes > 4:
            raise self.broken(f"the tensor {name!r:.80} has {n_axes} axes")
        shape = tuple(self.number("Q") for _ in range(n_axes))
        return name, shape[::-1], self.number("I"), self.number("Q")  # GGUF's first axis is last

    def tensor(self, name: str, shape: tuple[int, ...], kind: int, start: int) -> Tensor:
        if kind not in _FLOATS:
            raise BrokenGGUF(
                f"The tensor {name!r:.80} of {self.source} is of GGML type {kind}, quantised or "
                "unknown. Control vectors have type 0 (F32). Export it again as F32."
            )
        dtype, n = _FLOATS[kind], math.prod(shape)
        self.at = start
        raw = self.take(n * dtype.itemsize)
        return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape) if n else torch.empty(0)


def write_gguf(
    path: Path | str,
    metadata: Mapping[str, str | int],
    tensors: Mapping[str, Float[Tensor, " d_model"]],
) -> Path:
    """Writes texts, 32-bit counts and vectors (as F32) in version 3; atomic."""
    pairs = b"".join(
        _string(key) + (_string(value, _STRING) if isinstance(value, str) else _u32(value))
        for key, value in metadata.items()
    )
    table, body = b"", b""
    for name, tensor in tensors.items():
        table += _string(name) + struct.pack("<IQIQ", 1, len(tensor), 0, len(body))
        body += tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
        body += bytes(-len(body) % ALIGNMENT)
    head = MAGIC + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + pairs + table
    return write_bytes(expanded(path), head + bytes(-len(head) % ALIGNMENT) + body)


def _string(text: str, kind: int | None = None) -> bytes:
    raw = text.encode("utf-8")
    return (b"" if kind is None else struct.pack("<I", kind)) + struct.pack("<Q", len(raw)) + raw


def _u32(number: int) -> bytes:
    return struct.pack("<II", _U32, number)
