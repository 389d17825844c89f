"""Contrast sets: named pairs of texts, one that shows a behaviour and one that does not.

`ContrastSet.load` reads the formats of the field (docs/formats.md). A set knows its content hash,
splits by question without leaks, and reports what its data hide.
"""

from __future__ import annotations

import html
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from steerlens.data.formats.chat import ChatPrompt, ChatTokenizer, chat_prompt
from steerlens.data.formats.drafts import Content, FileFacts, Reading
from steerlens.data.formats.hub import is_hub_name, read_hub
from steerlens.data.formats.pairs import count_unusable
from steerlens.data.formats.questions import polarity_warning
from steerlens.data.formats.read import read_content
from steerlens.data.formats.recognise import as_rows, recognised, uses_template
from steerlens.data.formats.text import (
    GROUP_SEPARATOR,
    ContrastError,
    bos_text,
    chat_markers,
    components,
    digest,
    has_double_escape,
    normalised,
    question_key,
    short_answer,
    shortened,
    spaced,
    statement_key,
    unescaped,
)
from steerlens.store.files import write_text

__all__ = [
    "ChatTokenizer",
    "ChatPrompt",
    "ContrastError",
    "ContrastPair",
    "ContrastReport",
    "ContrastSet",
    "Split",
    "chat_prompt",
]


