"""Contrast sets: named pairs of texts, one that shows a behaviour and one that does not.

`ContrastSet.load` reads the formats of the field (docs/formats.md). A set has a hash of its content,
splits by question without leaks, and reports what is misleading in its data.
"""

from __future__ import annotations

import datetime
import html
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsFloat, SupportsIndex, overload

from steerlens.arguments import ArgumentError, as_bool, as_floats, as_int
from steerlens.data import splitting
from steerlens.data.audit import ContrastReport, audit
from steerlens.data.formats.chat import CHAT_DATE, ChatTokenizer, HasTokenizer
from steerlens.data.formats.drafts import FileFacts
from steerlens.data.formats.text import ContrastError, components, digest, shortened
from steerlens.data.load_pairs import LoadOptions, load_pairs
from steerlens.data.near_duplicates import Near
from steerlens.data.near_pairs import near_pairs
from steerlens.data.pair import ContrastPair, as_pair, as_samples
from steerlens.data.templates import in_chat, in_template, is_in_chat
from steerlens.store.files import expanded, write_text

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Split(NamedTuple):
    """Three sets that share no group: to fit on, to choose with, and to report on."""

    fit: ContrastSet
    choose: ContrastSet
    report: ContrastSet


@dataclass(frozen=True)
class ContrastSet:
    """Named pairs with a content hash. An index gives a pair, a slice gives a set.

    Raises:
        ContrastError: If there are no pairs, or the name is not text.

    >>> tea = ContrastSet("tea", (ContrastPair("Tea?", " Yes", " No"),))
    >>> len(tea), tea.flipped()[0].positive
    (1, ' No')
    """

    name: str
    pairs: tuple[ContrastPair, ...] = ()
    source: str = ""
    """Where the pairs came from: a path or a hub name."""
    paired: bool = True
    """False if positives and negatives are two classes matched at random."""
    notes: tuple[str, ...] = ()
    """The operations on the set, in their order."""
    facts: FileFacts | None = field(default=None, compare=False, repr=False)
    """The counts of the file from which the set was read."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ContrastError(
                f"name={self.name!r:.80} is not a name: it must be text and not empty. Write "
                "ContrastSet('name', pairs), or ContrastSet.from_pairs(pairs)."
            )
        object.__setattr__(self, "pairs", tuple(self.pairs))
        object.__setattr__(self, "notes", tuple(self.notes))
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
        **options: Unpack[LoadOptions],
    ) -> ContrastSet:
        """Loads a file, or a dataset of the hub, in any of the formats of docs/formats.md.

        The format is recognised by content. `report` states what was left out or chosen.

        Args:
            path: A local file (no network is used), or owner/name on the hub.
            format: Name of a format; a file in another one is refused.
            flip: Exchange positive and negative, for files whose labels are inverted.
            name: Name of the set; by default that in the file, or the file's name.
            options: How to read the file, each explained in `steerlens.data.load_pairs.LoadOptions`:
                columns (`positive`, `negative`, `prompt`), a `template`, a least
                `min_confidence`, a second file (`negatives`), `encoding`, the hub's `split`, ….
                An option that the format does not use is refused.

        Raises:
            ContrastError: If the file cannot be read, has no known format, or holds no pairs; the
                message says why and what to write instead.
            TypeError: If there is no such option.
        """
        flip = as_bool("flip", flip)
        loaded = load_pairs(path, format, options)
        made = cls(
            name=name or loaded.name,
            pairs=loaded.pairs,
            source=loaded.source,
            paired=loaded.paired,
            notes=loaded.notes,
            facts=loaded.facts,
        )
        if loaded.stated_hash is not None and loaded.stated_hash != made.hash:
            raise ContrastError(
                f"{loaded.where} was changed after it was saved: its pairs hash to "
                f"{made.hash[:12]}, but its header states {loaded.stated_hash[:12]}. Save the set "
                "again, or remove 'hash' from the first line if the change is intended."
            )
        if loaded.template is not None:
            made = made.with_template(loaded.template)
        return made.flipped() if flip else made

    @classmethod
    def from_pairs(cls, samples: Any, name: str = "pairs", *, source: str = "") -> ContrastSet:
        """Builds a set from pairs in memory, also those of other libraries.

        Args:
            samples: `ContrastPair`s; tuples (positive, negative) or (prompt, positive, negative);
                mappings with these names; a pandas or polars DataFrame, an Arrow table or a mapping
                of lists with these columns (others become `meta`); or objects with `positive_str`
                and `negative_str` (steering-vectors) or with `positive` and `negative` (repeng).
                Their token indices are not used: `Positions` states where to read.
            name: Name of the set.
            source: Where the samples came from.

        Raises:
            ContrastError: If one of the samples is not a pair, or there are none.

        >>> ContrastSet.from_pairs([("2 + 2 = 4", "2 + 2 = 7")], name="sums").pairs[0].negative
        '2 + 2 = 7'
        """
        rows = enumerate(as_samples(samples))
        return cls(name, tuple(as_pair(sample, i) for i, sample in rows), source)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the set as JSON lines: a header, then one pair per line. `load` reads it back."""
        target = expanded(os.fspath(path))
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
        """Counts of the set, and warnings about its data."""
        return audit(
            self.pairs,
            self.groups,
            name=self.name,
            paired=self.paired,
            notes=self.notes,
            facts=self.facts,
            near=self.near_duplicates,
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

    @overload
    def __getitem__(self, index: SupportsIndex) -> ContrastPair: ...
    @overload
    def __getitem__(self, index: slice) -> ContrastSet: ...
    def __getitem__(self, index: SupportsIndex | slice) -> ContrastPair | ContrastSet:
        """One pair, or the set of a slice of the pairs.

        Raises:
            ContrastError: If a slice holds no pair.
            IndexError: If there is no pair with that index.
            ArgumentError: If it is neither a whole number nor a slice of whole numbers.
        """
        if not isinstance(index, slice):
            number = as_int("index", index)
            if not -len(self) <= number < len(self):
                raise IndexError(
                    f"{self.name!r} has {len(self)} pairs, and none with index {number}."
                )
            return self.pairs[number]
        try:
            start, stop, step = index.indices(len(self))
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"{index!r:.80} is not a slice of pairs: {error}.") from error
        note = f"pairs [{start}:{stop}:{step}] of {len(self)}"
        return self._with(self.pairs[index], note=note)

    @cached_property
    def hash(self) -> str:
        """Hex digest of the pairs in their order and of `paired`; not of name, notes and meta.

        The order is included because activations are stored row by row.
        """
        parts = (x for p in self.pairs for x in (p.prompt, p.positive, p.negative, p.group))
        return digest("contrast-set 1", self.paired, *parts)

    @cached_property
    def near_duplicates(self) -> tuple[Near, ...]:
        """Pairs that ask nearly the same, by their indices: enough to connect all of them.

        Compared are prompts, or both texts of pairs without a prompt, by word 3-grams.
        """
        return tuple(near_pairs(self.pairs))

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """For each pair, the name of the group that a split does not divide.

        Pairs of one group share a key (their group, their question) or are near-duplicates. The
        group is the unit of every interval and of every null.
        """
        keys = [set(pair.keys) for pair in self.pairs]
        for one, other, _ in self.near_duplicates:
            keys[other].add(min(self.pairs[one].keys))
        return tuple(components(keys))

    def split(
        self,
        seed: SupportsIndex = 0,
        fractions: Iterable[SupportsFloat] = (0.5, 0.25, 0.25),
    ) -> Split:
        """Splits into parts to fit, choose and report on, keeping each group in one part.

        The part of a group depends on the seed and the group, not on the order of pairs. Larger
        groups are placed first, each in the part that lacks most pairs.

        Args:
            seed: Another seed gives another split.
            fractions: Shares of pairs for fit, choose and report; positive, sum 1.

        Raises:
            ContrastError: If the fractions are not three shares, or there are fewer groups than
                parts.
        """
        shares = as_floats("fractions", fractions)
        if (
            len(shares) != 3
            or not all(f > 0 for f in shares)
            or not math.isclose(sum(shares), 1.0, abs_tol=1e-6)
        ):
            raise ContrastError(
                f"fractions={shares} must be three positive shares that sum to 1, for fit, "
                "choose and report; e.g. (0.5, 0.25, 0.25)."
            )
        return Split(*self._parts(seed, dict(zip(Split._fields, shares, strict=True))))

    def halved(self, seed: SupportsIndex = 0) -> tuple[ContrastSet, ContrastSet]:
        """Two halves to choose and to report on, if another set is fitted on; see `split`."""
        choose, report = self._parts(seed, {"choose": 0.5, "report": 0.5})
        return choose, report

    def _parts(self, seed: SupportsIndex, shares: Mapping[str, float]) -> list[ContrastSet]:
        seed = as_int("seed", seed)
        found = splitting.parts(self.groups, shares, seed, self.name)
        return [
            self._with(
                (self.pairs[i] for i in rows),
                note=f"{part} part of a split with seed={seed}, shares {dict(shares)}",
            )
            for part, rows in found.items()
        ]

    def flipped(self) -> ContrastSet:
        """The set with positive and negative exchanged in every pair."""
        return self._with((p.flipped() for p in self.pairs), note="positive and negative exchanged")

    def shuffled(self, seed: SupportsIndex) -> ContrastSet:
        """A control: the pairs of each group are flipped, all or none, with probability one half.

        So no concept is left. Pairs of one group share their coin, as they share their question.
        """
        seed = as_int("seed", seed)
        coins: dict[str, int] = {}
        ranked = splitting.ranks(self.pairs, "shuffle", seed)
        for group, key in zip(self.groups, ranked, strict=True):
            coins[group] = coins.get(group, 0) ^ int(key, 16) % 2  # whatever the order of its pairs
        flip = (coins[group] for group in self.groups)
        return self._with(
            (p.flipped() if coin else p for p, coin in zip(self.pairs, flip, strict=True)),
            note=f"labels shuffled group by group with seed={seed}",
        )

    def subset(self, n: SupportsIndex, seed: SupportsIndex = 0) -> ContrastSet:
        """n pairs chosen by the seed, in the order of this set.

        Raises:
            ContrastError: If there are not n pairs, or n is less than 1.
        """
        n, seed = as_int("n", n), as_int("seed", seed)
        if not 1 <= n <= len(self):
            raise ContrastError(
                f"subset(n={n}) of {self.name!r}, which has {len(self)} pairs. "
                f"Choose n from 1 to {len(self)}."
            )
        ranked = splitting.ranks(self.pairs, "subset", seed)
        kept = splitting.first_by_rank(range(len(self)), n, ranked)
        return self._with(
            (self.pairs[i] for i in kept),
            note=f"{n} of {len(self)} pairs, chosen with seed={seed}",
        )

    def where(self, **meta: str) -> ContrastSet:
        """The pairs whose `meta` has these values.

        Raises:
            ContrastError: If no pair has them; the message lists the values of the set.
        """
        kept = [p for p in self.pairs if all(p.meta.get(k) == v for k, v in meta.items())]
        if not kept:
            there = {k: sorted({p.meta.get(k, "(none)") for p in self.pairs})[:10] for k in meta}
            raise ContrastError(
                f"No pair of {self.name!r} has {meta}. Choose among its values: {there}."
            )
        return self._with(kept, note=f"only pairs with {meta}")

    def without(self, *others: ContrastSet) -> ContrastSet:
        """The pairs that ask nothing that other sets ask, so that both are independent.

        Left out are pairs that share a question or a group with a pair of the others, or are
        near-duplicates of one (see `groups`). A note says how many of each; a set of which nothing
        is left out has none.

        Raises:
            ContrastError: If no pair is left.
        """
        known = {key for other in others for pair in other for key in pair.keys}
        groups = self.merged(*others).groups
        taken = set(groups[len(self) :])
        fresh = [known.isdisjoint(pair.keys) for pair in self.pairs]
        kept = [
            p for p, own in zip(self.pairs, groups[: len(self)], strict=True) if own not in taken
        ]
        names = ", ".join(dict.fromkeys(repr(other.name) for other in others))
        near = sum(fresh) - len(kept)
        if len(kept) == len(self):
            return self
        if not kept:
            also = f" or nearly the same as one ({near} of {len(self)})" if near else ""
            raise ContrastError(
                f"Every question of {self.name!r} is also in {names}{also}, so no pair is left. Use "
                "other questions for one of the sets."
            )
        left_out = f"{len(self) - len(kept) - near} asked there, {near} nearly the same"
        note = f"{len(kept)} of {len(self)} pairs, those not in {names} (left out: {left_out})"
        return self._with(kept, note=note)

    def balanced_letters(self, seed: SupportsIndex = 0) -> ContrastSet:
        """Drops surplus pairs so that no answer letter is positive more often than negative.

        For every two answers x and y, as many pairs are kept with x against y as with y against x.
        A mean difference then holds nothing of the letter itself. Works for Yes and No as well.

        Raises:
            ContrastError: If answers are not letters or Yes/No, or no balanced pairs remain.
        """
        seed = as_int("seed", seed)
        kept = splitting.balanced(self.pairs, seed, self.name)
        return self._with(
            (self.pairs[i] for i in kept),
            note=f"answer letters balanced: {len(kept)} of {len(self)} pairs, seed={seed}",
        )

    def merged(self, *others: ContrastSet, name: str | None = None) -> ContrastSet:
        """This set followed by others. Groups that share a key are joined."""
        sets = (self, *others)
        return ContrastSet(
            name=name or " + ".join(s.name for s in sets),
            pairs=tuple(pair for s in sets for pair in s.pairs),
            source=" + ".join(s.source for s in sets if s.source),
            paired=all(s.paired for s in sets),
            notes=tuple(f"{s.name}: {note}" for s in sets for note in s.notes),
        )

    def with_template(self, template: str) -> ContrastSet:
        """Puts every prompt into a template. Groups do not change.

        Args:
            template: Text with `{prompt}`, which may be missing only if all prompts are empty.
                An optional `{answer}` after it marks the place of the continuation (otherwise the
                end); text after it is added to both sides. The space before the answer follows
                `steerlens.data.formats.text.spaced`.

        Raises:
            ContrastError: If a placeholder is missing, repeated or misplaced, or if the template
                brings chat markers to prompts that already have them.

        >>> pair = ContrastPair("", "good", "bad")
        >>> ContrastSet("w", (pair,)).with_template("The soup was {answer} and").pairs[0].positive
        ' good and'
        """
        made = in_template(self.pairs, template, self.name)
        return self._with(made, note=f"template {template!r}")

    def with_chat(
        self,
        tokenizer: ChatTokenizer | HasTokenizer,
        system: str | None = None,
        *,
        date: datetime.date = CHAT_DATE,
    ) -> ContrastSet:
        """Puts every prompt into the tokenizer's own chat template, once.

        Continuations are then at the start of the assistant's turn. A BOS that the template writes
        stays in the text, and a note says so: tokenize such prompts without adding another one.

        Args:
            tokenizer: A model, or a tokenizer with a chat template.
            system: The text of a system turn before each prompt.
            date: What a template that writes today's date gets; a note states it. With today's date
                the hash of the set would change every day.

        Raises:
            ContrastError: If prompts are empty or already in a chat template, or the template
                refuses them, fails or does not end.
        """
        if is_in_chat(self.notes):
            raise ContrastError(
                f"The prompts of {self.name!r} are already in a chat template. "
                "Use the set as it is."
            )
        made, note = in_chat(self.pairs, tokenizer, system, date)
        return self._with(made, note=note)

    def _with(self, pairs: Iterable[ContrastPair], note: str) -> ContrastSet:
        return replace(self, pairs=tuple(pairs), notes=(*self.notes, note))


PairsLike = ContrastSet | Sequence[Any]
"""A ContrastSet, or what `ContrastSet.from_pairs` takes: pairs, tuples, mappings, a table."""


def as_contrast_set(pairs: Any) -> ContrastSet:
    """A ContrastSet of whatever a public function was given as pairs.

    Raises:
        ContrastError: If it holds something that is not a pair.
    """
    return pairs if isinstance(pairs, ContrastSet) else ContrastSet.from_pairs(pairs)
