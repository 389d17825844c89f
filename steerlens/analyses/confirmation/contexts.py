"""Contexts of a contrast: what is put before a prompt so that a model writes, or expects, one side."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from steerlens.arguments import as_texts
from steerlens.data import ContrastPair, ContrastSet
from steerlens.data.formats.chat import chat_prompt
from steerlens.data.formats.text import ContrastError, chat_markers, digest
from steerlens.models.model import Model

Side = Literal["positive", "negative"]
SIDES: tuple[Side, Side] = ("positive", "negative")
_WORDS = 3
"""Texts of at most so many words are a word list: several stand together in one context."""
_LISTED = 8
"""How many words of a list stand in one context."""
_ENDS = re.compile(r".*[.!?](?:['\")\]]*)(?=\s|$)", re.DOTALL)
"""A text up to the end of its last sentence."""


class ContextError(ValueError):
    """Contexts that cannot be made of some pairs, or not be put before a prompt."""


@dataclass(frozen=True)
class Contexts:
    """Two-sided contexts of a contrast, each of which can stand before a prompt.

    The unsteered model writes after `place(prompt, "positive", k)` what the contrast is about, as
    far as it follows contexts. That gives a scale for what steering writes.
    """

    positive: tuple[str, ...]
    """What stands before the prompt for the positive side."""
    negative: tuple[str, ...]
    """The same for the negative side; entry k differs from `positive[k]` in the contrast alone."""
    replaces: str = ""
    """What every prompt starts with and the context takes the place of: a chat template's opening.
    "" where a context is put before the whole prompt."""
    made_of: str = "given"
    """What they were made of, in words."""

    def __post_init__(self) -> None:
        for side in SIDES:
            object.__setattr__(self, side, as_texts(side, getattr(self, side)))
        if not self.positive or len(self.positive) != len(self.negative):
            raise ContextError(
                f"{len(self.positive)} positive and {len(self.negative)} negative contexts. Give "
                "at least one of each, and as many of both."
            )
        for one, other in zip(self.positive, self.negative, strict=True):
            if one == other:
                raise ContextError(
                    f"A positive and a negative context are both {one!r:.80}, so they predict the "
                    "same texts. Give contexts that differ."
                )

    def __len__(self) -> int:
        return len(self.positive)

    @property
    def hash(self) -> str:
        """A short hash of the content."""
        return digest(self.replaces, *self.positive, "|", *self.negative)[:16]

    def place(self, prompt: str, side: Side, k: int) -> str:
        """A prompt with the k-th context of one side before it; k counts on from the start.

        Raises:
            ContextError: If the prompt does not start with what the context replaces.
        """
        if not prompt.startswith(self.replaces):
            raise ContextError(
                f"The prompt {prompt!r:.80} does not start with {self.replaces!r:.80}, which the "
                "system text of a context takes the place of. Give prompts in the model's own chat "
                "template without a system turn: pairs.with_chat(model)."
            )
        contexts = self.positive if side == "positive" else self.negative
        return contexts[k % len(contexts)] + prompt[len(self.replaces) :]

    def some(self, keep: slice) -> Contexts:
        """Some of them."""
        return Contexts(self.positive[keep], self.negative[keep], self.replaces, self.made_of)

    def halves(self) -> tuple[Contexts, Contexts]:
        """Every second one, and the others; twice the same where there is only one."""
        if len(self) == 1:
            return self, self
        return self.some(slice(0, None, 2)), self.some(slice(1, None, 2))

    @classmethod
    def from_systems(cls, model: Model, positive: str, negative: str) -> Contexts:
        """Two system texts in a chat model's own template.

        Args:
            model: A model whose tokenizer has a chat template.
            positive: What the system turn asks for on the positive side.

        Raises:
            ContextError: If the tokenizer has no chat template, or one without a system turn.
        """
        plain = _opening(model, None)
        sides = tuple(_opening(model, text) for text in (positive, negative))
        return cls((sides[0],), (sides[1],), plain, "system texts")

    @classmethod
    def from_pairs(
        cls, model: Model, pairs: ContrastSet, prompts: Sequence[str], *, room: int = 0
    ) -> Contexts:
        """Contexts made of the pairs that a direction was fitted on.

        - Texts in a chat template whose system turns differ: the system turn takes the place of the
          prompt's own opening.
        - Other texts: each side stands as a sentence before the prompt, cut at the end of its last
          whole sentence where the two sides differ before it.
        - Word lists (texts of at most three words): eight words of one side stand together.

        Pairs that hold one of the prompts are left out, and contexts that are too long.

        Args:
            prompts: What the contexts will be put before.
            room: Tokens that must fit the model's context after a context and a prompt.

        Raises:
            ContextError: If no pair can be made into a context for these prompts; the message says
                why.
        """
        prompts = list(prompts)
        return cls._made(model, pairs, prompts)._fitting(model, prompts, room)

    @classmethod
    def _made(cls, model: Model, pairs: ContrastSet, prompts: list[str]) -> Contexts:
        fresh = [pair for pair in pairs if not _holds(pair, prompts)]
        if not fresh:
            raise ContextError(
                f"Every pair of {pairs.name!r} holds one of the prompts, so none can be a context "
                "for them. Use other prompts."
            )
        chat = bool(chat_markers(prompts[0]))
        texts = [(pair.positive_text, pair.negative_text) for pair in fresh]
        systems = _systems(fresh)
        if chat and systems:
            openings = [tuple(_opening(model, text) for text in both) for both in systems]
            return cls(*_columns(openings), _opening(model, None), "system texts of the pairs")
        if chat and chat_markers(texts[0][0]):
            return cls(*_columns(_turns(model, texts)), _opening(model, None), "system turns")
        if chat or chat_markers(texts[0][0]):
            which = "prompts" if chat else "pairs"
            raise ContextError(
                f"The {which} are in a chat template and the others are not, so a pair cannot stand "
                "before a prompt. Give contexts of your own: "
                "Contexts.from_systems(model, positive, negative)."
            )
        if systems:
            sides = [tuple(f"{text.strip()}\n\n" for text in both) for both in systems]
            return cls(*_columns(sides), made_of="instructions of the pairs")
        if all(len(text.split()) <= _WORDS for both in texts for text in both):
            return cls(*_lists(model, texts), made_of="words of the pairs")
        return cls(*_columns(_sentences(model, texts)), made_of="texts of the pairs")

    def _fitting(self, model: Model, prompts: list[str], room: int) -> Contexts:
        """Those that leave room after every prompt."""
        longest = max(prompts, key=lambda prompt: len(model.ids(prompt)))
        kept = []
        for k in range(len(self)):
            both = [len(model.ids(self.place(longest, side, k))) for side in SIDES]
            if max(both) + room <= model.n_ctx:
                kept.append(k)
        for prompt in prompts:
            self.place(prompt, "positive", 0)  # refuses a prompt that it cannot stand before
        if not kept:
            raise ContextError(
                f"No context leaves room for {room} tokens after the longest prompt in a context "
                f"of {model.n_ctx} tokens. Use shorter prompts or fewer new tokens."
            )
        return Contexts(
            tuple(self.positive[k] for k in kept), tuple(self.negative[k] for k in kept),
            self.replaces, self.made_of,
        )  # fmt: skip


def _columns(rows: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Different pairs of contexts as two columns."""
    kept = [row for row in dict.fromkeys(rows) if row[0] != row[1]]
    return tuple(row[0] for row in kept), tuple(row[1] for row in kept)


