"""Tables with a delimiter: commas, tabs, and the semicolons of European spreadsheets."""

from __future__ import annotations

import csv
import io

from steerlens.data.formats.text import LONGEST, ContrastError

_DELIMITERS = (",", ";", "\t", "|")
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SAMPLE = 50  # rows that are looked at for the delimiter
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


def known_delimiter(text: str) -> str | None:
    """The delimiter with which the first line is the header of a known format, if there is one."""
    line = _without_hint(text)[0].lstrip("\r\n").split("\n", 1)[0].rstrip("\r")[:LONGEST]
    for delimiter in _DELIMITERS:
        cells = {cell.strip().strip('"').casefold() for cell in line.split(delimiter)}
        if any(known <= cells for known in _HEADERS):
            return delimiter
    return None


def likely_delimiter(text: str) -> str:
    """The delimiter that gives every row as many fields as the header, at least two."""
    body, hint = _without_hint(text)
    if hint is not None:
        return hint
    for delimiter in _DELIMITERS:
        widths = set()
        try:
            reader = csv.reader(io.StringIO(body, newline=""), delimiter=delimiter, strict=True)
            for row, _ in zip(reader, range(_SAMPLE), strict=False):
                widths |= {len(row)} if row else set()
        except csv.Error:
            continue
        if len(widths) == 1 and min(widths) > 1:
            return delimiter
    return ","


def read_table(text: str, where: str, delimiter: str) -> list[dict[str, str]]:
    """The rows of a table by the names in its header.

    Raises:
        ContrastError: If the quotes are broken, a row has more or fewer fields than the header, two
            columns have one name, or there are no rows.
    """
    body, _ = _without_hint(text)
    try:
        rows = list(csv.reader(io.StringIO(body, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise ContrastError(
            f"{where} is not a readable table: {error}. Check quotes and delimiter "
            f'({_NAMES[delimiter]}); a quote inside a quoted field is written "".'
        ) from error
    rows = [row for row in rows if row]
    if not rows:
        raise ContrastError(f"{where} has no header and no rows. Check that it was written.")
    header, body_rows = [name.strip() for name in rows[0]], rows[1:]
    if len(set(header)) != len(header):
        raise ContrastError(f"{where} has the columns {header}: two of one name. Rename one.")
    if not body_rows:
        raise ContrastError(f"{where} has a header {header} and no rows. Add the rows.")
    for number, row in enumerate(body_rows, start=1):
        if len(row) != len(header):
            raise ContrastError(
                f"{where}, row {number}: {len(row)} fields where the header has {len(header)} "
                f"({header}). The delimiter is {delimiter!r} ({_NAMES[delimiter]}): put quotes "
                "around fields that hold it or line breaks."
            )
    return [dict(zip(header, row, strict=True)) for row in body_rows]


def _without_hint(text: str) -> tuple[str, str | None]:
    """The text without the line `sep=;` that spreadsheets put first, and its delimiter."""
    first, _, rest = text.partition("\n")
    hint = first.rstrip("\r")
    if len(hint) == 5 and hint.startswith("sep=") and hint[4] in _DELIMITERS:
        return rest, hint[4]
    return text, None
