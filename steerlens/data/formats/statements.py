"""Labelled texts of two unpaired classes: true and false statements, AxBench outputs, lexicons."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

from steerlens.data.formats.drafts import (
    Content,
    Drafted,
    Reading,
    Text,
    count_rows,
    is_missing,
    match_classes,
    numbered,
    other_columns,
    text_at,
)
from steerlens.data.formats.text import ContrastError

TEXT_COLUMNS = ("statement", "text", "sentence")
_POSITIVE = {"true", "yes", "positive", "pos", "matching"}
_NEGATIVE = {"false", "no", "negative", "neg", "not_matching"}


def _text_column(content: Content) -> str | None:
    return next((c for c in TEXT_COLUMNS if c in content.columns), None)


def is_labelled(content: Content) -> bool:
    """A text column and a label column."""
    return "label" in content.columns and _text_column(content) is not None


def read_labelled(content: Content, reading: Reading) -> Drafted:
    """Texts with label 1 against texts with label 0, matched at random (geometry of truth layout).

    Labels are read as numbers (`1`, `1.0`) or as true/false, yes/no, positive/negative; other
    labels are named by `positive=` and `negative=`. A one-class file needs `negatives=`.
    """
    classes: dict[str, list[Text]] = {"positive": [], "negative": []}
    dropped: Counter[str] = Counter()
    contents = [content] + ([reading.negatives] if reading.negatives else [])
    for part in contents:
        column = _text_column(part)
        if not is_labelled(part) or column is None:
            raise ContrastError(
                f"{part.where} has the columns {sorted(part.columns)}, but a second file for "
                f"{content.where} needs a text ({', '.join(TEXT_COLUMNS)}) and a label. Rename its "
                "columns."
            )
        for row, record in numbered(part):
            label = record.get("label")
            side = _side(label, reading, row, part)
            if side is None:
                dropped["without one of the two labels"] += 1
                continue
            meta = other_columns(record, (column,))
            classes[side].append(Text(text_at(record, column, row, part), meta))
    found = Counter(str(r.get("label")) for part in contents for r in part.records)
    if not classes["positive"] or not classes["negative"]:
        raise ContrastError(
            f"{content.where} has {sum(found.values())} rows of a single class (labels "
            f"{dict(found.most_common(5))}), and a contrast needs two. Pass the file of the other "
            "class: "
            "ContrastSet.load(path, negatives='other.csv')."
        )
    drafts, left_out = match_classes(classes["positive"], classes["negative"], reading.seed)
    records = [r for part in contents for r in part.records]
    column = _text_column(content) or ""
    facts = count_rows(
        "labelled",
        records,
        lambda r: str(r.get(column)),
        lambda r: str(r.get("label")),
        dropped=dropped + Counter(left_out),
    )
    if facts.two_label_keys:
        remark = f"{facts.two_label_keys} texts occur with both labels and are left out"
        facts = replace(facts, remarks=(remark,))
    return Drafted(drafts, facts, paired=False)


def _side(label: object, reading: Reading, row: int, content: Content) -> str | None:
    text = str(label).strip()
    if reading.positive is not None or reading.negative is not None:
        if text == reading.positive:
            return "positive"
        others = reading.negative is None or text == reading.negative
        return "negative" if others and reading.positive is not None else None
    if not text or is_missing(label) or text.casefold() == "nan":
        return None
    if text.casefold() in _POSITIVE:
        return "positive"
    if text.casefold() in _NEGATIVE:
        return "negative"
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if number in (0.0, 1.0):
        return "positive" if number else "negative"
    values = sorted({str(r.get("label")) for r in content.records})[:10]
    raise ContrastError(
        f"{content.where}, row {row}: label {label!r:.80} is neither 1/0, true/false, yes/no nor "
        f"positive/negative. Name two of the labels: positive='…', negative='…' among {values}."
    )


AXBENCH = {"input", "output", "output_concept", "category", "concept_id"}


def is_axbench(content: Content) -> bool:
    """AxBench outputs, labelled by concept."""
    return content.columns >= AXBENCH


def read_axbench(content: Content, reading: Reading) -> Drafted:
    """Outputs that express one concept against outputs that do not (Wu et al., arXiv:2501.17148).

    In training files all concepts share their negatives (concept_id -1): those of the concept's
    genre are used. In evaluation files a negative has the id of its concept; hard negatives are
    left out. Inputs differ between the classes, so the sets are unpaired: texts are the outputs,
    inputs are kept as metadata.
    """
    records = content.records
    expressing = [r for r in records if r.get("category") == "positive"]
    ids = {str(r.get("concept_id")): str(r.get("output_concept")) for r in expressing}
    wanted = None if reading.concept is None else str(reading.concept)
    chosen = wanted if wanted in ids else next((k for k, v in ids.items() if v == wanted), None)
    if chosen is None and wanted is None and len(ids) == 1:
        chosen = next(iter(ids))
    if chosen is None:
        listed = "; ".join(f"{k}: {v[:50]}" for k, v in sorted(ids.items())[:20])
        found = "several concepts" if wanted is None else f"no concept {wanted!r:.80}"
        raise ContrastError(
            f"{content.where} has {len(records)} rows and {found}. Pass concept=<id>; there are "
            f"{listed}."
        )
    genres = {str(r.get("concept_genre")) for r in expressing if str(r.get("concept_id")) == chosen}
    classes: dict[str, list[Text]] = {"positive": [], "negative": []}
    dropped: Counter[str] = Counter()
    cut = 0
    for row, record in numbered(content):
        category = str(record.get("category"))
        own = str(record.get("concept_id")) == chosen
        shared = str(record.get("concept_id")) == "-1"
        if category == "hard negative" and own:
            dropped["hard negatives"] += 1
        elif (own and category in classes) or (
            shared and category == "negative" and str(record.get("concept_genre")) in genres
        ):
            output = text_at(record, "output", row, content)
            cut += output.rstrip()[-1:] not in {".", "!", "?", '"', "”", ")", "`", "*"}
            classes[category].append(Text(output, other_columns(record, ("output",))))
        else:
            dropped["of other concepts or genres"] += 1
    if not classes["negative"]:
        raise ContrastError(
            f"{content.where} has no negatives for concept {chosen} (genres {sorted(genres)}). "
            "Load the file that also holds the shared negatives."
        )
    drafts, left_out = match_classes(classes["positive"], classes["negative"], reading.seed)
    remarks = [f"{cut} outputs end in mid-sentence, cut at a maximal length"] if cut else []
    facts = count_rows(
        "axbench",
        records,
        lambda r: str(r.get("input")),
        lambda r: str(r.get("category")),
        outcome=lambda _: "",
        dropped=dropped + Counter(left_out),
        remarks=remarks,
    )
    note = f"concept {chosen}: {ids[chosen]}"
    return Drafted(drafts, facts, paired=False, notes=(note,))


def is_axbench_metadata(content: Content) -> bool:
    """The names of AxBench concepts."""
    return {"concept_id", "concept"} <= content.columns and "output" not in content.columns


def read_axbench_metadata(content: Content, reading: Reading) -> Drafted:
    """Refused: it holds names, not texts."""
    raise ContrastError(
        f"{content.where} names {len(content.records)} concepts and holds no texts. Load "
        "train_data.parquet beside it with concept=<concept_id>."
    )


def is_lexicon(content: Content) -> bool:
    """A table without header whose second column is a number: a token and its mean valence."""
    rows = content.value
    return (
        content.container == "tsv"
        and isinstance(rows[0], list)
        and all(_number(row[1]) is not None for row in rows)
    )


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def read_lexicon(content: Content, reading: Reading) -> Drafted:
    """Tokens with a positive mean against tokens with a negative one (VADER layout).

    Tokens are not changed (case, blanks, emoticons). Use `with_template` to put them into
    sentences; `min_confidence` leaves out tokens with a smaller absolute mean.
    """
    threshold = reading.min_confidence or 0.0
    classes: dict[bool, list[Text]] = {True: [], False: []}
    dropped: Counter[str] = Counter()
    means: dict[str, set[str]] = {}
    for row in content.value:
        mean = _number(row[1]) or 0.0
        means.setdefault(row[0], set()).add(row[1])
        if mean == 0.0 or abs(mean) < threshold:
            dropped["neutral or weak tokens"] += 1
        else:
            classes[mean > 0].append(Text(row[0], {"mean": row[1]}))
    if not classes[True] or not classes[False]:
        raise ContrastError(
            f"{content.where} has {len(classes[True])} positive and {len(classes[False])} negative "
            "tokens left, and a contrast needs both. Lower min_confidence."
        )
    drafts, left_out = match_classes(classes[True], classes[False], reading.seed)
    twice = sum(len(found) > 1 for found in means.values())
    remarks = [f"{twice} tokens occur twice with different means"] if twice else []
    blank = sum(" " in row[0] for row in content.value)
    if blank:
        remarks.append(f"{blank} entries contain a blank")
    facts = count_rows(
        "lexicon",
        content.value,
        lambda row: row[0],
        lambda row: "positive" if (_number(row[1]) or 0.0) > 0 else "negative",
        outcome=lambda row: row[1],
        dropped=dropped + Counter(left_out),
        remarks=remarks,
    )
    return Drafted(drafts, facts, paired=False)