@dataclass(frozen=True)
class ContrastPair:
    """One prompt with a continuation that shows the behaviour and one that does not.

    Raises:
        ContrastError: If a side is empty, both sides are equal, or a text cannot be encoded.

    >>> ContrastPair("Do you like tea?", " Yes", " No").positive_text
    'Do you like tea? Yes'
    """

    prompt: str
    """Shared text before the continuation; may be empty."""
    positive: str
    """Continuation that shows the behaviour, appended to the prompt as it is."""
    negative: str
    """Continuation that does not."""
    group: str = ""
    """What must not be split across parts; "" means the prompt, or both texts if that is empty.

    Several keys may be joined by U+001F; pairs that share any of them stay together.
    """
    meta: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Further columns of the file; they change no number."""

    def __post_init__(self) -> None:
        for where in ("prompt", "positive", "negative", "group"):
            text = getattr(self, where)
            if not isinstance(text, str):
                raise ContrastError(
                    f"{where}={text!r} of a pair is {type(text).__name__}, not text. "
                    "Convert it with str() if that is what the model shall read."
                )
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise ContrastError(
                    f"{where}={text!r} of a pair has half a surrogate pair at character "
                    f"{error.start}, which no tokenizer can read. Repair or drop the row."
                ) from error
        label = f"pair with prompt {shortened(self.prompt)!r}"
        for where, text in (("positive", self.positive), ("negative", self.negative)):
            if not text:
                raise ContrastError(
                    f"The {where} side of the {label} is empty, so there is nothing to contrast. "
                    "Give both sides a text, or drop the pair."
                )
        if self.positive == self.negative:
            raise ContrastError(
                f"Both sides of the {label} are {shortened(self.positive)!r}: they contrast "
                "nothing. Drop the pair, or put what differs into positive and negative."
            )
        object.__setattr__(self, "meta", MappingProxyType(dict(self.meta)))

    def __reduce__(self):
        # A mapping proxy cannot be copied; its content can.
        return ContrastPair, (self.prompt, self.positive, self.negative, self.group, {**self.meta})

    @property
    def positive_text(self) -> str:
        """Prompt and positive continuation as the model reads them."""
        return self.prompt + self.positive

    @property
    def negative_text(self) -> str:
        """Prompt and negative continuation as the model reads them."""
        return self.prompt + self.negative

    @property
    def keys(self) -> tuple[str, ...]:
        """What ties this pair to others in a split: its group, question, or both statements."""
        if self.group:
            return tuple(key for key in self.group.split(GROUP_SEPARATOR) if key) or ("",)
        if self.prompt.strip():
            return (question_key(self.prompt),)
        return tuple(sorted({statement_key(self.positive), statement_key(self.negative)}))

    def flipped(self) -> ContrastPair:
        """The pair with its sides exchanged."""
        return replace(self, positive=self.negative, negative=self.positive)


class Split(NamedTuple):
    """Three sets that share no group: to fit on, to choose with, and to report on."""

    fit: ContrastSet
    choose: ContrastSet
    report: ContrastSet


@dataclass(frozen=True)
class ContrastReport:
    """What a contrast set holds and what its data hide. Prints as text; draws itself in Jupyter."""

    name: str
    format: str
    """Format the file was recognised as; "" for a set made in Python."""
    rows: int
    """Rows of the file before any were dropped (pairs, for a set made in Python)."""
    pairs: int
    groups: int
    """Groups that a split keeps whole."""
    largest_group: int
    """Pairs in the largest group."""
    paired: bool
    dropped: tuple[tuple[str, int], ...]
    """Reasons and how many rows (for unpaired classes: texts) each of them cost."""
    duplicate_pairs: int
    """Pairs minus distinct pairs, compared exactly."""
    normalised_duplicates: int
    """Pairs minus distinct pairs, ignoring case and blanks; includes the exact ones."""
    repeated_prompts: int
    """Pairs minus distinct prompts, where there are prompts."""
    both_sides: int
    """Texts (prompt and continuation) that are positive in one pair and negative in another."""
    answers: tuple[tuple[str, int], ...]
    """Short answers (letters, yes, no) with the number of pairs where they are positive."""
    warnings: tuple[str, ...]
    """What to look at before using the set."""
    notes: tuple[str, ...]

    def _lines(self) -> list[tuple[str, str]]:
        kind = "true pairs" if self.paired else "unpaired classes, matched at random"
        lines = [
            ("pairs", f"{self.pairs} ({kind}) from {self.rows} rows"),
            ("groups", f"{self.groups}, the largest of {self.largest_group} pairs"),
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


@dataclass(frozen=True)
class ContrastSet:
    """Named pairs with a content hash.

    Raises:
        ContrastError: If there are no pairs.

    >>> tea = ContrastSet("tea", (ContrastPair("Tea?", " Yes", " No"),))
    >>> len(tea), tea.flipped().pairs[0].positive
    (1, ' No')
    """

    name: str
    pairs: tuple[ContrastPair, ...]
    source: str = ""
    """Where the pairs came from: a path or a hub name."""
    paired: bool = True
    """False if positives and negatives are two classes matched at random."""
    notes: tuple[str, ...] = ()
    """What was done to the set, in the order it was done."""
    facts: FileFacts | None = field(default=None, compare=False, repr=False)
    """What was counted while the file was read."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", tuple(self.pairs))
        object.__setattr__(self, "notes", tuple(self.notes))
        if not isinstance(self.name, str) or not self.name:
            raise ContrastError(f"A set needs a name, got {self.name!r}. Say name='…'.")
        if not self.pairs:
            raise ContrastError(
                f"ContrastSet {self.name!r} has no pairs, so nothing can be fitted or scored. "
                "Check the filters that were applied, or pass at least one ContrastPair."
            )
        for i, pair in enumerate(self.pairs):
            if not isinstance(pair, ContrastPair):
                raise ContrastError(
                    f"pairs[{i}] of {self.name!r} is a {type(pair).__name__}, not a ContrastPair. "
                    "Use ContrastSet.from_pairs(…) for tuples and other libraries' samples."
                )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        format: str | None = None,
        *,
        flip: bool = False,
        name: str | None = None,
        template: str | None = None,
        min_confidence: float | None = None,
        positive: str | None = None,
        negative: str | None = None,
        prompt: str | None = None,
        negatives: str | os.PathLike[str] | None = None,
        paired: bool | None = None,
        concept: str | int | None = None,
        personas: tuple[str, str] | None = None,
        unescape: bool = False,
        encoding: str | None = None,
        seed: int = 0,
        split: str = "train",
        config: str | None = None,
        revision: str | None = None,
    ) -> ContrastSet:
        """Loads a file, or a dataset of the hub, in any of the formats of docs/formats.md.

        The format is recognised by content. Nothing is dropped or chosen silently: `report` says
        what was. An argument that the format does not use is refused.

        Args:
            path: A local file (never touches the network), or owner/name on the hub.
            format: Name of a format, to insist on it.
            flip: Exchange positive and negative, for files whose labels are inverted.
            name: Name of the set; made from the file name if not given.
            template: See `with_template`. For relations `{}` is the input; for personas it holds
                `{persona}` and `{suffix}`.
            min_confidence: Least label_confidence (Anthropic) or absolute mean (lexicon) to keep.
            positive: Column, list or label that is positive, where names do not say.
            negative: Its counterpart.
            prompt: Column that both sides share, or the input if only `positive` is named.
            negatives: A second file that holds the other class.
            paired: Pair two lists by position (True), or match them at random (False).
            concept: AxBench concept, by id or text.
            personas: Two opposite personas for a list of suffixes.
            unescape: Decode literal backslash-u escapes left by double encoding.
            encoding: Text encoding if it is not UTF-8.
            seed: Decides which texts of unpaired classes meet, and the negatives of relations.
            split: Split of a hub dataset.
            config: Configuration of a hub dataset.
            revision: Revision of a hub dataset.

        Raises:
            ContrastError: If the file cannot be read, has no known format, or holds no pairs; the
                text says why and what to write instead.
        """
        content = as_rows(_content(path, encoding, split, config, revision))
        reading = Reading(
            template=template,
            min_confidence=min_confidence,
            positive=positive,
            negative=negative,
            prompt=prompt,
            negatives=None if negatives is None else read_content(Path(negatives), encoding),
            paired=paired,
            concept=concept,
            personas=personas,
            seed=seed,
        )
        found = recognised(content, reading, format)
        drafted = found.read(content, reading)
        usable, unusable = count_unusable(drafted.drafts)
        dropped = (*drafted.facts.dropped, *((why, n) for why, n in unusable.items() if n))
        if not usable:
            told = ", ".join(f"{n} {why}" for why, n in dropped) or "none were there"
            raise ContrastError(
                f"{content.where} ({found.name}) gives no pair out of {drafted.facts.rows} rows: "
                f"{told}. Loosen the filters, or repair the file."
            )
        pairs = []
        for row, draft in enumerate(usable, start=1):
            fields = draft._asdict()
            if unescape:
                fields |= {k: unescaped(fields[k]) for k in ("prompt", "positive", "negative")}
            try:
                pairs.append(ContrastPair(**fields))
            except ContrastError as error:
                raise ContrastError(f"{content.where}, usable row {row}: {error}") from error
        header = drafted.header
        made = cls(
            name=name or _text(header, "name") or drafted.name or _default_name(content.where),
            pairs=tuple(pairs),
            source=_text(header, "source") or content.where,
            paired=drafted.paired,
            notes=(*_texts(header, "notes"), *drafted.notes),
            facts=replace(drafted.facts, dropped=dropped),
        )
        told_hash = header.get("hash")
        if told_hash is not None and told_hash != made.hash:
            raise ContrastError(
                f"{content.where} was changed after it was saved: its pairs hash to "
                f"{made.hash[:12]} and its header says {str(told_hash)[:12]}. Save the set again, "
                "or remove 'hash' from the first line if the change is meant."
            )
        if unescape:
            made = replace(made, notes=(*made.notes, "backslash-u escapes decoded"))
        if template is not None and not uses_template(found, reading):
            made = made.with_template(template)
        return made.flipped() if flip else made

    @classmethod
    def from_pairs(cls, samples: Iterable[Any], name: str, *, source: str = "") -> ContrastSet:
        """Builds a set from pairs in memory, also those of other libraries.

        Args:
            samples: `ContrastPair`s; tuples (positive, negative) or (prompt, positive, negative);
                objects with `positive_str` and `negative_str` (steering-vectors) or with `positive`
                and `negative` (repeng). Their token indices are not used: where to read is said by
                `Positions`.
            name: Name of the set.
            source: Where the samples came from.

        >>> ContrastSet.from_pairs([("2 + 2 = 4", "2 + 2 = 7")], name="sums").pairs[0].negative
        '2 + 2 = 7'
        """
        return cls(name, tuple(_as_pair(s, i) for i, s in enumerate(samples)), source)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the set as JSON lines: a header, then one pair per line. `load` reads it back."""
        target = Path(path)
        header: dict[str, Any] = {
            "steerlens": "contrast-set 1",
            "name": self.name,
            "source": self.source,
            "paired": self.paired,
            "notes": list(self.notes),
            "hash": self.hash,
            "facts": None if self.facts is None else asdict(self.facts),
        }
        lines = [header]
        for pair in self.pairs:
            row: dict[str, Any] = {
                "prompt": pair.prompt,
                "positive": pair.positive,
                "negative": pair.negative,
            }
            if pair.group:
                row["group"] = pair.group
            if pair.meta:
                row["meta"] = dict(pair.meta)
            lines.append(row)
        text = "".join(json.dumps(line, ensure_ascii=True) + "\n" for line in lines)
        write_text(target, text)
        return target

    @property
    def report(self) -> ContrastReport:
        """What the set holds and what its data hide."""
        sizes = Counter(self.groups)
        exact = {(p.prompt, p.positive, p.negative) for p in self.pairs}
        folded = {tuple(map(normalised, key)) for key in exact}
        prompts = [p.prompt for p in self.pairs if p.prompt.strip()]
        both = {p.positive_text for p in self.pairs} & {p.negative_text for p in self.pairs}
        answers = Counter(short_answer(p.positive) for p in self.pairs)
        if None in answers:
            answers.clear()
        return ContrastReport(
            name=self.name,
            format=self.facts.format if self.facts else "",
            rows=self.facts.rows if self.facts else len(self),
            pairs=len(self),
            groups=len(sizes),
            largest_group=max(sizes.values()),
            paired=self.paired,
            dropped=self.facts.dropped if self.facts else (),
            duplicate_pairs=len(self) - len(exact),
            normalised_duplicates=len(self) - len(folded),
            repeated_prompts=len(prompts) - len(set(prompts)),
            both_sides=len(both),
            answers=tuple((str(k), n) for k, n in answers.most_common()),
            warnings=(*(self.facts.remarks if self.facts else ()), *self._warnings(answers, both)),
            notes=self.notes,
        )

    def _warnings(self, answers: Counter[str | None], both: set[str]) -> Iterator[str]:
        if both:
            yield (
                f"{len(both)} texts are positive in one pair and negative in another, e.g. "
                f"{shortened(min(both))!r}"
            )
        if answers and not self._letters_balanced():
            shown = ", ".join(f"{k} {n}" for k, n in answers.most_common())
            yield (
                f"matching answers are unbalanced ({shown}), so a direction may be that of a "
                "letter or word: balanced_letters() drops the surplus"
            )
        texts = [p.prompt or p.positive for p in self.pairs]
        markers = Counter(mark for text in texts for mark in chat_markers(text))
        for mark, n in markers.items():
            yield f"{n} of {len(self)} texts have {mark} baked in: apply no chat template again"
        bos = Counter(filter(None, map(bos_text, texts)))
        for token, n in bos.items():
            yield f"{n} texts start with {token} as characters: tokenize them without adding BOS"
        glued = double = 0
        for p in self.pairs:
            for side in (p.positive, p.negative):
                glued += p.prompt[-1:].isalnum() and side[:1].isalnum()
                double += bool(p.prompt) and (p.prompt[-1:] + side[:2]).count(" ") > 1
        if glued:
            yield f"{glued} continuations follow their prompt without a space"
        if double:
            yield f"{double} continuations follow their prompt after two spaces"
        escaped = sum(
            any(map(has_double_escape, (p.prompt, p.positive, p.negative))) for p in self.pairs
        )
        if escaped:
            yield f"{escaped} pairs hold literal backslash-u escapes: unescape=True decodes them"
        yield from polarity_warning((p.prompt, p.positive) for p in self.pairs)
        asked = any("?" in p.prompt for p in self.pairs)
        if answers and asked and not any(p.prompt.rstrip().endswith(":") for p in self.pairs):
            yield (
                "no prompt ends with a cue for the answer; consider with_chat(tokenizer) or "
                "template='{prompt}\\n\\nAnswer:'"
            )

    def _letters_balanced(self) -> bool:
        sides = Counter((short_answer(p.positive), short_answer(p.negative)) for p in self.pairs)
        positives = Counter(x for x, _ in sides.elements())
        negatives = Counter(y for _, y in sides.elements())
        return all(
            abs(positives[x] - negatives[x]) <= 0.05 * len(self) for x in {*positives, *negatives}
        )

    def __repr__(self) -> str:
        return (
            f"ContrastSet({self.name!r}, {len(self)} pairs, {len(set(self.groups))} groups, "
            f"hash {self.hash[:12]})"
        )

    def _repr_html_(self) -> str:
        style = "text-align:left;white-space:pre-wrap"
        rows = "".join(
            "<tr>"
            + "".join(
                f"<td style='{style}'>{html.escape(shortened(text, 200))}</td>"
                for text in (pair.prompt, pair.positive, pair.negative)
            )
            + "</tr>"
            for pair in self.pairs[:4]
        )
        more = f"<p>… and {len(self) - 4} more pairs</p>" if len(self) > 4 else ""
        head = "<tr><th>prompt</th><th>positive</th><th>negative</th></tr>"
        return f"{self.report._repr_html_()}<table>{head}{rows}</table>{more}"

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[ContrastPair]:
        return iter(self.pairs)

    @cached_property
    def hash(self) -> str:
        """Hex digest of the pairs in their order and of `paired`; not of name, notes and meta.

        Order counts because activations are stored row by row.
        """
        parts = (x for p in self.pairs for x in (p.prompt, p.positive, p.negative, p.group))
        return digest("contrast-set 1", self.paired, *parts)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """For each pair, the name of the group that a split keeps whole."""
        return tuple(components([pair.keys for pair in self.pairs]))

    def split(
        self, seed: int = 0, fractions: tuple[float, float, float] = (0.5, 0.25, 0.25)
    ) -> Split:
        """Splits into parts to fit, choose and report on, keeping each group in one part.

        Which part a group goes to depends on the seed and the group, not on the order of pairs.
        Larger groups are placed first, each where most pairs are still missing.

        Args:
            seed: Another seed gives another split.
            fractions: Shares of pairs for fit, choose and report; positive, sum 1.

        Raises:
            ContrastError: If the fractions make no sense or there are fewer groups than parts.
        """
        if (
            len(fractions) != 3
            or not all(f > 0 for f in fractions)
            or not math.isclose(sum(fractions), 1.0, abs_tol=1e-6)
        ):
            raise ContrastError(
                f"fractions={fractions} must be three positive shares that sum to 1, for fit, "
                "choose and report; e.g. (0.5, 0.25, 0.25)."
            )
        return Split(*self._parts(seed, dict(zip(Split._fields, fractions, strict=True))))

    def halved(self, seed: int = 0) -> tuple[ContrastSet, ContrastSet]:
        """Questions to choose on and to report on, where another set is fitted on; see `split`."""
        choose, report = self._parts(seed, {"choose": 0.5, "report": 0.5})
        return choose, report

    def _parts(self, seed: int, shares: Mapping[str, float]) -> list[ContrastSet]:
        sizes = Counter(self.groups)
        if len(sizes) < len(shares):
            raise ContrastError(
                f"{self.name!r} has {len(self)} pairs in only {len(sizes)} group(s), and "
                f"{len(shares)} parts need at least {len(shares)} groups that share no question. "
                "Add data, or set ContrastPair.group if pairs that share a prompt may be separated."
            )
        order = sorted(sizes, key=lambda name: (-sizes[name], digest("split", seed, name)))
        filled = dict.fromkeys(shares, 0)
        part_of: dict[str, str] = {}
        for i, name in enumerate(order):
            empty = [part for part in shares if filled[part] == 0]
            # The last groups are kept for parts that would otherwise stay empty.
            allowed = empty if len(order) - i <= len(empty) else list(shares)
            part = max(allowed, key=lambda part: shares[part] * len(self) - filled[part])
            part_of[name] = part
            filled[part] += sizes[name]
        return [
            self._with(
                [p for p, g in zip(self.pairs, self.groups, strict=True) if part_of[g] == part],
                note=f"{part} part of a split with seed={seed}, shares {dict(shares)}",
            )
            for part in shares
        ]

    def flipped(self) -> ContrastSet:
        """The set with positive and negative exchanged in every pair."""
        return self._with((p.flipped() for p in self.pairs), note="positive and negative exchanged")

    def shuffled(self, seed: int) -> ContrastSet:
        """A control: each pair is flipped or not by a fair coin, so no concept is left."""
        coins = (int(key, 16) % 2 for key in self._ranks("shuffle", seed))
        return self._with(
            (p.flipped() if coin else p for p, coin in zip(self.pairs, coins, strict=True)),
            note=f"labels shuffled pair by pair with seed={seed}",
        )

    def subset(self, n: int, seed: int = 0) -> ContrastSet:
        """n pairs chosen by the seed, in their order here.

        Raises:
            ContrastError: If there are not n pairs, or n is less than 1.
        """
        if not 1 <= n <= len(self):
            raise ContrastError(
                f"subset(n={n}) of {self.name!r}, which has {len(self)} pairs. "
                f"Choose n from 1 to {len(self)}."
            )
        return self._with(
            self._first(range(len(self)), n, self._ranks("subset", seed)),
            note=f"{n} of {len(self)} pairs, chosen with seed={seed}",
        )

    def where(self, **meta: str) -> ContrastSet:
        """The pairs whose `meta` has these values.

        Raises:
            ContrastError: If no pair has them; the error lists the values there are.
        """
        kept = [p for p in self.pairs if all(p.meta.get(k) == v for k, v in meta.items())]
        if not kept:
            there = {k: sorted({p.meta.get(k, "(none)") for p in self.pairs})[:10] for k in meta}
            raise ContrastError(f"No pair of {self.name!r} has {meta}. Its values are {there}.")
        return self._with(kept, note=f"only pairs with {meta}")

    def without(self, *others: ContrastSet) -> ContrastSet:
        """The pairs that share no question with other sets, so that both are independent.

        Raises:
            ContrastError: If no pair is left.
        """
        known = {key for other in others for pair in other for key in pair.keys}
        kept = [pair for pair in self.pairs if known.isdisjoint(pair.keys)]
        names = ", ".join(repr(other.name) for other in others)
        if not kept:
            raise ContrastError(f"Every question of {self.name!r} is also in {names}.")
        return self._with(kept, note=f"{len(kept)} of {len(self)} pairs, those not in {names}")

    def balanced_letters(self, seed: int = 0) -> ContrastSet:
        """Drops surplus pairs so that no answer letter is matching more often than not.

        For every two answers x and y, as many pairs keep x matching against y as y against x; with
        two letters each therefore matches equally often. A mean difference then carries no "letter
        A". Also serves Yes/No.

        Raises:
            ContrastError: If answers are not letters or Yes/No, or nothing balanced remains.
        """
        answers = [(short_answer(p.positive), short_answer(p.negative)) for p in self.pairs]
        for pair, sides in zip(self.pairs, answers, strict=True):
            if None in sides:
                raise ContrastError(
                    f"balanced_letters needs answers such as '(A)' or ' Yes', but {self.name!r} "
                    f"has {shortened(pair.positive)!r} against {shortened(pair.negative)!r}. "
                    "Sets with free text have no letters to balance."
                )
        ranks = self._ranks("letters", seed)
        rows: dict[tuple[str | None, str | None], list[int]] = {}
        for i, sides in enumerate(answers):
            rows.setdefault(sides, []).append(i)
        kept: list[int] = []
        for (x, y), members in rows.items():
            n = min(len(members), len(rows.get((y, x), ())))
            kept += sorted(members, key=ranks.__getitem__)[:n]
        if not kept:
            count = Counter(x for x, _ in answers)
            raise ContrastError(
                f"{self.name!r} cannot be balanced: the matching answers are {dict(count)}, and no "
                "two answers occur both ways round. Reorder the options of half the questions."
            )
        return self._with(
            (self.pairs[i] for i in sorted(kept)),
            note=f"answer letters balanced: {len(kept)} of {len(self)} pairs, seed={seed}",
        )

    def merged(self, *others: ContrastSet, name: str | None = None) -> ContrastSet:
        """This set followed by others. Groups that share a key become one."""
        sets = (self, *others)
        return ContrastSet(
            name=name or " + ".join(s.name for s in sets),
            pairs=tuple(pair for s in sets for pair in s.pairs),
            source=" + ".join(s.source for s in sets if s.source),
            paired=all(s.paired for s in sets),
            notes=tuple(f"{s.name}: {note}" for s in sets for note in s.notes),
        )

    def with_template(self, template: str) -> ContrastSet:
        """Puts every prompt into a template; groups stay what they were.

        Args:
            template: Text with `{prompt}`, which may be missing only where all prompts are empty.
                An optional `{answer}` after it says where the continuation goes (otherwise at the
                end); text after it is added to both sides. The space before the answer follows
                `steerlens.data.formats.text.spaced`.

        Raises:
            ContrastError: If a placeholder is missing, repeated or misplaced, or if the template
                brings chat markers to prompts that already have them.

        >>> pair = ContrastPair("", "good", "bad")
        >>> ContrastSet("w", (pair,)).with_template("The soup was {answer} and").pairs[0].positive
        ' good and'
        """
        before, answer_mark, after = template.partition("{answer}")
        if template.count("{prompt}") > 1 or template.count("{answer}") > 1 or "{prompt}" in after:
            raise ContrastError(
                f"template={template!r} must have {{prompt}} at most once and before {{answer}}; "
                "e.g. 'Question: {prompt}\\nAnswer:'."
            )
        if "{prompt}" not in before and any(p.prompt for p in self.pairs):
            raise ContrastError(
                f"template={template!r} has no {{prompt}}, so the prompts of {self.name!r} would "
                "be lost. Write e.g. 'Question: {prompt}\\nAnswer:'."
            )
        _refuse_second_template(template, (p.prompt or p.positive for p in self.pairs))
        if answer_mark and before.endswith(" "):
            before = before[:-1]  # the space goes to the answer, where tokenizers expect it

        def put(pair: ContrastPair) -> ContrastPair:
            prompt = before.replace("{prompt}", pair.prompt)
            return replace(
                pair,
                prompt=prompt,
                positive=spaced(prompt, pair.positive) + after,
                negative=spaced(prompt, pair.negative) + after,
                group=GROUP_SEPARATOR.join(pair.keys),
            )

        return self._with((put(p) for p in self.pairs), note=f"template {template!r}")

    def with_chat(self, tokenizer: ChatTokenizer, system: str | None = None) -> ContrastSet:
        """Puts every prompt through the tokenizer's own chat template, once.

        Continuations then stand at the start of the assistant's turn. A BOS that the template
        writes is kept in the text and noted: tokenize such prompts without adding another one.

        Raises:
            ContrastError: If prompts are empty or already have chat markers.
        """
        made = []
        has_bos = False
        for pair in self.pairs:
            chat = chat_prompt(tokenizer, pair.prompt, system)
            has_bos = has_bos or chat.has_bos
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
        return self._with(made, note=f"chat template of the tokenizer; {bos}")

    def _with(self, pairs: Iterable[ContrastPair], note: str) -> ContrastSet:
        return replace(self, pairs=tuple(pairs), notes=(*self.notes, note))

    def _ranks(self, purpose: str, seed: int) -> list[str]:
        """A digest per pair that does not depend on the order of distinct pairs."""
        seen: Counter[tuple[str, ...]] = Counter()
        ranks = []
        for p in self.pairs:
            # Sides in sorted order, so that a set and its flipped twin are treated alike.
            content = (p.prompt, *sorted((p.positive, p.negative)), p.group)
            ranks.append(digest(purpose, seed, *content, seen[content]))
            seen[content] += 1
        return ranks

    def _first(self, rows: Iterable[int], n: int, ranks: Sequence[str]) -> list[ContrastPair]:
        return [self.pairs[i] for i in sorted(sorted(rows, key=ranks.__getitem__)[:n])]


def _refuse_second_template(template: str, texts: Iterable[str]) -> None:
    if not chat_markers(template):
        return
    for text in texts:
        if present := chat_markers(text):
            raise ContrastError(
                f"The prompt {shortened(text)!r} already has chat markers ({', '.join(present)}), "
                f"and the template {template!r} would add others. Leave the template out, or strip "
                "the markers from the data first."
            )


def _content(
    path: str | os.PathLike[str],
    encoding: str | None,
    split: str,
    config: str | None,
    revision: str | None,
) -> Content:
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\x00" in text:
        raise ContrastError(f"path={path!r} is no path or hub name. Give the path of a data file.")
    local = Path(os.path.expanduser(text))
    there = os.path.exists(local)  # unlike Path.exists, False for names that no file can have
    hub = text.removeprefix("hub:")
    if not text.startswith("hub:") and (there or not is_hub_name(hub)):
        asked = [("split", split != "train"), ("config", config), ("revision", revision)]
        if wrong := [option for option, given in asked if given]:
            raise ContrastError(
                f"{text} is a local path, where {wrong} have no meaning: omit them."
            )
        if not there:
            raise ContrastError(
                f"There is no file {text!r} here (looked in {Path.cwd()}), and it is no hub name "
                "of the form owner/name. Check the path."
            )
        return read_content(local, encoding)
    if not is_hub_name(hub):
        raise ContrastError(f"{hub!r} is no hub name. Write owner/name.")
    return read_hub(hub, split, config, revision)


_GENERIC = {"generate_dataset", "test_dataset_ab", "train", "test", "test_infer", "train_data",
            "act_steer", "data", "pairs", "dataset", "latent_eval_data"}  # fmt: skip


def _default_name(where: str) -> str:
    path = Path(where.removeprefix("hub:"))
    if path.stem in _GENERIC and path.parent.name:
        return f"{path.parent.name}/{path.stem}"
    return path.stem or where


def _text(header: Mapping[str, Any], key: str) -> str:
    value = header.get(key, "")
    return value if isinstance(value, str) else ""


def _texts(header: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = header.get(key, ())
    return tuple(map(str, value)) if isinstance(value, (list, tuple)) else ()


def _as_pair(sample: Any, number: int) -> ContrastPair:
    if isinstance(sample, ContrastPair):
        return sample
    if isinstance(sample, (tuple, list)) and len(sample) in (2, 3):
        *prompt, positive, negative = sample
        return ContrastPair(prompt[0] if prompt else "", positive, negative)
    for suffix in ("_str", ""):
        positive = getattr(sample, "positive" + suffix, None)
        negative = getattr(sample, "negative" + suffix, None)
        if isinstance(positive, str) and isinstance(negative, str):
            return ContrastPair("", positive, negative)
    raise ContrastError(
        f"samples[{number}] is {shortened(repr(sample))}, which is no pair. Give a ContrastPair, "
        "(positive, negative) or (prompt, positive, negative)."
    )
