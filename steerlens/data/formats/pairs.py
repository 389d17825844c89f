"""Formats whose rows are pairs: two named columns, saved sets, tuples."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from steerlens.data.formats.drafts import (
    Content,
    Draft,
    Drafted,
    FileFacts,
    Reading,
    count_rows,
    is_missing,
    numbered,
    other_columns,
    text_at,
)
from steerlens.data.formats.relations import read_mapping
from steerlens.data.formats.sides import (
    SIDES,
    empty_prompts,
    first_prompt,
    left_over,
    own_prompt,
    prompt_at,
    two_sides,
)
from steerlens.data.formats.text import GROUP_SEPARATOR, ContrastError, normalised, spaced


def is_saved(content: Content) -> bool:
    """A set written by `ContrastSet.save`."""
    return bool(content.records) and "steerlens" in content.records[0]


def read_saved(content: Content, reading: Reading) -> Drafted:
    """The pairs without change; the header states name, source and notes."""
    header, *rows = content.records
    if header.get("steerlens") != "contrast-set 1":
        raise ContrastError(
            f"{content.where} states the format {header.get('steerlens')!r:.80}; this version "
            "reads 'contrast-set 1'. Update steerlens, or remove the first line to load the pairs "
            "alone."
        )
    body = replace(content, value=rows)
    if not rows:
        raise ContrastError(f"{content.where} has a header and no pairs. Save the set again.")
    drafts = [_as_written(record, row, body) for row, record in enumerate(rows, start=1)]
    stated = header.get("facts")
    facts = _facts(stated, content) if stated is not None else _count("saved", rows)
    return Drafted(drafts, facts, paired=header.get("paired") is not False, header=header)


_COUNTS = (
    "rows",
    "duplicate_rows",
    "duplicate_keys",
    "two_label_keys",
    "blank_fields",
    "non_ascii_rows",
)


def _facts(stated: Any, content: Content) -> FileFacts:
    try:
        counts = {name: int(stated[name]) for name in _COUNTS}
        return FileFacts(
            format=str(stated["format"]),
            labels=tuple((str(k), int(n)) for k, n in stated["labels"]),
            dropped=tuple((str(k), int(n)) for k, n in stated["dropped"]),
            remarks=tuple(map(str, stated["remarks"])),
            **counts,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ContrastError(
            f"{content.where}: the header's 'facts' are damaged ({error!r}). Remove 'facts' from "
            "the first line."
        ) from error


def _as_written(record: Mapping, row: int, content: Content, prompted: str = "prompt") -> Draft:
    meta = record.get("meta", {})
    if not isinstance(meta, Mapping) or not all(isinstance(v, str) for v in meta.values()):
        raise ContrastError(
            f"{content.where}, row {row}: meta={meta!r:.80} must map names to texts. Write numbers "
            "as text."
        )
    group = "" if is_missing(record.get("group")) else text_at(record, "group", row, content)
    return Draft(
        prompt_at(record, prompted, row, content),
        text_at(record, "positive", row, content),
        text_at(record, "negative", row, content),
        group,
        {str(k): v for k, v in meta.items()}
        | other_columns(record, (prompted, "positive", "negative", "group", "meta")),
    )


def _count(
    name: str, rows: list, prompted: str = "prompt", remarks: Iterable[str] = ()
) -> FileFacts:
    return count_rows(
        name,
        rows,
        lambda r: str(r.get(prompted) or r.get("positive")),
        outcome=lambda _: "",
        remarks=remarks,
    )


def is_pairs(content: Content) -> bool:
    """Columns positive and negative, and perhaps prompt (or question, input, …), group and meta.

    Two columns of numbers are the sides unless texts have other well-known names of sides.
    """
    sides = ("positive", "negative")
    if any(map(content.has_text, sides)):
        return all(content.has_text(side, numbers=True) for side in sides)
    texts = any(all(map(content.has_text, known)) for known in SIDES)
    return not texts and all(content.has_text(side, numbers=True) for side in sides)


def read_pairs(content: Content, reading: Reading) -> Drafted:
    """The layout of steerlens without a header: texts are not changed.

    Without a column `prompt`, one called question, input, instruction or context is it.
    """
    prompted = own_prompt(content) or "prompt"
    drafts = [_as_written(record, row, content, prompted) for row, record in numbered(content)]
    remarks = empty_prompts(content, drafts, prompted)
    remarks += left_over(content, (prompted, "positive", "negative"))
    notes = () if prompted == "prompt" else (f"the prompt is column {prompted!r}",)
    return Drafted(drafts, _count("pairs", content.records, prompted, remarks), notes=notes)


_PREFIXES = ("clean_prefix", "patch_prefix", "clean_answer", "patch_answer")


def is_feature_circuits(content: Content) -> bool:
    """Clean and patch prefixes with their answers."""
    return set(_PREFIXES) <= content.columns


def read_feature_circuits(content: Content, reading: Reading) -> Drafted:
    """Clean prefix, then the clean answer against the patch answer (Marks, arXiv:2403.19647).

    The positive side is the answer that fits the prefix. To contrast the prefixes themselves, name
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
    """The prompt with its instruction against the prompt without it (Stolfo, arXiv:2410.12877)."""
    drafts = []
    not_prefix = 0
    for row, record in numbered(content):
        full = text_at(record, "prompt", row, content)
        base = text_at(record, "prompt_without_instruction", row, content)
        not_prefix += not full.startswith(base.rstrip(" ."))
        meta = other_columns(record, ("prompt", "prompt_without_instruction"))
        drafts.append(Draft("", full, base, normalised(base), meta))
    remarks = ["both sides are prompts; generate answers to them, then read the answers"]
    if not_prefix:
        remarks.append(f"in {not_prefix} rows the full prompt does not start with the bare one")
    facts = count_rows("instruction", content.records, lambda r: str(r["prompt"]), remarks=remarks)
    return Drafted(drafts, facts)


