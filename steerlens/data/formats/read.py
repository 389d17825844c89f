"""Bytes to tables: containers are recognised by content, and nothing that is read can run code."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from steerlens.data.formats.drafts import Content
from steerlens.data.formats.tables import known_delimiter, likely_delimiter, read_table
from steerlens.data.formats.text import ContrastError
from steerlens.store.files import StorageError, read_bytes, require_file

MAX_BYTES = 1 << 29
"""Bytes of the largest file that is read, and of the largest table that parquet unpacks to."""
_LITERAL_LIMIT = 2_000_000  # characters; Python's own parser needs a lot of memory beyond
_YAML_LIMIT = 5_000_000  # characters, which take about a second
_DEEPEST = 30
_PARQUET_ROWS = 256  # rows that are unpacked at a time
_DOCUMENTS = {"readme", "license", "licence", "copying", "notice", "changelog", "formats"}
_REFUSED_MAGIC = (
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"PK\x03\x04", "a zip archive (or a PyTorch, Excel or NumPy file)"),
    (b"\xd0\xcf\x11\xe0", "an Office document of before 2007"),
    (b"\x1f\x8b", "gzip data"),
    (b"\x28\xb5\x2f\xfd", "zstandard data"),
    (b"\xfd7zXZ", "xz data"),
    (b"BZh", "bzip2 data"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"SQLite format 3", "a database"),
    (b"%PDF", "a PDF document"),
    (b"ARROW1", "an Arrow file"),
)
_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def read_content(path: Path | str, encoding: str | None = None) -> Content:
    """Reads a file into records, a mapping, a list of texts or a table of lines.

    Raises:
        ContrastError: If the file is missing, no regular file, empty, too large, not text in that
            encoding, a document, or a container that could run code.
    """
    local = Path(os.path.expanduser(path))
    where, suffix, stem = str(local), local.suffix.lower(), local.stem
    raw = _bytes(local)
    if not raw.strip():
        raise ContrastError(f"{where} is empty ({len(raw)} bytes). Check that it was written.")
    if raw[:4] == b"PAR1":
        return _shallow(Content(where, "parquet", _parquet(raw, where)))
    text = _decoded(raw, where, encoding)
    return _shallow(parse_text(text, where, suffix, stem))


def _bytes(local: Path) -> bytes:
    """The content of a regular file that is not too large."""
    where = str(local)
    if os.path.isdir(local):
        try:
            files = sorted(p.name for p in local.iterdir())[:8]
        except OSError:
            files = []
        raise ContrastError(f"{where} is a folder. Load one of its files, e.g. {files}.")
    try:
        size = require_file(local).stat().st_size
        if size > MAX_BYTES:
            raise ContrastError(
                f"{where} has {size >> 20} MiB, and at most {MAX_BYTES >> 20} MiB are read. Load "
                "the part of it that you use: a few thousand pairs are enough for a direction."
            )
        return read_bytes(local)
    except FileNotFoundError as error:
        broken = os.path.lexists(local)
        what = "is a link to nothing" if broken else f"does not exist (looked in {Path.cwd()})"
        raise ContrastError(f"The file {where!r} {what}. Check the path.") from error
    except StorageError as error:
        raise ContrastError(str(error)) from error


def _shallow(content: Content) -> Content:
    """The content, if it is not nested deeper than the data of any format."""
    level, depth = [content.value], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise ContrastError(
                f"{content.where} is nested more than {_DEEPEST} levels deep, deeper than any known "
                "format. Flatten it."
            )
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list))
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, (dict, list))
        ]
    return content


def _decoded(raw: bytes, where: str, encoding: str | None) -> str:
    for magic, kind in _REFUSED_MAGIC:
        if raw.startswith(magic):
            raise ContrastError(
                f"{where} is {kind}, which is not read: such files can run code or need unpacking. "
                "Save the pairs as .jsonl with prompt, positive and negative."
            )
    mark = next((name for bom, name in _BYTE_ORDER_MARKS if raw.startswith(bom)), None)
    if mark is not None and encoding is None:
        raise ContrastError(
            f"{where} starts with a {mark.upper()} byte order mark. Pass encoding={mark!r}, or save "
            "the file as UTF-8."
        )
    if encoding is None and (wide := _wide_encoding(raw)):
        raise ContrastError(
            f"{where} has a NUL at every second byte, as UTF-16 has. Pass encoding={wide!r}, or "
            "save the file as UTF-8."
        )
    try:
        text = raw.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        raise ContrastError(
            f"{where} is not {encoding or 'UTF-8'}: byte {raw[error.start]:#04x} at offset "
            f"{error.start} ({error.reason}). Pass its encoding, e.g. encoding='cp1252' "
            "or 'latin-1', or save it as UTF-8."
        ) from error
    except (LookupError, ValueError, TypeError) as error:
        raise ContrastError(
            f"encoding={encoding!r:.80} is unknown to Python. Write e.g. 'utf-8', 'cp1252', "
            "'utf-16'."
        ) from error
    if "\x00" in text:
        raise ContrastError(_about_nul(text, where))
    return text.removeprefix("\ufeff")


def _wide_encoding(raw: bytes) -> str | None:
    """The kind of UTF-16 that bytes without a byte order mark have, if most are ASCII in it."""
    even, odd = raw[:4096:2], raw[1:4096:2]
    zeros = [part.count(0) / max(len(part), 1) for part in (even, odd)]
    if max(zeros) < 0.4 or min(zeros) > 0.05:
        return None
    return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"


def _about_nul(text: str, where: str) -> str:
    """What a NUL character in a text means, and how the text can be read all the same."""
    at = text.index("\x00")
    found = f"{where} has a NUL character at position {at}"
    strange = sum(c < " " and c not in "\t\n\r\x00" for c in text[:10_000])
    if strange or text.count("\x00") > len(text) / 10:
        return f"{found}, so it is binary, not text. Save the pairs as .jsonl, .json, .csv or .parquet."
    return (
        f"{found} (line {text.count(chr(10), 0, at) + 1}), which no text has. Remove it: "
        "path.write_bytes(path.read_bytes().replace(bytes(1), b''))."
    )


def parse_text(text: str, where: str, suffix: str = "", stem: str = "") -> Content:
    """Text to a container, recognised by its content; suffix and stem decide only what is open.

    Raises:
        ContrastError: If it starts like a container but is broken, or is a document.
    """
    if stem.casefold() in _DOCUMENTS or suffix in {".md", ".rst", ".html", ".htm"}:
        raise ContrastError(
            f"{where} is a document (a readme, licence or page), not data. "
            "Load the data file beside it."
        )
    if not text.strip():
        raise ContrastError(f"{where} holds only blanks. Check that it was written.")
    start = text.lstrip()[:1]
    if start in {"[", "{"} and suffix not in {".csv", ".tsv", ".yaml", ".yml"}:
        return _json_like(text, where)
    if suffix in {".json", ".jsonl"}:
        raise ContrastError(
            f"{where} starts with {text.lstrip()[:20]!r}, not with a JSON list or object. "
            "Rename it to the suffix of its content, or repair it."
        )
    if suffix in {".yaml", ".yml"} or _looks_like_yaml(text):
        return Content(where, "yaml", _yaml(text, where))
    delimiter = known_delimiter(text)
    if delimiter is None and suffix == ".csv":
        delimiter = likely_delimiter(text)
    if suffix == ".csv" or delimiter is not None:
        kind = "tsv" if delimiter == "\t" else "csv"
        return Content(where, kind, read_table(text, where, delimiter or ","))
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    cells = [line.split("\t") for line in lines if line.strip()]
    if len(cells[0]) > 1 and len({len(row) for row in cells}) == 1:
        if suffix == ".tsv" and not all(re.match(r"\s*[-+]?[\d.]", row[1]) for row in cells):
            return Content(where, "tsv", read_table(text, where, "\t"))
        return Content(where, "tsv", cells)
    if lines[-1] == "":
        lines.pop()
    return Content(where, "text", lines)


def _json_like(text: str, where: str) -> Content:
    try:
        return Content(where, "json", json.loads(text))
    except json.JSONDecodeError as error:
        whole = error
    except (RecursionError, ValueError) as error:
        raise ContrastError(
            f"{where} is JSON that cannot be read: {error}. Flatten it, or write long numbers as "
            "text."
        ) from error
    lines = [(i, line) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]
    rows = []
    for number, line in lines:
        try:
            rows.append(json.loads(line))
        except (RecursionError, ValueError) as error:
            if rows:  # at least one line was JSON of its own, so this is broken JSONL
                raise ContrastError(
                    f"{where}, line {number}: not JSON ({error}). Repair or drop that line."
                ) from error
            break
    if rows and len(rows) == len(lines):
        return Content(where, "jsonl", rows)
    if len(text) <= _LITERAL_LIMIT:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about odd escapes in the file
                value = ast.literal_eval(text.strip())  # literals only: no names, no calls
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = None
        if isinstance(value, (list, tuple, dict)) and value:
            return Content(where, "python literal", _plain(value, where))
    raise ContrastError(
        f"{where} starts like JSON but is broken at line {whole.lineno}, column {whole.colno}: "
        f"{whole.msg}. Repair it there."
    ) from whole


def _plain(value: Any, where: str) -> Any:
    """Python literals with the types that JSON has: lists, and mappings with text keys."""
    if isinstance(value, dict):
        return {str(_plain(k, where)): _plain(v, where) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, where) for v in value]
    if isinstance(value, (str, float, bool, type(None))):
        return value
    if isinstance(value, int) and value.bit_length() < 1000:
        return value
    raise ContrastError(
        f"{where} is a Python literal with a {type(value).__name__} that JSON does not have. Write "
        "it as text."
    )


def _looks_like_yaml(text: str) -> bool:
    for line in _lines(text):
        if line.strip() and not line.lstrip().startswith("#") and line.strip() != "---":
            return re.match(r"[A-Za-z_][\w-]*:(?:\s*$|\s+[\[#])", line) is not None
    return False


def _lines(text: str) -> Iterator[str]:
    """The lines one by one, so that the first is known without splitting a long text."""
    start = 0
    while start <= len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end + 1


def _yaml(text: str, where: str) -> Any:
    if len(text) > _YAML_LIMIT:
        raise ContrastError(
            f"{where} has {len(text)} characters of YAML, and at most {_YAML_LIMIT} are read. "
            "Save it as JSON."
        )
    # This loader makes only text, lists and mappings: no tags, and `no` stays "no".
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise ContrastError(
                    f"{where} uses YAML aliases (*name), which can grow without bound and are not "
                    "read. Write the lists out."
                )
            if depth > _DEEPEST:
                raise ContrastError(
                    f"{where} is nested more than {_DEEPEST} levels deep, deeper than any known "
                    "format. Flatten it."
                )
        return yaml.load(text, Loader=loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, ContrastError):
            raise
        raise ContrastError(f"{where} is not readable YAML: {error}. Repair it there.") from error


def _parquet(raw: bytes, where: str) -> list[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ContrastError(
            f"{where} is parquet, which needs pyarrow (comes with datasets): pip install pyarrow."
        ) from error
    rows: list[dict[str, Any]] = []
    size = 0
    try:
        # Some bytes of parquet can stand for gigabytes, so it is unpacked bit by bit.
        for batch in pyarrow.parquet.ParquetFile(io.BytesIO(raw)).iter_batches(_PARQUET_ROWS):
            size += batch.nbytes
            if size > MAX_BYTES:
                raise ContrastError(
                    f"{where} unpacks to more than {MAX_BYTES >> 20} MiB. Load the part of it that "
                    "you use."
                )
            rows += batch.to_pylist()
    except ContrastError:
        raise
    except Exception as error:  # damaged parquet raises whatever its bytes lead to
        raise ContrastError(f"{where} is broken parquet: {error}. Download it again.") from error
    return rows