def _holds(pair: ContrastPair, prompts: Sequence[str]) -> bool:
    return any(prompt in (pair.prompt, pair.positive, pair.negative) for prompt in prompts)


def _systems(pairs: Sequence[ContrastPair]) -> list[tuple[str, str]]:
    """The system texts that a trait file states for its pairs."""
    names = ("positive_system", "negative_system")
    found = [tuple(pair.meta.get(name, "") for name in names) for pair in pairs]
    return found if all(all(both) for both in found) else []  # type: ignore[return-value]


def _opening(model: Model, system: str | None) -> str:
    """What the chat template writes before the user's text."""
    user = "What is the colour of the sky?"
    try:
        return chat_prompt(model, user, system).text.partition(user)[0]
    except ContrastError as error:
        raise ContextError(f"There is no system turn to put a context into: {error}") from error


def _turns(model: Model, texts: Sequence[tuple[str, str]]) -> list[tuple[str, ...]]:
    """The openings of texts in a chat template, up to where the user's text starts."""
    with_system, plain = _opening(model, "Be brief."), _opening(model, None)
    turn = with_system.rpartition("Be brief.")[2]
    if not turn or not plain.endswith(turn.lstrip()):
        turn = os.path.commonprefix([with_system[::-1], plain[::-1]])[::-1]
    found = []
    for both in texts:
        heads = tuple(text.partition(turn)[0] + turn for text in both)
        rests = {text.partition(turn)[2] for text in both}
        if turn and all(turn in text for text in both) and len(rests) == 1:
            found.append(heads)
    if not found or all(one == other for one, other in found):
        raise ContextError(
            "The pairs are in a chat template and do not differ in a system turn before the same "
            "user's text, so no system text can be taken from them as a context. Give the two "
            "texts yourself: Contexts.from_systems(model, positive, negative)."
        )
    return found


def _lists(
    model: Model, texts: Sequence[tuple[str, str]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Words of one side together, in the order of the pairs."""
    columns, stop = [], _full_stop(model, texts)
    between = stop.replace(".", ",") + " "
    for side in (0, 1):
        words = [both[side].strip() for both in texts]
        runs = [words[k : k + _LISTED] for k in range(0, len(words), _LISTED)]
        columns.append(tuple(between.join(run) + stop + " " for run in runs))
    return columns[0], columns[1]


def _full_stop(model: Model, texts: Sequence[tuple[str, str]]) -> str:
    """What ends a sentence in the model's own writing: one that its tokenizer knows."""
    known = [text.rstrip() for both in texts for text in both if text.rstrip()[-1:].isalnum()]
    unknown = model.tokenizer.unk_token_id
    if not known or unknown is None:
        return "."

    def count(stop: str) -> int:
        return sum(model.ids(text + stop).count(unknown) for text in known[:8])

    return min((".", " .", ""), key=count)  # the first of those with the fewest unknown tokens


def _sentences(model: Model, texts: Sequence[tuple[str, str]]) -> list[tuple[str, ...]]:
    """Each side as a sentence, with the space before what follows."""
    found, stop = [], _full_stop(model, texts)
    for both in texts:
        whole = [_ENDS.match(text) for text in both]
        cut = tuple(end[0] for end in whole if end is not None)
        if len(cut) < 2 or cut[0].strip() == cut[1].strip():
            bare = [text.rstrip() for text in both]
            cut = tuple(text + stop if text[-1:].isalnum() else text for text in bare)
        gap = "\n\n" if any("\n" in text.strip() for text in both) else " "
        found.append(tuple(text.strip() + gap for text in cut))
    return found
