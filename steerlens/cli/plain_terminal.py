"""Printing to a terminal whose encoding lacks some of the characters (ASCII, cp1252, gbk)."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper

INSTEAD = str.maketrans({
    "−": "-", "–": "-", "—": "-", "…": "...", "×": "x", "·": ".", "≤": "<=", "≥": ">=", "→": "->",
    "²": "^2", "±": "+-", "†": "+", "‖": "||", "“": '"', "”": '"', "‘": "'", "’": "'",
})  # fmt: skip
"""What is written for a character that is not there: a lost minus sign would change a number."""
HANDLER = "steerlens.plain"


@contextmanager
def any_encoding() -> Iterator[None]:
    """Prints what is nearest to a character that the terminal lacks, or "?"; does not end there."""
    codecs.register_error(HANDLER, _nearest)
    streams = [s for s in (sys.stdout, sys.stderr) if isinstance(s, TextIOWrapper)]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors=HANDLER)
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            stream.reconfigure(errors=errors)


def _nearest(error: UnicodeError) -> tuple[str, int]:
    """The characters that could not be encoded, as near as ASCII has them."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end].translate(INSTEAD)
    return "".join(letter if letter.isascii() else "?" for letter in lost), error.end
