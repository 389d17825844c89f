"""Data of the reference world: contexts to fit directions on, questions to score, neutral texts.

All texts are cut from minimal pairs of the grammar, so the two sides of a pair differ in one
concept and nothing else, and what is right is known. No text contains <bos>: the model's tokenizer
adds it. Prompts do not end with a space; answers carry it in front (" tasty").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from steerlens.contrast import ContrastPair, ContrastSet
from steerlens.testbed.grammar import (
    NEGATIONS,
    SENTENCE_ENDS,
    Clause,
    Document,
    require_concept,
    review_grammar,
)

Context = Literal["mixed", "none", "positive", "negative"]


class _Moment(NamedTuple):
    """Where both documents of a minimal pair are about to say something different."""

    positive: Document
    negative: Document
    clause: Clause
    offset: int
    """Tokens of the clause before the first that differs; at least 1."""

    def words(self, context: Literal["none", "positive", "negative"]) -> str:
        """The text up to the moment, in one of the two documents or with this clause alone."""
        at = self.clause.start + self.offset
        if context == "none":
            return " ".join(self.clause.tokens[: self.offset])
        return " ".join(getattr(self, context).tokens[1:at])

    def answer(self, pole: Literal["positive", "negative"]) -> str:
        return " " + getattr(self, pole).tokens[self.clause.start + self.offset]

    @property
    def meta(self) -> dict[str, str]:
        name = self.clause.form.name
        return {
            "form": name,
            "negated": "yes" if name.startswith(NEGATIONS) else "no",
            "topic": self.positive.latents.topic,
        }


def contexts(concept: str, n: int, seed: int = 0) -> ContrastSet:
    """Pairs of texts that differ in a concept and end right where it is expressed next.

    "the food was delicious . the soup was" against "the food was awful . the soup was". Both sides
    have the same tokens but for the concept's words, which come before the last clause and in all
    the grammar's ways: adjectives, verbs, adverbs, openings, negations. Meant for fitting
    directions at the last token.

    Args:
        concept: "sentiment" (positive pole: positive), "register" (formal), "truth" (truthful).
        n: Number of pairs, all different.
        seed: Another seed gives other pairs.

    Returns:
        Pairs with empty prompts, each its own group. `meta` has the form of the clause that was
        begun ("form"), whether that form is a negation ("negated"), and the topic.

    Raises:
        ValueError: If there is no such concept or n is less than 1.

    >>> pair = contexts("sentiment", 1).pairs[0]
    >>> len(pair.positive.split()) == len(pair.negative.split())
    True
    """
    pairs: dict[tuple[str, str], ContrastPair] = {}
    for moment in _moments(concept, n, [seed, 11]):
        sides = moment.words("positive"), moment.words("negative")
        group = f"{concept} {seed}-{len(pairs)}"
        pairs.setdefault(sides, ContrastPair("", *sides, group=group, meta=moment.meta))
        if len(pairs) == n:
            break
    return ContrastSet(
        name=f"reviews-{concept}-contexts",
        pairs=tuple(pairs.values()),
        source=f"steerlens.testbed.reviews.contexts({concept!r}, n={n}, seed={seed})",
    )


def questions(concept: str, n: int, seed: int = 0, context: Context = "mixed") -> ContrastSet:
    """Prompts that end where a concept is expressed next, with one-word answers for both poles.

    "the bread was tasty . the soup was" with " tasty" against " bland". Under a negation the
    answers turn round: "the soup was not" is positive with " bland".

    Args:
        concept: "sentiment" (positive pole: positive), "register" (formal), "truth" (truthful).
        n: Number of questions, all different.
        seed: Another seed gives other questions.
        context: What stands before the last clause: a text at the "positive" or "negative" pole,
            "none" (the clause alone), or "mixed", a third of each, chosen at random.

    Returns:
        Pairs grouped by prompt. `meta` is as in `contexts`, and "context" says which one it has.

    Raises:
        ValueError: If there is no such concept or context, or n is less than 1.

    >>> pair = questions("truth", 1, context="none").pairs[0]
    >>> pair.positive[0], pair.prompt[-1] == " "
    (' ', False)
    """
    kinds = ("none", "positive", "negative")
    if context not in (*kinds, "mixed"):
        raise ValueError(
            f"context={context!r} is none of 'mixed', 'none', 'positive', 'negative'. "
            "Use 'mixed' for a third of each."
        )
    rng = np.random.default_rng([seed, 13])
    pairs: dict[tuple[str, str, str], ContrastPair] = {}
    for moment in _moments(concept, n, [seed, 12]):
        kind = kinds[int(rng.integers(3))] if context == "mixed" else context
        sides = moment.words(kind), moment.answer("positive"), moment.answer("negative")
        meta = {**moment.meta, "context": kind}
        pairs.setdefault(sides, ContrastPair(*sides, group=sides[0], meta=meta))
        if len(pairs) == n:
            break
    return ContrastSet(
        name=f"reviews-{concept}-questions",
        pairs=tuple(pairs.values()),
        source=(
            f"steerlens.testbed.reviews.questions({concept!r}, n={n}, seed={seed}, "
            f"context={context!r})"
        ),
    )


def neutral_texts(n: int, seed: int = 0) -> list[str]:
    """Ordinary documents of the grammar, for measuring what steering costs.

    Raises:
        ValueError: If n is less than 1.
    """
    _require_count(n)
    rng = np.random.default_rng([seed, 14])
    grammar = review_grammar()
    return [grammar.sample(rng).text for _ in range(n)]


def _require_count(n: int) -> None:
    if n < 1:
        raise ValueError(f"n={n} asks for no data. Use n=1 or more.")


def _moments(concept: str, n: int, seed: list[int]) -> Iterator[_Moment]:
    """One moment from each of many minimal pairs that have one."""
    require_concept(concept)
    _require_count(n)
    rng = np.random.default_rng(seed)
    grammar = review_grammar()
    # The language is far larger than any sensible n; the bound turns a hang into an error.
    for _ in range(1000 + 200 * n):
        moments = _moments_of(*grammar.minimal_pair(concept, rng))
        if moments:
            yield moments[int(rng.integers(len(moments)))]
    raise ValueError(f"There are fewer than n={n} different texts about {concept!r}. Lower n.")


def _moments_of(positive: Document, negative: Document) -> list[_Moment]:
    found = []
    told = False  # whether the concept was expressed before this clause
    for one, other in zip(positive.clauses, negative.clauses, strict=True):
        differing = [
            i for i, (a, b) in enumerate(zip(one.tokens, other.tokens, strict=True)) if a != b
        ]
        # A moment lies inside a clause: at its start nothing says that the concept comes next.
        if (
            told
            and differing
            and differing[0] > 0
            and one.tokens[differing[0]] not in SENTENCE_ENDS
        ):
            found.append(_Moment(positive, negative, one, differing[0]))
        told = told or bool(differing)
    return found
