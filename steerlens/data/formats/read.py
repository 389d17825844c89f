"""Bytes to tables: containers are told apart by content, and nothing that is read can run code."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

import yaml

from steerlens.data.formats.drafts import Content
from steerlens.data.formats.text import ContrastError

_LITERAL_LIMIT = 2_000_000  # characters; Python's own parser needs a lot of memory beyond
_DEEPEST = 30
_DOCUMENTS = {"readme", "license", "licence", "copying", "notice", "changelog", "formats"}
_REFUSED_MAGIC = (
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"PK\x03\x04", "a zip archive (or a PyTorch, Excel or NumPy file)"),
    (b"\x1f\x8b", "gzip data"),
    (b"\x28\xb5\x2f\xfd", "zstandard data"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"ARROW1", "an Arrow file"),
)


def read_content(path: Path, encoding: str | None = None) -> Content:
    """Reads a file into records, a mapping, a list of texts or a table of lines.

    Raises:
        ContrastError: If the file is missing, empty, not text in that encoding, a document, or a
            container that could run code.
    """
    where = str(path)
    if path.is_dir():
        files = sorted(p.name for p in path.iterdir())[:8]
        raise ContrastError(f"{where} is a folder. Load one of its files, e.g. {files}.")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ContrastError(
            f"Cannot read {where}: {error.strerror or error}. Check the path and its permissions."
        ) from error
    if not raw.strip():
        raise ContrastError(f"{where} is empty ({len(raw)} bytes). There is nothing to load.")
    if raw[:4] == b"PAR1":
        return _shallow(Content(where, "parquet", _parquet(raw, where)))
    text = _decoded(raw, where, encoding)
    return _shallow(parse_text(text, where, path.suffix.lower(), path.stem))


def _shallow(content: Content) -> Content:
    """The content, if it is nested no deeper than data of any format."""
    level, depth = [content.value], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise ContrastError(
                f"{content.where} is nested more than {_DEEPEST} levels deep, and no format is. "
                "Flatten it."
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
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) and encoding is None:
        raise ContrastError(
            f"{where} starts with a UTF-16 byte order mark. Say encoding='utf-16', or save it as "
            "UTF-8."
        )
    try:
        text = raw.decode(encoding or "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ContrastError(
            f"{where} is not {encoding or 'UTF-8'}: byte {raw[error.start]:#04x} at offset "
            f"{error.start} ({error.reason}). Say which encoding it has, e.g. encoding='cp1252' "
            "or 'latin-1', or save it as UTF-8."
        ) from error
    except LookupError as error:
        raise ContrastError(
            f"encoding={encoding!r} is unknown to Python. Write e.g. 'utf-8', 'cp1252', 'utf-16'."
        ) from error
    if "\x00" in text:
        raise ContrastError(
            f"{where} has a NUL character at position {text.index(chr(0))}, so it is binary and no "
            "text of a known format. Save the pairs as .jsonl, .json, .csv or .parquet."
        )
    return text


def parse_text(text: str, where: str, suffix: str = "", stem: str = "") -> Content:
    """Text to a container, by its content; suffix and stem only break ties.

    Raises:
        ContrastError: If it looks like one container but is broken, or is a document.
    """
    if stem.casefold() in _DOCUMENTS or suffix in {".md", ".rst", ".html", ".htm"}:
        raise ContrastError(
            f"{where} is a document (a readme, licence or page), not data. "
            "Load the data file beside it."
        )
    if not text.strip():
        raise ContrastError(f"{where} holds only blanks. There is nothing to load.")
    start = text.lstrip()[:1]
    if start in {"[", "{"} and suffix not in {".csv", ".tsv", ".yaml", ".yml"}:
        return _json_like(text, where)
    if suffix in {".json", ".jsonl"}:
        raise ContrastError(
            f"{where} starts with {text.lstrip()[:20]!r}, which is no JSON list or object. "
            "Give it the suffix of what it is, or repair it."
        )
    if suffix in {".yaml", ".yml"} or _looks_like_yaml(text):
        return Content(where, "yaml", _yaml(text, where))
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    header = lines[0]
    if suffix == ".csv" or (suffix != ".tsv" and _known_header(header, ",")):
        return Content(where, "csv", _table(text, where, ","))
    if _known_header(header, "\t"):
        return Content(where, "tsv", _table(text, where, "\t"))
    cells = [line.split("\t") for line in lines if line.strip()]
    if len(cells[0]) > 1 and len({len(row) for row in cells}) == 1:
        return Content(where, "tsv", cells)
    if lines[-1] == "":
        lines.pop()
    return Content(where, "text", lines)


_HEADERS = (
    {"statement", "label"},
    {"text", "label"},
    {"sentence", "label"},
    {"question", "matching"},
    {"question", "best answer"},
    {"question", "answer_matching_behavior"},
    {"positive", "negative"},
    {"sentence_good", "sentence_bad"},
    {"prompt", "chosen"},
    {"input", "output"},
)


def _known_header(line: str, delimiter: str) -> bool:
    cells = {cell.strip().strip('"').casefold() for cell in line.split(delimiter)}
    return any(known <= cells for known in _HEADERS)


def _json_like(text: str, where: str) -> Content:
    try:
        return Content(where, "json", _json(text))
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
            rows.append(_json(line))
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
                warnings.simplefilter("ignore")  # of odd escapes in a text that is not ours
                value = ast.literal_eval(text.strip())  # literals only: no names, no calls
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = None
        if isinstance(value, (list, tuple, dict)) and value:
            return Content(where, "python literal", _plain(value, where))
    raise ContrastError(
        f"{where} looks like JSON but is broken at line {whole.lineno}, column {whole.colno}: "
        f"{whole.msg}. Repair it there."
    ) from whole


def _json(text: str) -> Any:
    return json.loads(text)


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
    for line in text.split("\n"):
        if line.strip() and not line.lstrip().startswith("#") and line.strip() != "---":
            return re.match(r"[A-Za-z_][\w-]*:(?:\s*$|\s+[\[#])", line) is not None
    return False


def _yaml(text: str, where: str) -> Any:
    try:
        # BaseLoader makes only text, lists and mappings: no tags, and `no` stays "no".
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ContrastError(
                f"{where} uses YAML aliases (*name), which can grow without bound and are not "
                "read. Write the lists out."
            )
        return yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ContrastError(f"{where} is no readable YAML: {error}. Repair it there.") from error


def _table(text: str, where: str, delimiter: str) -> list[dict[str, str]]:
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise ContrastError(
            f"{where} is no readable table: {error}. Check quotes and delimiter; a quote inside a "
            'quoted field is written "".'
        ) from error
    rows = [row for row in rows if row]
    header, body = rows[0], rows[1:]
    if len(set(header)) != len(header):
        raise ContrastError(f"{where} has the columns {header}: two of one name. Rename one.")
    if not body:
        raise ContrastError(f"{where} has a header {header} and no rows.")
    for number, row in enumerate(body, start=1):
        if len(row) != len(header):
            raise ContrastError(
                f"{where}, row {number}: {len(row)} fields where the header has {len(header)} "
                f"({header}). Quote fields that hold {delimiter!r} or line breaks."
            )
    return [dict(zip(header, row, strict=True)) for row in body]


def _parquet(raw: bytes, where: str) -> list[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ContrastError(
            f"{where} is parquet, which needs pyarrow (comes with datasets): pip install pyarrow."
        ) from error
    try:
        table = pyarrow.parquet.read_table(io.BytesIO(raw))
        return table.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        raise ContrastError(f"{where} is broken parquet: {error}. Fetch it again.") from error
