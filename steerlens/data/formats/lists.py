"""Lists of texts: two classes by key or by file, word lists, suffixes for personas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from steerlens.data.formats import pairs
from steerlens.data.formats.drafts import (
    Content,
    Draft,
    Drafted,
    Reading,
    Text,
    count_rows,
    is_missing,
    match_classes,
    text_at,
)
from steerlens.data.formats.sides import (
    PROMPTS,
    names_prompt,
    own_prompt,
    two_sides,
    without_prompt,
)
from steerlens.data.formats.text import ContrastError, chat_markers, normalised, spaced


def is_lists(content: Content) -> bool:
    """An object with lists of texts by key."""
    value = content.value
    return isinstance(value, Mapping) and any(
        isinstance(v, list) and v and all(isinstance(x, str) for x in v) for v in value.values()
    )


def read_lists(content: Content, reading: Reading) -> Drafted:
    """The texts of one key against those of another.

    They are unpaired and matched at random, unless `paired=True` pairs them by position. With a
    third list `prompts` they are true pairs with those prompts. With a list called prompt, question,
    input, instruction or context as long as both sides, they are the columns of a table of pairs.
    """
    named = {str(k): v for k, v in content.value.items() if isinstance(v, list)}
    lists = {k: v for k, v in named.items() if all(isinstance(x, str) for x in v)}
    table = None if reading.paired is False else _as_table(named, content, reading)
    if table is not None:
        return table
    sides = two_sides([k for k in lists if k != "prompts"], content.where, reading,
                      [k for k in named if k not in lists])  # fmt: skip
    if sides is None:
        raise ContrastError(_which(lists, content.where))
    read = (*sides, "prompts") if reading.paired is not False and "prompts" in named else sides
    for name in read:
        items = enumerate(named[name], start=1)
        lists[name] = [text_at({name: item}, name, row, content) for row, item in items]
    positives, negatives = lists[sides[0]], lists[sides[1]]
    prompts = lists.get("prompts")
    paired = reading.paired if reading.paired is not None else prompts is not None
    texts = [(side, text) for side in sides for text in lists[side]]
    unused = [k for k in named if k not in sides and not (k == "prompts" and paired and prompts)]
    if reading.positive is not None:
        unused = [k for k in unused if names_prompt(k)]
    unused = [k for k in unused if names_prompt(k) or _as_long(k, sides, named)]
    notes = _notes(content, {k: len(named[k]) for k in unused})
    return _two_classes(
        content, reading, "lists", texts, positives, negatives, prompts if paired else None, paired,
        notes=notes,
    )  # fmt: skip


def _as_long(name: str, sides: Sequence[str], lists: Mapping[str, list]) -> bool:
    """Whether a list has an item for each text of both sides."""
    return all(len(lists[name]) == len(lists[side]) for side in sides)


def _notes(content: Content, unused: Mapping[str, int]) -> tuple[str, ...]:
    """What the file states beside its lists, and which lists of what length were not used."""
    stated = [
        f"{key} in the file: {value}"
        for key, value in content.value.items()
        if isinstance(value, (str, int, float))
    ]
    shown = ", ".join(f"{name!r} ({length})" for name, length in unused.items())
    return (*stated, *([f"lists in the file that are not used: {shown}"] if unused else ()))


def _as_table(named: Mapping[str, list], content: Content, reading: Reading) -> Drafted | None:
    """The lists as columns of pairs, if one as long as both sides holds their prompts; else None."""
    given = {reading.positive, reading.negative}
    free = [name for name in named if name in given or not names_prompt(name)]
    texts = [name for name in free if any(isinstance(x, str) for x in named[name])]
    sides = two_sides(texts, content.where, reading, [n for n in free if n not in texts])
    if sides is None:
        return None
    columns = {name: items for name, items in named.items() if _as_long(name, sides, named)}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    body = replace(content, value=rows)
    asked = [n for n in columns if names_prompt(n) and n != "prompts" and n not in sides]
    if not any(body.first(name) is not None for name in asked):
        if "prompts" not in named:
            _require_no_other_length(named, sides, content.where)
        return None
    remarks: list[str] = []
    if sides == ("positive", "negative"):
        prompted = own_prompt(body) or "prompt"
        empty = [row for row, r in enumerate(rows, start=1) if is_missing(r.get(prompted))]
        for row in empty:
            rows[row - 1][prompted] = ""
        remarks = without_prompt(empty, len(rows), prompted)
        drafted = pairs.read_pairs(body, reading)
    else:
        drafted = pairs.read_columns(body, replace(reading, positive=sides[0], negative=sides[1]))
    notes = _notes(content, {k: len(v) for k, v in named.items() if k not in columns})
    facts = replace(drafted.facts, format="lists", remarks=(*remarks, *drafted.facts.remarks))
    return drafted._replace(facts=facts, notes=(*drafted.notes, *notes))


def _require_no_other_length(named: Mapping[str, list], sides: tuple[str, str], where: str) -> None:
    """Raises ContrastError for a column of prompts that is not as long as the two sides.

    The name of a column is singular. A list `questions` of any length may be there for something else.
    """
    for name, items in named.items():
        if name in sides or name.casefold() not in PROMPTS or _as_long(name, sides, named):
            continue
        if all(map(is_missing, items)):
            continue
        shown = ", ".join(f"{column!r} ({len(named[column])})" for column in (name, *sides))
        raise ContrastError(
            f"{where} has columns of unequal lengths: {shown}. So it is open which prompt belongs to "
            "which answers. Make them equally long, or remove the prompts, or pass paired=False to "
            "match the sides at random without prompts."
        )


def _which(lists: Mapping[str, list[str]], where: str) -> str:
    """Why lists with these names cannot be read without arguments, and what to write."""
    names = sorted(lists)
    shown = ", ".join(f"{name} ({len(lists[name])})" for name in names[:60])
    text = f"{where} has {len(lists)} lists with {sum(map(len, lists.values()))} texts: {shown}. "
    if all(name.isdigit() for name in names):
        return text + (
            "The keys are numbers, so they do not say which texts are positive. Write two lists, "
            'e.g. {"positive": […], "negative": […]}, and load those.'
        )
    twins = [n for n in names if n.startswith("positive") and "negative" + n[8:] in lists]
    positive = twins[0] if twins else names[0]
    negative = "negative" + positive[8:] if twins else names[-1]
    return text + (
        f"Their names do not say which two to contrast. Name them, e.g. positive={positive!r}, "
        f"negative={negative!r}."
    )


def _two_classes(
    content: Content,
    reading: Reading,
    name: str,
    rows: list[tuple[str, str]],
    positives: Sequence[str],
    negatives: Sequence[str],
    prompts: Sequence[str] | None,
    paired: bool,
    notes: tuple[str, ...] = (),
) -> Drafted:
    dropped: dict[str, int] = {}
    if paired:
        lengths = [len(positives), len(negatives)] + ([len(prompts)] if prompts else [])
        if len(set(lengths)) > 1:
            raise ContrastError(
                f"{content.where}: lists that are paired by position must have equal lengths, and "
                f"these have lengths {lengths}. Make them equal, or load with paired=False."
            )
        drafts = [
            Draft(prompt, spaced(prompt, p), spaced(prompt, n))
            for prompt, p, n in zip(
                prompts or [""] * len(positives), positives, negatives, strict=True
            )
        ]
    else:
        drafts, dropped = match_classes(
            [Text(t) for t in positives], [Text(t) for t in negatives], reading.seed
        )
        if not drafts:
            raise ContrastError(
                f"{content.where}: no two different texts are left to match ({dropped}). Check "
                "that each class has texts that the other does not have."
            )
    facts = count_rows(name, rows, lambda r: r[1], lambda r: r[0], dropped=Counter(dropped))
    return Drafted(drafts, facts, paired=paired, notes=notes)


def is_texts(content: Content) -> bool:
    """A list of texts, or lines."""
    return bool(content.texts)


def read_texts(content: Content, reading: Reading) -> Drafted:
    """One class per file (with `negatives=`), or suffixes for two personas.

    With `personas=(positive, negative)` and a `template` that contains `{persona}` and `{suffix}`,
    each suffix gives a pair of whole texts (repeng's layout); suffixes are never stripped.
    """
    texts = content.texts
    if reading.personas is not None:
        return _personas(content, reading)
    if reading.negatives is None:
        marked = sum(bool(chat_markers(t)) for t in texts)
        baked = f" {marked} of them have a chat template baked in." if marked else ""
        raise ContrastError(
            f"{content.where} is one list of {len(texts)} texts, and a contrast needs two sides."
            f"{baked} If it is one class, pass the other: negatives='other file'. If the texts are "
            "suffixes for personas (repeng), pass personas=('very calm', 'very cross') and "
            "template='[INST] Act as if you are {persona}. [/INST] {suffix}'."
        )
    others = reading.negatives.texts
    if not others:
        raise ContrastError(
            f"{reading.negatives.where} is not a list of texts like {content.where}. Give a file "
            "of the same kind."
        )
    rows = [("positive", t) for t in texts] + [("negative", t) for t in others]
    return _two_classes(
        content, reading, "texts", rows, texts, others, None, bool(reading.paired),
        notes=(f"negatives from {reading.negatives.where}",),
    )  # fmt: skip


def _personas(content: Content, reading: Reading) -> Drafted:
    template = reading.template
    personas = reading.personas
    if (
        not isinstance(personas, list | tuple)
        or len(personas) != 2
        or not all(isinstance(persona, str) for persona in personas)
    ):
        raise ContrastError(
            f"personas={personas!r:.80} must be two texts, positive first. Write e.g. "
            "personas=('very calm', 'very cross')."
        )
    if template is None or "{persona}" not in template or "{suffix}" not in template:
        raise ContrastError(
            f"template={template!r} must contain {{persona}} and {{suffix}}, e.g. "
            "'[INST] Act as if you are {persona}. [/INST] {suffix}'."
        )
    drafts = []
    for suffix in content.texts:
        if chat_markers(template) and (present := chat_markers(suffix)):
            raise ContrastError(
                f"{content.where}: the text {suffix[:40]!r} already has chat markers "
                f"({', '.join(present)}), and the template would add others around them. Use a "
                "template or a list without markers."
            )
        positive, negative = (
            template.replace("{persona}", persona).replace("{suffix}", suffix)
            for persona in personas
        )
        drafts.append(
            Draft("", positive, negative, f"suffix: {normalised(suffix)}", {"suffix": suffix})
        )
    facts = count_rows("texts", content.texts, lambda text: text)
    return Drafted(drafts, facts, notes=(f"personas {personas}, template {template!r}",))


def is_traits(content: Content) -> bool:
    """A persona-vector trait file."""
    value = content.value
    if content.records and len(content.records) == 1:
        value = content.records[0]
    return isinstance(value, Mapping) and {"instruction", "questions"} <= set(value)


def read_traits(content: Content, reading: Reading) -> Drafted:
    """Two opposite system prompts, each with every question.

    The texts are prompts: generate answers to them and read those. Pairs are grouped by question;
    all parts of a split share the instructions.
    """
    value = content.records[0] if content.records else content.value
    instructions, questions = value["instruction"], value["questions"]
    shape_ok = (
        isinstance(instructions, list)
        and isinstance(questions, list)
        and all(isinstance(q, str) for q in questions)
        and all(
            isinstance(i, Mapping)
            and isinstance(i.get("pos"), str)
            and isinstance(i.get("neg"), str)
            for i in instructions
        )
    )
    if not shape_ok or not instructions or not questions:
        raise ContrastError(
            f"{content.where}: a trait file needs 'instruction': [{{'pos': …, 'neg': …}}, …] and "
            "'questions': ['…', …], both with at least one entry."
        )
    drafts = [
        Draft(
            "",
            f"{i['pos']}\n\n{question}",
            f"{i['neg']}\n\n{question}",
            f"question: {normalised(question)}",
            {"question": question, "positive_system": i["pos"], "negative_system": i["neg"]},
        )
        for i in instructions
        for question in questions
    ]
    rows = [(i["pos"], i["neg"], q) for i in instructions for q in questions]
    facts = count_rows(
        "traits", rows, lambda r: r[2], outcome=lambda _: "",
        remarks=("both sides are prompts; generate answers to them, then read the answers",),
    )  # fmt: skip
    return Drafted(drafts, facts)
