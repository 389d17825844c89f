"""Which columns or lists of a file are the two sides, which is the prompt, and which are left over."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from steerlens.data.formats.drafts import Content, Draft, Reading, Record, is_missing, text_at
from steerlens.data.formats.text import ContrastError

PROMPTS = ("prompt", "input", "question", "instruction", "context")
"""Names of a prompt; a file may write them with other case, or with an s at the end."""
_OF_THE_PROMPT = ("system", "system_prompt", "system_message", "message", "conversation", "history",
                  "chat")  # fmt: skip
SIDES = (
    ("positive", "negative"), ("pos", "neg"), ("positives", "negatives"),
    ("positive_str", "negative_str"), ("matching", "not_matching"), ("good", "bad"),
    ("chosen", "rejected"), ("winning_output", "losing_output"), ("sentence_good", "sentence_bad"),
)  # fmt: skip


def two_sides(
    texts: Sequence[str], where: str, reading: Reading, others: Sequence[str] = ()
) -> tuple[str, str] | None:
    """The positive and the negative one of some names: those of the arguments, or well-known ones.

    Args:
        texts: Names of what holds text.
        where: The file, for messages.
        reading: The arguments `positive` and `negative`.
        others: Names of what holds none. They are taken where no texts have well-known names, so
            that the reader of a side can say what is wrong with it.

    Raises:
        ContrastError: If one of the arguments `positive` and `negative` is missing or not a name.
    """
    given = (reading.positive, reading.negative)
    if None not in given:
        for side in given:
            if side not in (*texts, *others):
                near = ", ".join(sorted(texts or others)[:60])
                raise ContrastError(f"{where} has no {side!r}. Name two of {near}.")
        return str(given[0]), str(given[1])
    if given != (None, None):
        raise ContrastError(
            f"{where}: positive={given[0]!r}, negative={given[1]!r} names one side only. Name "
            f"both, among {sorted(texts or others)[:60]}."
        )
    return _known_sides(texts) or _known_sides([*texts, *others])


def _known_sides(names: Sequence[str]) -> tuple[str, str] | None:
    for positive, negative in SIDES:
        if positive in names and negative in names:
            return positive, negative
    for name in names:
        for prefix in ("non_", "non-", "not_", "no_", "un"):
            if prefix + name in names and len(names) == 2:
                return name, prefix + name
    return None


def names_prompt(name: str) -> bool:
    """Whether a column or list with this name holds prompts.

    >>> names_prompt("Questions"), names_prompt("system")
    (True, False)
    """
    return _folded(name) in PROMPTS


def _folded(name: str) -> str:
    return name.casefold().removesuffix("s")


def own_prompt(content: Content) -> str | None:
    """The column of prompts beside `positive` and `negative`; None if there is none.

    A column `prompt` is it, whatever the others are called; then one of texts; then any other.

    Raises:
        ContrastError: If there is none of that name, and two others could be it.
    """
    if content.first("prompt") is not None:
        return "prompt"
    named = _prompt_columns(content)
    found = [name for name in named if content.has_text(name)] or named
    if len(found) > 1:
        both = " and ".join(map(repr, found))
        raise ContrastError(
            f"{content.where} has no column 'prompt', and {both} could both be the prompt. Rename the "
            "one that both sides share to 'prompt', or write a column 'prompt' that joins them."
        )
    return found[0] if found else None


def first_prompt(names: Sequence[str], sides: Collection[str]) -> str | None:
    """The first of some names that is known for prompts, exactly or up to case; None if none is."""
    free = [name for name in names if name not in sides]
    exact = [known for known in PROMPTS if known in free]
    near = [name for known in PROMPTS for name in free if _folded(name) == known]
    return next(iter(exact + near), None)


def _prompt_columns(content: Content) -> list[str]:
    """The columns with the name of a prompt in which some row has more than blanks."""
    names = dict.fromkeys(str(name) for row in content.records for name in row)
    return [
        name
        for name in names
        if names_prompt(name) and any(_says(row.get(name)) for row in content.records)
    ]


def _says(value: object) -> bool:
    blank = isinstance(value, str) and not value.strip()
    return not (blank or is_missing(value) or value in ([], {}))


def prompt_at(record: Record, column: str, row: int, content: Content) -> str:
    """The prompt of a row; "" if no row of the file has one.

    Raises:
        ContrastError: If the row has none and others have, or has something else than text there.
    """
    if not is_missing(record.get(column)):
        return text_at(record, column, row, content)
    if content.first(column) is None:
        return ""
    near = [name for name, v in record.items() if names_prompt(str(name)) and not is_missing(v)]
    hint = f" The row has {near[0]!r}: rename it if that is the prompt." if near else ""
    raise ContrastError(
        f"{content.where}, row {row}: column {column!r} is missing, and other rows have it.{hint} "
        'Write the prompt there, or "" for none, or drop that row.'
    )


def empty_prompts(content: Content, drafts: Sequence[Draft], column: str) -> list[str]:
    """A warning about rows without a prompt, if others have one and the file has no null."""
    if content.container not in ("csv", "tsv", "yaml"):
        return []
    usable = [
        (row, d) for row, d in enumerate(drafts, 1) if d.positive.strip() and d.negative.strip()
    ]
    empty = [row for row, draft in usable if not draft.prompt.strip()]
    return without_prompt(empty, len(drafts), column) if len(empty) < len(usable) else []


def without_prompt(rows: Sequence[int], total: int, column: str) -> list[str]:
    """A warning about rows whose prompt is empty; none, no warning."""
    if not rows:
        return []
    shown = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
    return [
        f"column {column!r} is empty in {len(rows)} of {total} rows ({shown}), which are read "
        "without a prompt, beside others that have one"
    ]


def left_over(content: Content, used: Iterable[str]) -> list[str]:
    """A warning about columns that sound like a part of the prompt and are none; none, no warning."""
    taken = set(used)
    asked = [name for name in _prompt_columns(content) if name not in taken]
    around = [
        name
        for name in sorted(content.columns - taken)
        if name.casefold() in _OF_THE_PROMPT or _folded(name) in _OF_THE_PROMPT
        if content.first(name) not in (None, "", [], {})
    ]
    if not asked + around:
        return []
    one = len(asked + around) == 1
    shown = ", ".join(map(repr, asked + around))
    return [
        f"column{'' if one else 's'} {shown} {'is' if one else 'are'} kept in meta and not part of any "
        "text; if the model should read it, write it into the prompt"
    ]
