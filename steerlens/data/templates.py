"""Prompts put into templates: one of the user's, or the tokenizer's own chat template."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import replace

from steerlens.data.formats.chat import CHAT_DATE, ChatTokenizer, HasTokenizer, chat_prompt
from steerlens.data.formats.text import (
    GROUP_SEPARATOR,
    ContrastError,
    chat_markers,
    shortened,
    spaced,
)
from steerlens.data.pair import ContrastPair

CHAT_NOTE = "chat template of the tokenizer"
"""How the note of a set starts whose prompts are in a chat template."""


def is_in_chat(notes: Iterable[str]) -> bool:
    """Whether the notes of a set, or of one that was merged into it, state a chat template.

    >>> is_in_chat(["one.json: chat template of the tokenizer; no BOS in the text"])
    True
    """
    return any(note.startswith(CHAT_NOTE) or f": {CHAT_NOTE}" in note for note in notes)


def in_template(pairs: Sequence[ContrastPair], template: str, name: str) -> list[ContrastPair]:
    """The pairs with every prompt put into a template; see `ContrastSet.with_template`."""
    before, answer_mark, after = template.partition("{answer}")
    if template.count("{prompt}") > 1 or template.count("{answer}") > 1 or "{prompt}" in after:
        raise ContrastError(
            f"template={template!r} must have {{prompt}} at most once and before {{answer}}; "
            "e.g. 'Question: {prompt}\\nAnswer:'."
        )
    if "{prompt}" not in before and any(p.prompt for p in pairs):
        raise ContrastError(
            f"template={template!r} has no {{prompt}}, so the prompts of {name!r} would "
            "be lost. Write e.g. 'Question: {prompt}\\nAnswer:'."
        )
    _refuse_second_template(template, (p.prompt or p.positive for p in pairs))
    if answer_mark and before.endswith(" "):
        before = before[:-1]  # tokenizers expect the space at the start of the answer

    def put(pair: ContrastPair) -> ContrastPair:
        prompt = before.replace("{prompt}", pair.prompt)
        return replace(
            pair,
            prompt=prompt,
            positive=spaced(prompt, pair.positive) + after,
            negative=spaced(prompt, pair.negative) + after,
            group=GROUP_SEPARATOR.join(pair.keys),
        )

    return [put(pair) for pair in pairs]


def in_chat(
    pairs: Sequence[ContrastPair],
    tokenizer: ChatTokenizer | HasTokenizer,
    system: str | None,
    date: datetime.date = CHAT_DATE,
) -> tuple[list[ContrastPair], str]:
    """The pairs in the tokenizer's chat template, and a note; see `ContrastSet.with_chat`."""
    made = []
    has_bos = dated = False
    for pair in pairs:
        chat = chat_prompt(tokenizer, pair.prompt, system, date=date)
        has_bos = has_bos or chat.has_bos
        dated = dated or chat.dated
        made.append(
            replace(
                pair,
                prompt=chat.text,
                positive=chat.lead + pair.positive.lstrip(" "),
                negative=chat.lead + pair.negative.lstrip(" "),
                group=GROUP_SEPARATOR.join(pair.keys),
            )
        )
    bos = "BOS is in the text: tokenize without adding one" if has_bos else "no BOS in the text"
    day = f"; the date that the template writes is fixed to {date.isoformat()}" if dated else ""
    return made, f"{CHAT_NOTE}; {bos}{day}"


def _refuse_second_template(template: str, texts: Iterable[str]) -> None:
    if not chat_markers(template):
        return
    for text in texts:
        if present := chat_markers(text):
            raise ContrastError(
                f"The prompt {shortened(text)!r} already has chat markers ({', '.join(present)}), "
                f"and the template {template!r} would add others. Omit the template, or remove "
                "the markers from the data first."
            )
