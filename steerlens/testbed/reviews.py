"""Data of the reference world: contexts to fit directions on, questions to score, neutral texts.

All texts are cut from minimal pairs of the grammar, so the two sides of a pair differ in one
concept and nothing else, and what is right is known. No text contains <bos>: the model's tokenizer
adds it. Prompts do not end with a space; answers carry it in front (" tasty").
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Literal, NamedTuple

import numpy as np

from steerlens.data import ContrastPair, ContrastSet
from steerlens.testbed.grammar import (
    BODY,
    CLOSING,
    NEGATIONS,
    SENTENCE_ENDS,
    Clause,
    Document,
    Latents,
    require_concept,
)
from steerlens.testbed.review_grammar import TOPICS, review_grammar

Context = Literal["mixed", "none", "positive", "negative"]
Register = Literal["formal", "casual"]


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


class _Kept(NamedTuple):
    """What every document is held to; None leaves it to chance."""

    topic: str | None
    register: str | None
    form: str | None

    def check(self, concept: str) -> None:
        if self.topic is not None and self.topic not in TOPICS:
            raise ValueError(
                f"topic={self.topic!r} is none of {', '.join(TOPICS)}. Use one of them."
            )
        if self.register not in (None, "formal", "casual"):
            raise ValueError(f"register={self.register!r} is neither 'formal' nor 'casual'.")
        if self.register is not None and concept == "register":
            raise ValueError(
                f"register={self.register!r} cannot be kept while register is the concept: the two "
                "sides of a pair differ in it. Leave register out, or ask about another concept."
            )
        if self.form is not None and self.form not in forms_of(concept):
            raise ValueError(
                f"No clause of the form {self.form!r} can be cut where it tells of {concept}. "
                f"Use one of {', '.join(forms_of(concept))}."
            )

    def stream(self, *seed: int) -> np.random.Generator:
        """A source of chance; what is kept differently draws differently."""
        if any(self):
            return np.random.default_rng([*seed, zlib.crc32(repr(tuple(self)).encode())])
        return np.random.default_rng([*seed])

    def latents(self, rng: np.random.Generator) -> Latents | None:
        """What a document is about, where that is not all left to chance."""
        if self.topic is None and self.register is None:
            return None
        states = review_grammar().states
        drawn = states[int(rng.integers(len(states)))]
        if self.register is not None:
            drawn = drawn.with_pole("register", self.register == "formal")
        return drawn._replace(topic=self.topic or drawn.topic)

    def __str__(self) -> str:
        return "".join(f", {k}={v!r}" for k, v in self._asdict().items() if v is not None)


def contexts(
    concept: str,
    n: int,
    seed: int = 0,
    *,
    topic: str | None = None,
    register: Register | None = None,
    form: str | None = None,
) -> ContrastSet:
    """Pairs of texts that differ in a concept and end right where it is expressed next.

    "the food was delicious . the soup was" against "the food was awful . the soup was". Both sides
    have the same tokens but for the concept's words, which come before the last clause and in all
    the grammar's ways: adjectives, verbs, adverbs, openings, negations. Meant for fitting
    directions at the last token.

    Args:
        concept: "sentiment" (positive pole: positive), "register" (formal), "truth" (truthful).
        n: Number of pairs, all different.
        seed: Another seed gives other pairs.
        topic: "restaurant", "hotel", "book" or "phone" throughout; else all of them.
        register: "formal" or "casual" throughout; else both. Not where it is the concept.
        form: The form of the last clause throughout, one of `forms_of(concept)`; else all.

    Returns:
        Pairs with empty prompts, each its own group. `meta` has the form of the clause that was
        begun ("form"), whether that form is a negation ("negated"), and the topic. What is kept
        the same is drawn anew: formal pairs are not the formal ones among those of the same seed.

    Raises:
        ValueError: If there is no such concept, topic, register or form, n is less than 1, or
            there are not n such pairs.

    >>> pair = contexts("sentiment", 1).pairs[0]
    >>> len(pair.positive.split()) == len(pair.negative.split())
    True
    """
    kept = _Kept(topic, register, form)
    pairs: dict[tuple[str, str], ContrastPair] = {}
    for moment in _moments(concept, n, kept, seed, 11):
        sides = moment.words("positive"), moment.words("negative")
        group = f"{concept}{kept} {seed}-{len(pairs)}"
        pairs.setdefault(sides, ContrastPair("", *sides, group=group, meta=moment.meta))
        if len(pairs) == n:
            break
    return ContrastSet(
        name=f"reviews-{concept}-contexts",
        pairs=tuple(pairs.values()),
        source=f"steerlens.testbed.reviews.contexts({concept!r}, n={n}, seed={seed}{kept})",
    )


def questions(
    concept: str,
    n: int,
    seed: int = 0,
    context: Context = "mixed",
    *,
    topic: str | None = None,
    register: Register | None = None,
    form: str | None = None,
) -> ContrastSet:
    """Prompts that end where a concept is expressed next, with one-word answers for both poles.

    "the bread was tasty . the soup was" with " tasty" against " bland". Under a negation the
    answers turn round: "the soup was not" is positive with " bland".

    Args:
        concept: "sentiment" (positive pole: positive), "register" (formal), "truth" (truthful).
        n: Number of questions, all different.
        seed: Another seed gives other questions.
        context: What stands before the last clause: a text at the "positive" or "negative" pole,
            "none" (the clause alone), or "mixed", a third of each, chosen at random.
        topic: As in `contexts`; so are `register` and `form`.
        register: Of the context and of the question itself.
        form: Of the clause in question.

    Returns:
        Pairs grouped by prompt. `meta` is as in `contexts`, and "context" says which one it has.

    Raises:
        ValueError: If there is no such concept, context, topic, register or form, n is less than
            1, or there are not n such questions.

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
    kept = _Kept(topic, register, form)
    rng = kept.stream(seed, 13)
    pairs: dict[tuple[str, str, str], ContrastPair] = {}
    for moment in _moments(concept, n, kept, seed, 12):
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
            f"context={context!r}{kept})"
        ),
    )


