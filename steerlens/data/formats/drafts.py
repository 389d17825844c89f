"""The results of reading a file: drafts of pairs, and counts of its rows."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from steerlens.data.formats.text import ContrastError, digest, require_length, statement_key

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Content:
    """A file whose container was read and whose format is not known yet."""

    where: str
    """Path or hub name, for messages."""
    container: str
    """json, jsonl, csv, tsv, parquet, yaml, python literal, text or hub."""
    value: Any
    """Records (list of mappings), a mapping, a list of texts, or lines of a table."""

    @cached_property
    def records(self) -> list[Record]:
        """The rows if this is a table, else an empty list."""
        rows = self.value
        return rows if _all_of(rows, Mapping) else []

    @cached_property
    def columns(self) -> frozenset[str]:
        """Names of all columns that some row has."""
        return frozenset(str(name) for row in self.records for name in row)

    def first(self, column: str) -> Any:
        """The first value in a column that is not missing; None if there is none."""
        return next((v for r in self.records if not is_missing(v := r.get(column))), None)

    def has_text(self, column: str, *, numbers: bool = False) -> bool:
        """Whether some row has text in a column, or a number, which is read as text."""
        kinds = (str, int, float) if numbers else str
        values = (row.get(column) for row in self.records)
        return any(
            isinstance(v, kinds) and not isinstance(v, bool) and not is_missing(v) for v in values
        )

    @cached_property
    def texts(self) -> list[str]:
        """The items if this is a list of texts, else an empty list."""
        return self.value if _all_of(self.value, str) else []


def _all_of(value: object, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(x, kind) for x in value)


@dataclass(frozen=True)
class Reading:
    """The arguments of `ContrastSet.load` that formats use."""

    template: str | None = None
    min_confidence: float | None = None
    positive: str | None = None
    negative: str | None = None
    prompt: str | None = None
    negatives: Content | None = None
    paired: bool | None = None
    concept: str | int | None = None
    personas: tuple[str, str] | None = None
    seed: int = 0


class Draft(NamedTuple):
    """A pair of a file before it is validated."""

    prompt: str
    positive: str
    negative: str
    group: str = ""
    meta: Mapping[str, str] = {}


@dataclass(frozen=True)
class FileFacts:
    """Counts of a file before rows were dropped."""

    format: str
    """Name of the format, as `ContrastSet.load(format=…)` takes it."""
    rows: int
    labels: tuple[tuple[str, int], ...] = ()
    """Matching answers or class labels as written, with their number of rows, most frequent first."""
    duplicate_rows: int = 0
    duplicate_keys: int = 0
    """Rows minus distinct values of the main text column."""
    two_label_keys: int = 0
    """Distinct main texts that occur with different labels or answers."""
    blank_fields: int = 0
    non_ascii_rows: int = 0
    dropped: tuple[tuple[str, int], ...] = ()
    """Reasons, and the number of rows or texts left out for each."""
    remarks: tuple[str, ...] = ()
    """Warnings about the file."""


class Drafted(NamedTuple):
    """The drafts of a file in one format."""

    drafts: list[Draft]
    facts: FileFacts
    paired: bool = True
    notes: tuple[str, ...] = ()
    name: str = ""
    """The name that the file states; "" if it states none."""
    header: Mapping[str, Any] = {}
    """The first line of a saved set."""


def is_missing(value: object) -> bool:
    """Whether a cell holds nothing: null, or what data frames write for it (NaN, NA, NaT).

    >>> is_missing(None), is_missing(float("nan")), is_missing("")
    (True, True, False)
    """
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def text_at(record: Record, column: str, row: int, content: Content) -> str:
    """The text in a column of a row (counted from 1); a number is converted to text.

    Raises:
        ContrastError: If the row lacks the column or has another type there.
    """
    value = record.get(column)
    cell = f"{content.where}, row {row}: column {column!r}"
    if is_missing(value):
        raise ContrastError(f"{cell} is missing, but text is needed. Repair or drop that row.")
    if isinstance(value, list) and value and (words := _words_of_turns(value)):
        turns = f"{len(value)} turn{'s' if len(value) > 1 else ''}"
        raise ContrastError(
            f"{cell} is a conversation ({turns}), but text is needed. Write the text of its last turn "
            f"there (row[{column!r}][-1][{words!r}]); earlier turns, if there are any, belong as text "
            "into the prompt."
        )
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise ContrastError(
            f"{cell} is a {type(value).__name__}, but text is needed: {value!r:.80}. Write one text "
            "there. Repair or drop that row."
        )
    return require_length(str(value), cell)


def _words_of_turns(value: list) -> str:
    """The key of the text in each turn, if a list is a conversation; else ""."""
    for speaker, words in (("role", "content"), ("from", "value")):
        if all(isinstance(turn, Mapping) and {speaker, words} <= set(turn) for turn in value):
            return words
    return ""


def numbered(content: Content) -> Iterable[tuple[int, Record]]:
    """The rows of a table with their numbers, from 1."""
    return enumerate(content.records, start=1)


def other_columns(record: Record, used: Iterable[str]) -> dict[str, str]:
    """The columns that are not part of the pair, as text, for `ContrastPair.meta`."""
    skip = set(used)
    rest = {str(k): v for k, v in record.items() if k not in skip and not is_missing(v)}
    return {
        k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False, default=str)
        for k, v in rest.items()
    }


def leaves(value: object) -> Iterable[str]:
    """All texts in a nested value, without the keys of mappings."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            stack.extend(item.values())
        elif isinstance(item, (list, tuple)):
            stack.extend(item)


