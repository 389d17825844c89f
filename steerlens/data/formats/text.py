"""Rules about text that every format shares: keys, spaces, letters, chat markers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from hashlib import sha256

GROUP_SEPARATOR = "\x1f"
"""Separates the keys of a group that names several things (ASCII unit separator)."""
LONGEST = 131_072
"""Characters of the longest text that is read: about 30,000 tokens of English."""


class ContrastError(ValueError):
    """Contrast data that cannot be used as they are; the message says why and what to do."""


def require_length(text: str, what: str) -> str:
    """The text, if it is not longer than `LONGEST`.

    Args:
        what: The text and its place, for the message.

    Raises:
        ContrastError: If it is longer.
    """
    if len(text) > LONGEST:
        raise ContrastError(
            f"{what} is {len(text)} characters long ({shortened(text)!r}), and at most {LONGEST} "
            "are read. Shorten it or drop the row; check for an unclosed quote or a file in one cell."
        )
    return text


def normalised(text: str) -> str:
    """The text for comparisons: NFKC, case folded, runs of white space as one space.

    >>> normalised("  The  Soup\\nwas good ")
    'the soup was good'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def shortened(text: str, limit: int = 60) -> str:
    """The text, without its middle if it is longer than the limit; for messages."""
    return text if len(text) <= limit else text[: limit // 2] + " … " + text[-limit // 2 :]


_NEGATORS = re.compile(r"\b(?:do|does|did)(?: not\b|n['’]t\b)|\b(?:not|nicht)\b|n['’]t\b")
_GERMAN_NO = re.compile(r"\bkein(?=(?:e|en|em|er|es)?\b)")
_ARTICLES = re.compile(r"\b(?:a|an|the|any)\b")
_ENDING = re.compile(r"(?<=\w{2})(?:es|e|s)\b")


def statement_key(text: str) -> str:
    """One key for a statement and its negation, so that a split keeps them together.

    Negators (not, does not, n't, nicht, kein), English articles, the endings -s and -es, and final
    punctuation are dropped; "has" counts as "have". Different statements may get one key, which
    keeps them together. Irregular verbs ("did not go", "went") are not recognised.

    >>> statement_key("Tin does not have a use.") == statement_key("Tin has a use.")
    True
    """
    bare = _NEGATORS.sub(" ", _GERMAN_NO.sub("ein", normalised(text)))
    bare = re.sub(r"\bhas\b", "have", _ARTICLES.sub(" ", bare))
    key = " ".join(_ENDING.sub("", bare).split()).rstrip(".!?… ")
    return key or normalised(text)


_OPTION = re.compile(r"\(([A-Z])\)[ :.]*(.*?)(?=\s*\([A-Z]\)|\Z)", re.DOTALL)
_CHOICES = re.compile(r"\s*\bChoices:\s*")


def options(question: str) -> tuple[tuple[str, str], ...]:
    """The lettered options at the end of a question, as (letter, text); () when there are none.

    >>> options("Tea?\\n\\nChoices:\\n (A) Yes\\n (B)No")
    (('A', 'Yes'), ('B', 'No'))
    """
    found = [(m.group(1), m.group(2).strip()) for m in _OPTION.finditer(question)]
    # The options are the last run A, B, C ...; an earlier "(A)" may be part of the prose.
    starts = [i for i, (letter, _) in enumerate(found) if letter == "A"]
    for start in reversed(starts):
        end = start
        while end < len(found) and found[end][0] == chr(ord("A") + end - start):
            end += 1
        if end - start >= 2:
            return tuple(found[start:end])
    return ()


def question_key(question: str) -> str:
    """One key for a question, however its options are ordered.

    >>> question_key("Tea?\\n (A) Yes\\n (B) No") == question_key("Tea?\\n (A) No\\n (B) Yes")
    True
    """
    choices = options(question)
    if not choices:
        return normalised(question)
    start = question.rfind("(A)")
    stem = _CHOICES.sub(" ", question[:start])
    return " | ".join([normalised(stem), *sorted(normalised(text) for _, text in choices)])


_LETTER = re.compile(r"\s*\(?([A-Z])\)?[.:]?\s*")


def letter(answer: str) -> str | None:
    """The letter of an answer such as "(A)", " (A)", "A" or "A."; None for other text.

    >>> letter(" (B)"), letter("Yes")
    ('B', None)
    """
    found = _LETTER.fullmatch(answer)
    return found.group(1) if found else None


def short_answer(answer: str) -> str | None:
    """The label that a short answer carries: a letter, yes, no, true or false; else None."""
    word = answer.strip().rstrip(".").casefold()
    return letter(answer) or (word if word in {"yes", "no", "true", "false"} else None)


def spaced(prompt: str, answer: str, space: str = " ") -> str:
    """The answer with exactly the space that belongs between it and the prompt.

    The rule, applied wherever an answer follows a prompt: after an empty prompt the answer is not
    changed; after a prompt that ends in white space it has no leading blank; otherwise it starts
    with one `space`. An answer that starts with a line break keeps it.

    >>> spaced("Assistant:", "(A)"), spaced("Assistant:", "  (A)"), spaced("Assistant: ", " (A)")
    (' (A)', ' (A)', '(A)')
    """
    if not prompt or answer[:1] in {"\n", "\r"}:
        return answer
    bare = answer.lstrip(" \t")
    return bare if prompt[-1:].isspace() else space + bare


MARKERS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("[INST] … [/INST]", re.compile(r"\[/?INST\]")),
    ("<<SYS>>", re.compile(r"<</?SYS>>")),
    ("<|im_start|>", re.compile(r"<\|im_(?:start|end)\|>")),
    ("<|start_header_id|>", re.compile(r"<\|(?:start_header_id|end_header_id|eot_id)\|>")),
    ("<start_of_turn>", re.compile(r"<(?:start|end)_of_turn>")),
    ("<|user|>", re.compile(r"<\|(?:user|assistant|system)\|>")),
    ("Human: … Assistant:", re.compile(r"(?:^|\n)(?:Human|User|Assistant):")),
    (
        "Question: … Answer:",
        re.compile(r"^\s*(?:Question|Q):.*?\n[^\S\n]*(?:Answer|A):", re.DOTALL),
    ),
)
BOS_TEXTS = ("<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>", "<EOT>", "[CLS]")


