"""A clean and a corrupt prompt with the answers that each of them asks for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steerlens.data import ContrastError, ContrastPair, ContrastSet


@dataclass(frozen=True)
class PromptPair:
    """Two prompts with the same number of tokens that differ in what they ask about.

    Raises:
        ContrastError: If the prompts or the answers are equal, or one of them is empty.

    >>> PromptPair("Rome is in", "Paris is in", " Italy", " France").group
    ''
    """

    clean: str
    """The prompt after which `positive` is the right answer."""
    corrupt: str
    """The prompt after which `negative` is."""
    positive: str
    negative: str
    group: str = ""
    """Pairs of one group are resampled together; "" where the pair is a group by itself."""

    def __post_init__(self) -> None:
        ContrastPair(self.clean, self.positive, self.negative)  # refuses what is no text
        ContrastPair(self.corrupt, self.positive, self.negative)
        if not self.clean or not self.corrupt:
            raise ContrastError("A prompt is empty, so nothing can be patched. Write both prompts.")
        if self.clean == self.corrupt:
            raise ContrastError(
                f"Both prompts are {self.clean!r:.80}, so patching would change nothing. Change in "
                "the corrupt prompt what the answer depends on."
            )


def read_prompt_pairs(pairs: Iterable[PromptPair | Sequence[str]]) -> tuple[PromptPair, ...]:
    """Pairs from `PromptPair`s or tuples (clean, corrupt, positive, negative).

    Raises:
        ContrastError: If there are none, or one of them is neither.
    """
    found = []
    for k, pair in enumerate(pairs):
        if isinstance(pair, PromptPair):
            found.append(pair)
        elif isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) in (4, 5):
            found.append(PromptPair(*pair))
        else:
            raise ContrastError(
                f"Pair {k} is {pair!r:.80}. Write PromptPair(clean, corrupt, positive, negative), "
                "or a tuple of these four texts."
            )
    if not found:
        raise ContrastError("There are no pairs of prompts. Give at least one.")
    return tuple(found)


def sides(pairs: Sequence[PromptPair]) -> tuple[ContrastSet, ContrastSet]:
    """The clean and the corrupt prompts, each as questions with the same answers."""
    made = []
    for name in ("clean", "corrupt"):
        rows = [ContrastPair(getattr(p, name), p.positive, p.negative, p.group) for p in pairs]
        made.append(ContrastSet(name, tuple(rows)))
    return made[0], made[1]


def groups_of(pairs: Sequence[PromptPair]) -> tuple[str, ...]:
    """The name of each pair's group."""
    return tuple(pair.group or f"pair {k}" for k, pair in enumerate(pairs))


def digest_of(pairs: Sequence[PromptPair]) -> str:
    """A short hash of the texts."""
    return hashlib.sha256(repr(tuple(pairs)).encode()).hexdigest()[:16]
