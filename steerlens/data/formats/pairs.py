"""Rows that are pairs already: two named columns, saved sets, tuples."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from steerlens.data.formats.drafts import (
    Content,
    Draft,
    Drafted,
    FileFacts,
    Reading,
    count_rows,
    numbered,
    other_columns,
    text_at,
)
from steerlens.data.formats.lists import two_sides
from steerlens.data.formats.relations import read_mapping
from steerlens.data.formats.text import GROUP_SEPARATOR, ContrastError, normalised, spaced


def is_saved(content: Content) -> bool:
    """A set written by `ContrastSet.save`."""
    return bool(content.records) and "steerlens" in content.records[0]


def read_saved(content: Content, reading: Reading) -> Drafted:
    """The pairs as they were; the header says name, source and notes."""
    header, *rows = content.records
    if header.get("steerlens") != "contrast-set 1":
        raise ContrastError(
            f"{content.where} says it is {header.get('steerlens')!r}; this version reads "
            "'contrast-set 1'. Update steerlens, or remove the first line to load bare pairs."
        )
    body = content._replace(value=rows)
    if not rows:
        raise ContrastError(f"{content.where} has a header and no pairs. Save the set again.")
    drafts = [_as_written(record, row, body) for row, record in enumerate(rows, start=1)]
    told = header.get("facts")
    facts = _facts(told, content) if told is not None else _count("saved", rows)
    return Drafted(drafts, facts, paired=header.get("paired") is not False, header=header)


_COUNTS = (
    "rows",
    "duplicate_rows",
    "duplicate_keys",
    "two_label_keys",
    "blank_fields",
    "non_ascii_rows",
)


def _facts(told: Any, content: Content) -> FileFacts:
    try:
        counts = {name: int(told[name]) for name in _COUNTS}
        return FileFacts(
            format=str(told["format"]),
            labels=tuple((str(k), int(n)) for k, n in told["labels"]),
            dropped=tuple((str(k), int(n)) for k, n in told["dropped"]),
            remarks=tuple(map(str, told["remarks"])),
            **counts,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ContrastError(
            f"{content.where}: the header's 'facts' are damaged ({error!r}). Remove 'facts' from "
            "the first line."
        ) from error


def _as_written(record: Mapping, row: int, content: Content) -> Draft:
    meta = record.get("meta", {})
    if not isinstance(meta, Mapping) or not all(isinstance(v, str) for v in meta.values()):
        raise ContrastError(
            f"{content.where}, row {row}: meta={meta!r} must map names to texts. Write numbers as "
            "text."
        )
    return Draft(
        text_at(record, "prompt", row, content) if "prompt" in record else "",
        text_at(record, "positive", row, content),
        text_at(record, "negative", row, content),
        text_at(record, "group", row, content) if "group" in record else "",
        {str(k): v for k, v in meta.items()}
        | other_columns(record, ("prompt", "positive", "negative", "group", "meta")),
    )


def _count(name: str, rows: list) -> FileFacts:
    return count_rows(
        name, rows, lambda r: str(r.get("prompt") or r.get("positive")), outcome=lambda _: ""
    )


def is_pairs(content: Content) -> bool:
    """Columns positive and negative, and perhaps prompt, group and meta."""
    first = content.records[0] if content.records else {}
    return isinstance(first.get("positive"), str) and isinstance(first.get("negative"), str)


def read_pairs(content: Content, reading: Reading) -> Drafted:
    """Our own layout without a header: texts are taken exactly as they are."""
    drafts = [_as_written(record, row, content) for row, record in numbered(content)]
    return Drafted(drafts, _count("pairs", content.records))


_PREFIXES = ("clean_prefix", "patch_prefix", "clean_answer", "patch_answer")


def is_feature_circuits(content: Content) -> bool:
    """Clean and patch prefixes with their answers."""
    return set(_PREFIXES) <= content.columns


def read_feature_circuits(content: Content, reading: Reading) -> Drafted:
    """Clean prefix, then the clean answer against the patch answer (Marks, arXiv:2403.19647).

    "Positive" is thus the answer that fits the prefix. To contrast the prefixes themselves, name
    them: `positive='clean_prefix', negative='patch_prefix'`.
    """
    drafts = []
    for row, record in numbered(content):
        clean, patch, good, bad = (text_at(record, c, row, content) for c in _PREFIXES)
        group = GROUP_SEPARATOR.join(sorted({normalised(clean), normalised(patch)}))
        meta = other_columns(record, ("clean_prefix", "clean_answer", "patch_answer"))
        drafts.append(Draft(clean, spaced(clean, good), spaced(clean, bad), group, meta))
    facts = count_rows(
        "feature-circuits",
        content.records,
        lambda r: str(r["clean_prefix"]),
        lambda r: str(r.get("case")),
    )
    return Drafted(drafts, facts)


def is_instruction(content: Content) -> bool:
    """A prompt with and without one instruction."""
    return {"prompt", "prompt_without_instruction"} <= content.columns


def read_instruction(content: Content, reading: Reading) -> Drafted:
    """The prompt with its instruction against the same without (Stolfo, arXiv:2410.12877)."""
    drafts = []
    not_prefix = 0
    for row, record in numbered(content):
        full = text_at(record, "prompt", row, content)
        base = text_at(record, "prompt_without_instruction", row, content)
        not_prefix += not full.startswith(base.rstrip(" ."))
        meta = other_columns(record, ("prompt", "prompt_without_instruction"))
        drafts.append(Draft("", full, base, normalised(base), meta))
    remarks = ["both sides are prompts: generate answers to them, then read the answers"]
    if not_prefix:
        remarks.append(f"in {not_prefix} rows the bare prompt is not how the full one starts")
    facts = count_rows("instruction", content.records, lambda r: str(r["prompt"]), remarks=remarks)
    return Drafted(drafts, facts)


def is_tuples(content: Content) -> bool:
    """A list of two texts per row (steering-vectors)."""
    rows = content.value
    return (
        isinstance(rows, list)
        and bool(rows)
        and content.container != "tsv"
        and all(
            isinstance(r, list) and len(r) == 2 and all(isinstance(x, str) for x in r) for r in rows
        )
    )


def read_tuples(content: Content, reading: Reading) -> Drafted:
    """(positive, negative) whole texts."""
    drafts = [Draft("", positive, negative) for positive, negative in content.value]
    facts = count_rows("tuples", content.value, lambda r: r[0], outcome=lambda _: "")
    return Drafted(drafts, facts)


_PROMPTS = ("prompt", "input", "question", "instruction")


def is_columns(content: Content) -> bool:
    """Any other table: two columns are named, or have well-known names."""
    return bool(content.records)


def read_columns(content: Content, reading: Reading) -> Drafted:
    """Two named columns of each row; `prompt=` names a shared one.

    Known names (chosen/rejected, winning_output/losing_output, sentence_good/sentence_bad,
    positive_str/negative_str, …) need no naming. With `prompt=` and `positive=` alone, the negative
    is another row's output, as for relations.
    """
    first = content.records[0]
    names = [str(k) for k, v in first.items() if isinstance(v, str)]
    if reading.prompt is not None and reading.prompt not in names:
        raise ContrastError(f"{content.where} has no text column {reading.prompt!r}, only {names}.")
    if reading.prompt and reading.positive in names and reading.negative is None:
        return read_mapping(content, reading, reading.prompt, str(reading.positive))
    if reading.template is not None and "{}" in reading.template:
        raise ContrastError(
            f"template={reading.template!r}: {{}} stands for the input of a relation; these rows "
            "are pairs. Write {prompt}, and {answer} where the continuation goes."
        )
    sides = two_sides(names, content.where, reading)
    if sides is None:
        pair = (names * 2)[:2]
        raise ContrastError(
            f"{content.where} has {len(content.records)} rows with the columns "
            f"{sorted(content.columns)}, which are no known format, and the names do not say which "
            f"is positive. Name two, e.g. positive={pair[0] if pair else 'a'!r}, "
            f"negative={pair[1] if pair else 'b'!r} (and prompt=… for a shared one), or "
            "prompt=… and positive=… for inputs with outputs."
        )
    prompt_column = reading.prompt
    if prompt_column is None:
        prompt_column = next((c for c in _PROMPTS if c in names and c not in sides), None)
    drafts = []
    for row, record in numbered(content):
        prompt = text_at(record, prompt_column, row, content) if prompt_column else ""
        positive, negative = (text_at(record, side, row, content) for side in sides)
        meta = other_columns(record, (prompt_column or "", *sides))
        drafts.append(Draft(prompt, spaced(prompt, positive), spaced(prompt, negative), meta=meta))
    facts = count_rows(
        "columns",
        content.records,
        lambda r: str(r.get(prompt_column or sides[0])),
        outcome=lambda r: (
            json.dumps([r.get(side) for side in sides], default=str) if prompt_column else ""
        ),
        remarks=[f"positive is column {sides[0]!r}, negative is {sides[1]!r}"],
    )
    return Drafted(drafts, facts, notes=(f"columns {sides[0]!r} against {sides[1]!r}",))


def count_unusable(drafts: list[Draft]) -> tuple[list[Draft], Counter[str]]:
    """The drafts that can be pairs, and why the others cannot."""
    dropped: Counter[str] = Counter()
    kept = []
    for draft in drafts:
        if not draft.positive.strip() or not draft.negative.strip():
            dropped["with an empty side"] += 1
        elif draft.positive == draft.negative:
            dropped["with equal sides"] += 1
        else:
            kept.append(draft)
    return kept, dropped