def chat_markers(text: str) -> tuple[str, ...]:
    """The names of the chat markers in a text.

    >>> chat_markers("[INST] Hello [/INST]")
    ('[INST] … [/INST]',)
    """
    return tuple(name for name, pattern in MARKERS if pattern.search(text))


def bos_text(text: str) -> str | None:
    """The beginning-of-sequence token that a text starts with as plain characters, if any."""
    start = text.lstrip()
    return next((bos for bos in BOS_TEXTS if start.startswith(bos)), None)


_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


def has_double_escape(text: str) -> bool:
    """Whether a text holds a literal backslash-u escape, as encoding it twice leaves."""
    return _ESCAPE.search(text) is not None


def unescaped(text: str) -> str:
    """The text with literal `\\uXXXX` decoded (surrogate pairs joined).

    >>> unescaped("Bras\\\\u00edlia")
    'Brasília'
    """
    raw = _ESCAPE.sub(lambda found: chr(int(found.group(1), 16)), text)
    return raw.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def digest(*parts: object) -> str:
    """A hex digest of some values, the same in every process."""
    joined = "".join(f"{len(text)}:{text}" for text in map(str, parts))
    return sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()


def components(keys: Sequence[Iterable[str]]) -> list[str]:
    """The connected component of each row; rows that share a key are connected.

    A component is named by its smallest key, which does not depend on the order of rows.

    >>> components([["a", "b"], ["c"], ["b", "d"]])
    ['a', 'c', 'a']
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    firsts = []
    for row in keys:
        first, *others = sorted(set(row))
        firsts.append(first)
        root(first)
        for other in others:
            low, high = sorted((root(first), root(other)))
            parent[high] = low  # the root of a component is its smallest key
    return [root(first) for first in firsts]