def continuations(concept: str, n: int, seed: int = 0, *, length: int = 6) -> ContrastSet:
    """Prompts that say nothing of a concept yet, with how documents of both poles go on.

    "the soup was" with " tasty . i enjoyed the" against " bland . i regretted the". Both answers
    have the same tokens but for the concept's words, of which the first comes first. Meant for
    training on whole texts rather than on one word.

    Args:
        concept: "sentiment" (positive pole: positive), "register" (formal), "truth" (truthful).
        n: Number of pairs, all different.
        seed: Another seed gives other pairs.
        length: Tokens of each answer, at the most; a document may end before.

    Returns:
        Pairs grouped by prompt. `meta` has the topic.

    Raises:
        ValueError: If there is no such concept, n or length is less than 1, or there are not n such
            pairs.

    >>> pair = continuations("register", 1).pairs[0]
    >>> len(pair.positive.split()) == len(pair.negative.split())
    True
    """
    require_concept(concept)
    _require_count(n)
    if length < 1:
        raise ValueError(f"length={length} leaves no tokens to answer with. Use 1 or more.")
    rng = np.random.default_rng([seed, 15])
    grammar = review_grammar()
    pairs: dict[tuple[str, str, str], ContrastPair] = {}
    for _ in range(1000 + 200 * n):
        documents = grammar.minimal_pair(concept, rng)
        one, other = (document.tokens[1:-1] for document in documents)
        start = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
        if start == 0:  # a prompt needs a word
            continue
        prompt = " ".join(one[:start])
        positive, negative = (" " + " ".join(x[start : start + length]) for x in (one, other))
        texts = (prompt, positive, negative)
        meta = {"topic": documents[0].latents.topic}
        pairs.setdefault(texts, ContrastPair(*texts, group=prompt, meta=meta))
        if len(pairs) == n:
            return ContrastSet(
                name=f"reviews-{concept}-continuations",
                pairs=tuple(pairs.values()),
                source=(
                    f"steerlens.testbed.reviews.continuations({concept!r}, n={n}, seed={seed}, "
                    f"length={length})"
                ),
            )
    raise ValueError(
        f"Not n={n} different continuations about {concept!r} were found. Lower n, or give a greater "
        "length."
    )


@cache
def forms_of(concept: str) -> tuple[str, ...]:
    """The forms of clauses that tell of a concept after their first word.

    >>> forms_of("sentiment")[:3]
    ('because', 'concession', 'connector')
    """
    require_concept(concept)
    grammar = review_grammar()
    found = set()
    for form in itertools.chain(grammar.groups[BODY], grammar.groups[CLOSING]):
        telling = [
            place
            for place, slot in enumerate(form.slots[:-1])
            for state, options in zip(grammar.states, slot.options, strict=True)
            if options != slot.options[grammar.states.index(state.with_pole(concept, True))]
        ]
        if telling and telling[0] > 0:
            found.add(form.name)
    return tuple(sorted(found))


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


def _moments(concept: str, n: int, kept: _Kept, *seed: int) -> Iterator[_Moment]:
    """One moment from each of many minimal pairs that have one."""
    require_concept(concept)
    _require_count(n)
    kept.check(concept)
    rng = kept.stream(*seed)
    grammar = review_grammar()
    # The language is far larger than any sensible n; the bound turns a hang into an error.
    for _ in range(1000 + 200 * n):
        moments = _moments_of(*grammar.minimal_pair(concept, rng, kept.latents(rng)))
        if kept.form is not None:
            moments = [moment for moment in moments if moment.clause.form.name == kept.form]
        if moments:
            yield moments[int(rng.integers(len(moments)))]
    raise ValueError(
        f"Not n={n} different texts about {concept!r}{kept} were found. Lower n, or leave more to "
        "chance: some forms are rare, or hold few words."
    )


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
