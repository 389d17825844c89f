"""Readers of texts of the reference world: which pole they show, and whether they are well-formed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from steerlens.testbed.grammar import require_concept
from steerlens.testbed.oracle import ClauseReading, Oracle


@dataclass(frozen=True)
class PoleReader:
    """The mean over the clauses of a text of 1 for the positive pole, -1 for the other, else 0.

    The clause that a prompt begins counts, and one that the text does not end does not. A text
    without a clause is 0.

    >>> PoleReader("sentiment")(["the soup was"], [" not tasty at all . the bread"])
    [-1.0]
    """

    concept: str
    unit = "clauses"

    def __post_init__(self) -> None:
        require_concept(self.concept)

    @cached_property
    def _oracle(self) -> Oracle:
        return Oracle()

    def __call__(self, prompts: list[str], continuations: list[str]) -> list[float]:
        """One number for each text."""
        found = []
        for prompt, text in zip(prompts, continuations, strict=True):
            poles = [one.pole(self.concept) for one in written_clauses(self._oracle, prompt, text)]
            signs = [0.0 if pole is None else 1.0 if pole else -1.0 for pole in poles]
            found.append(sum(signs) / len(signs) if signs else 0.0)
        return found


@dataclass(frozen=True)
class WellFormedReader:
    """The share of the clauses of a text that the grammar can read; 1 for a text without clauses.

    >>> WellFormedReader()(["the soup was"], [" tasty . soup soup ."])
    [0.5]
    """

    unit = "clauses"

    @cached_property
    def _oracle(self) -> Oracle:
        return Oracle()

    def __call__(self, prompts: list[str], continuations: list[str]) -> list[float]:
        """One number for each text."""
        found = []
        for prompt, text in zip(prompts, continuations, strict=True):
            read = written_clauses(self._oracle, prompt, text)
            found.append(sum(one.well_formed for one in read) / len(read) if read else 1.0)
        return found


def written_clauses(oracle: Oracle, prompt: str, text: str) -> list[ClauseReading]:
    """The clauses that a text finishes, the one that its prompt began included."""
    before = len(oracle.read(prompt)) - (0 if _ends(prompt) else 1)
    clauses = oracle.read(f"{prompt} {text}")[before:]
    return clauses if _ends(text) else clauses[:-1]


def _ends(text: str) -> bool:
    """Whether a text ends with a sentence."""
    words = text.replace("<eos>", " ").split()
    return not words or words[-1] in (".", "!")
