"""The report on a contrast set: duplicates, unbalanced answers, texts with both labels, markers."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from steerlens.data.formats.drafts import FileFacts
from steerlens.data.formats.questions import polarity_warning
from steerlens.data.formats.text import (
    bos_text,
    chat_markers,
    has_double_escape,
    normalised,
    short_answer,
    shortened,
)
from steerlens.data.near_duplicates import Near
from steerlens.data.pair import ContrastPair
from steerlens.data.templates import is_in_chat

IMBALANCE = 0.05
"""Share of pairs by which an answer may match more often than not without a warning."""


@dataclass(frozen=True)
class ContrastReport:
    """Counts of a contrast set, and warnings about its data. Jupyter shows it as a table."""

    name: str
    format: str
    """The format in which the file was read; "" for a set made in Python."""
    rows: int
    """Rows of the file before any were dropped (pairs, for a set made in Python)."""
    pairs: int
    groups: int
    """Groups that a split does not divide."""
    largest_group: int
    """Pairs in the largest group."""
    paired: bool
    dropped: tuple[tuple[str, int], ...]
    """Reasons, and the number of rows (of unpaired classes: texts) left out for each."""
    duplicate_pairs: int
    """Pairs minus distinct pairs, compared exactly."""
    normalised_duplicates: int
    """Pairs minus distinct pairs, ignoring case and blanks; includes the exact ones."""
    repeated_prompts: int
    """Pairs minus distinct prompts, where there are prompts."""
    near_duplicates: int
    """Pairs that ask nearly the same as a pair of another question (word 3-grams with a Jaccard
    similarity above 0.8); they are in one group."""
    near_example: tuple[str, ...]
    """The texts of two of them."""
    effective_groups: float
    """How many groups of equal size would tell as much: the unit of intervals and of nulls."""
    both_sides: int
    """Texts (prompt and continuation) that are positive in one pair and negative in another."""
    answers: tuple[tuple[str, int], ...]
    """Short answers (letters, yes, no) with the number of pairs where they are positive."""
    warnings: tuple[str, ...]
    """What to check before using the set."""
    notes: tuple[str, ...]

    def _lines(self) -> list[tuple[str, str]]:
        few = self.effective_groups < 0.95 * self.groups
        uneven = f", effectively {self.effective_groups:.3g}" if few else ""
        kind = "true pairs" if self.paired else "unpaired classes, matched at random"
        lines = [
            ("pairs", f"{self.pairs} ({kind}) from {self.rows} rows"),
            ("groups", f"{self.groups}, the largest of {self.largest_group} pairs{uneven}"),
        ]
        if self.format:
            lines.insert(0, ("format", self.format))
        if self.dropped:
            text = ", ".join(f"{count} {reason}" for reason, count in self.dropped)
            lines.append(("left out", text))
        lines.append(
            (
                "duplicates",
                f"{self.duplicate_pairs} exact, {self.normalised_duplicates} up to case and "
                f"blanks, {self.repeated_prompts} repeated prompts",
            )
        )
        if self.near_duplicates:
            shown = " and ".join(repr(text) for text in self.near_example)
            lines.append(
                (
                    "nearly the same",
                    f"{self.near_duplicates} pairs, kept in one group, e.g. {shown}",
                )
            )
        if self.answers:
            shown = ", ".join(f"{answer} {count}" for answer, count in self.answers)
            lines.append(("matching answers", shown))
        return lines

    def __str__(self) -> str:
        out = [f"ContrastSet {self.name!r}"]
        out += [f"  {key}: {text}" for key, text in self._lines()]
        out += [f"  warning: {text}" for text in self.warnings]
        out += [f"  note: {text}" for text in self.notes]
        return "\n".join(out)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(key)}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for key, text in self._lines()
        )
        remarks = "".join(
            f"<li><b>{kind}</b> {html.escape(text)}</li>"
            for kind, texts in (("warning:", self.warnings), ("note:", self.notes))
            for text in texts
        )
        return f"<b>ContrastSet {html.escape(self.name)}</b><table>{rows}</table>" + (
            f"<ul>{remarks}</ul>" if remarks else ""
        )


def audit(
    pairs: Sequence[ContrastPair],
    groups: Sequence[str],
    *,
    name: str,
    paired: bool,
    notes: tuple[str, ...],
    facts: FileFacts | None,
    near: Sequence[Near] = (),
) -> ContrastReport:
    """Counts the pairs of a set, and warns of what makes them misleading.

    Args:
        groups: The group of each pair.
        near: Pairs that ask nearly the same.
    """
    twins = [link for link in near if not set(pairs[link.one].keys) & set(pairs[link.other].keys)]
    close = {i for link in twins for i in (link.one, link.other)}
    sizes = Counter(groups)
    exact = {(p.prompt, p.positive, p.negative) for p in pairs}
    folded = {tuple(map(normalised, key)) for key in exact}
    prompts = [p.prompt for p in pairs if p.prompt.strip()]
    both = {p.positive_text for p in pairs} & {p.negative_text for p in pairs}
    answers = Counter(short_answer(p.positive) for p in pairs)
    if None in answers:
        answers.clear()
    return ContrastReport(
        name=name,
        format=facts.format if facts else "",
        rows=facts.rows if facts else len(pairs),
        pairs=len(pairs),
        groups=len(sizes),
        largest_group=max(sizes.values()),
        paired=paired,
        dropped=facts.dropped if facts else (),
        duplicate_pairs=len(pairs) - len(exact),
        normalised_duplicates=len(pairs) - len(folded),
        repeated_prompts=len(prompts) - len(set(prompts)),
        near_duplicates=len(close),
        near_example=tuple(
            shortened(pairs[i].prompt or pairs[i].positive) for link in twins[:1] for i in link[:2]
        ),
        effective_groups=len(pairs) ** 2 / sum(n * n for n in sizes.values()),
        both_sides=len(both),
        answers=tuple((str(k), n) for k, n in answers.most_common()),
        warnings=(
            *(facts.remarks if facts else ()),
            *_warnings(pairs, answers, both, is_in_chat(notes)),
        ),
        notes=notes,
    )


def _warnings(
    pairs: Sequence[ContrastPair],
    answers: Counter[str | None],
    both: set[str],
    in_chat: bool,
) -> Iterator[str]:
    if both:
        yield (
            f"{len(both)} texts are positive in one pair and negative in another, e.g. "
            f"{shortened(min(both))!r}"
        )
    if answers and not _letters_balanced(pairs):
        shown = ", ".join(f"{k} {n}" for k, n in answers.most_common())
        yield (
            f"matching answers are unbalanced ({shown}), so a direction may be that of a "
            "letter or word; balanced_letters() drops the surplus"
        )
    texts = [p.prompt or p.positive for p in pairs]
    markers = Counter(mark for text in texts for mark in chat_markers(text))
    for mark, n in () if in_chat else markers.items():
        yield (
            f"{n} of {len(pairs)} texts have {mark} baked in; do not put them into a chat template"
        )
    bos = Counter(filter(None, map(bos_text, texts)))
    for token, n in bos.items():
        yield f"{n} texts start with {token} as characters; tokenize them without adding BOS"
    glued = double = 0
    for p in pairs:
        for side in (p.positive, p.negative):
            glued += p.prompt[-1:].isalnum() and side[:1].isalnum()
            double += bool(p.prompt) and (p.prompt[-1:] + side[:2]).count(" ") > 1
    if glued:
        yield f"{glued} continuations follow their prompt without a space"
    if double:
        yield f"{double} continuations follow their prompt after two spaces"
    escaped = sum(any(map(has_double_escape, (p.prompt, p.positive, p.negative))) for p in pairs)
    if escaped:
        yield f"{escaped} pairs hold literal backslash-u escapes; unescape=True decodes them"
    yield from polarity_warning((p.prompt, p.positive) for p in pairs)
    asked = any("?" in p.prompt for p in pairs)
    cued = in_chat or bool(markers) or any(p.prompt.rstrip().endswith(":") for p in pairs)
    if answers and asked and not cued:
        yield (
            "no prompt ends with a cue for the answer; consider with_chat(model), in an "
            "experiment chat=True, or with_template('{prompt}\\n\\nAnswer:')"
        )


def _letters_balanced(pairs: Sequence[ContrastPair]) -> bool:
    sides = Counter((short_answer(p.positive), short_answer(p.negative)) for p in pairs)
    positives = Counter(x for x, _ in sides.elements())
    negatives = Counter(y for _, y in sides.elements())
    return all(
        abs(positives[x] - negatives[x]) <= IMBALANCE * len(pairs) for x in {*positives, *negatives}
    )