def is_tuples(content: Content) -> bool:
    """Rows of two texts each (steering-vectors)."""
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
    """Whole texts (positive, negative)."""
    drafts = [Draft("", positive, negative) for positive, negative in content.value]
    facts = count_rows("tuples", content.value, lambda r: r[0], outcome=lambda _: "")
    return Drafted(drafts, facts)


def is_columns(content: Content) -> bool:
    """Any other table: its two columns are named by arguments, or have well-known names."""
    return bool(content.records)


def read_columns(content: Content, reading: Reading) -> Drafted:
    """Two named columns of each row; `prompt=` names a shared one.

    Known names (chosen/rejected, winning_output/losing_output, sentence_good/sentence_bad,
    positive_str/negative_str, …) are found without arguments. With `prompt=` and `positive=` alone,
    the negative is another row's output, as for relations.
    """
    order = dict.fromkeys(str(name) for row in content.records for name in row)
    filled = [name for name in order if content.first(name) is not None]
    names = [name for name in filled if content.has_text(name)]
    if reading.prompt is not None and reading.prompt not in filled:
        raise ContrastError(
            f"{content.where} has no text column {reading.prompt!r}. Name one of {names}."
        )
    if reading.prompt and reading.positive in filled and reading.negative is None:
        return read_mapping(content, reading, reading.prompt, str(reading.positive))
    if reading.template is not None and "{}" in reading.template:
        raise ContrastError(
            f"template={reading.template!r}: {{}} stands for the input of a relation, but these "
            "rows are pairs. Write {prompt}, and {answer} for the continuation."
        )
    sides = two_sides(names, content.where, reading, [n for n in filled if n not in names])
    if sides is None:
        rows = f"{len(content.records)} rows with the columns {sorted(content.columns)}"
        if len(names) < 2:
            delimited = "; check the delimiter" if content.container in ("csv", "tsv") else ""
            raise ContrastError(
                f"{content.where} has no known format: of its {rows} {len(names)} hold text, and a "
                f"pair needs two texts. Add a column for the other side{delimited}."
            )
        raise ContrastError(
            f"{content.where} has {rows}, which are not those of a known format, and their names "
            f"do not say which one is positive. Name two, e.g. positive={names[0]!r}, "
            f"negative={names[1]!r} (and prompt=… for a shared one), or "
            "prompt=… and positive=… for inputs with outputs."
        )
    prompt_column = reading.prompt
    if prompt_column is None:
        own = "prompt" in filled and "prompt" not in sides
        prompt_column = (
            "prompt" if own else first_prompt(names, sides) or first_prompt(filled, sides)
        )
    drafts = []
    for row, record in numbered(content):
        prompt = prompt_at(record, prompt_column, row, content) if prompt_column else ""
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
        remarks=[
            f"positive is column {sides[0]!r}, negative is {sides[1]!r}",
            *(empty_prompts(content, drafts, prompt_column) if prompt_column else ()),
            *left_over(content, (prompt_column or "", *sides)),
        ],
    )
    return Drafted(drafts, facts, notes=(f"columns {sides[0]!r} against {sides[1]!r}",))


def count_unusable(drafts: list[Draft]) -> tuple[list[Draft], Counter[str]]:
    """The drafts that can be pairs, and the reasons why others cannot, counted."""
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