def count_rows(
    format: str,
    rows: Sequence[object],
    key: Callable[[Any], str],
    label: Callable[[Any], str] | None = None,
    *,
    outcome: Callable[[Any], str] | None = None,
    dropped: Mapping[str, int] | None = None,
    remarks: Iterable[str] = (),
) -> FileFacts:
    """Counts duplicates, labels, blank fields and non-ASCII rows of a file.

    Args:
        format: Name of the format.
        rows: Raw rows.
        key: Main text of a row.
        label: Label or answer of a row, counted for balance.
        outcome: What rows with equal keys must have in common; by default the label.
        dropped: Number of rows left out, by reason.
        remarks: Warnings of the format.
    """
    keys = [key(row) for row in rows]
    labels = [label(row) for row in rows] if label else []
    outcomes = [outcome(row) for row in rows] if outcome else labels
    found: dict[str, set[str]] = {}
    for text, out in zip(keys, outcomes, strict=False):
        found.setdefault(text, set()).add(out)
    whole = {json.dumps(row, sort_keys=True, default=str) for row in rows}
    texts = [list(leaves(row)) for row in rows]
    return FileFacts(
        format=format,
        rows=len(rows),
        labels=tuple(Counter(labels).most_common()),
        duplicate_rows=len(rows) - len(whole),
        duplicate_keys=len(rows) - len(set(keys)),
        two_label_keys=sum(len(outs) > 1 for outs in found.values()),
        blank_fields=sum(not text.strip() for row in texts for text in row),
        non_ascii_rows=sum(any(not text.isascii() for text in row) for row in texts),
        dropped=tuple((why, n) for why, n in (dropped or {}).items() if n),
        remarks=tuple(remarks),
    )


def by_digest(texts: Sequence[str], purpose: str, seed: int) -> list[int]:
    """Indices of texts in a shuffled order that does not depend on their order in the file."""
    seen: Counter[str] = Counter()
    ranks = []
    for text in texts:
        ranks.append(digest(purpose, seed, text, seen[text]))
        seen[text] += 1
    return sorted(range(len(texts)), key=ranks.__getitem__)


class Text(NamedTuple):
    """One text of a class, with its other columns."""

    text: str
    meta: Mapping[str, str] = {}


def match_classes(
    positives: Sequence[Text], negatives: Sequence[Text], seed: int
) -> tuple[list[Draft], dict[str, int]]:
    """Matches the texts of two unpaired classes: first statements with their own negations.

    Texts in both classes are left out, and so is the surplus of the larger class.

    Returns:
        Drafts with an empty prompt, and the number of texts left out, by reason.
    """
    for text in (*positives, *negatives):
        require_length(text.text, "A text of the file")
    both = {t.text for t in positives} & {t.text for t in negatives}
    sides = []
    dropped: dict[str, int] = {"empty": 0, "texts with both labels": 0}
    for side in (positives, negatives):
        kept = [t for t in side if t.text.strip() and t.text not in both]
        dropped["empty"] += sum(not t.text.strip() for t in side)
        dropped["texts with both labels"] += sum(
            t.text in both and bool(t.text.strip()) for t in side
        )
        sides.append([kept[i] for i in by_digest([t.text for t in kept], "match", seed)])
    waiting: dict[str, list[Text]] = {}
    for text in sides[1]:
        waiting.setdefault(statement_key(text.text), []).append(text)
    matched: list[tuple[Text, Text]] = []
    single = []
    for text in sides[0]:
        twins = waiting.get(statement_key(text.text))
        if twins:
            matched.append((text, twins.pop(0)))
        else:
            single.append(text)
    free = {id(t) for group in waiting.values() for t in group}
    matched += zip(single, [t for t in sides[1] if id(t) in free], strict=False)
    for kind, side in zip(("positives", "negatives"), sides, strict=True):
        dropped[f"surplus {kind}"] = len(side) - len(matched)
    return [Draft("", p.text, n.text, meta=_two_metas(p.meta, n.meta)) for p, n in matched], dropped


def _two_metas(positive: Mapping[str, str], negative: Mapping[str, str]) -> dict[str, str]:
    return {f"positive_{k}": v for k, v in positive.items()} | {
        f"negative_{k}": v for k, v in negative.items()
    }
