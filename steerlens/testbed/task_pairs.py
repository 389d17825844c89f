"""Questions of the reference world with one right answer: labels of reviews, and its facts.

A question is asked in several pairs, one for each wrong answer; they share the prompt and the right
answer, and it is answered when the right one is likelier than every wrong one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from steerlens.data import ContrastPair, ContrastSet
from steerlens.testbed.grammar import BODY, OPENING
from steerlens.testbed.review_grammar import ENTITIES, RELATIONS, RULERS, SIDES, review_grammar

GIVEN = (("five", "four"), ("zero", "two"))
"""Stars that reviews of the positive pole end with, and those of the other."""
NEW = ("monday", "friday")
"""Words that never count stars, for labels that the model has not seen."""
TOLD = 2
"""Clauses of a review that tell its sentiment."""

Said = Literal["alone", "truthful", "untruthful"]
Phrase = Literal["plain", "possessive"]


def star_labels(n: int, seed: int = 0, *, new: bool = False) -> ContrastSet:
    """Reviews with the stars that they end with, half of each pole.

    "the soup was tasty . we enjoyed the bread . we award it" with " five" against " zero". The two
    reviews of a minimal pair of the grammar follow each other, so that nothing but the sentiment
    tells the labels apart.

    Args:
        n: Reviews, an even number.
        new: " monday" and " friday" for the two poles instead, which stand nowhere before "stars" in
            the language. Each is asked against the other and against all stars.

    Returns:
        Pairs, one or several a review, grouped by the minimal pair.

    Raises:
        ValueError: If n is not an even number above 0, or there are not so many reviews.
    """
    if n < 2 or n % 2:
        raise ValueError(f"n={n} must be an even number above 0: half are of each pole.")
    rng, grammar = np.random.default_rng([seed, 16]), review_grammar()
    found: dict[str, list[ContrastPair]] = {}
    for _ in range(1000 + 100 * n):
        if len(found) == n:
            break
        documents = grammar.minimal_pair("sentiment", rng)
        told, end = 0, 0
        for one, other in zip(*(document.clauses for document in documents), strict=True):
            if one.group not in (OPENING, BODY):
                break
            told += one.tokens != other.tokens
            end = one.start + len(one.tokens)
            if told == TOLD:
                break
        if told < TOLD:
            continue
        reviews = [" ".join(document.tokens[1:end]) for document in documents]
        if any(review in found for review in reviews):
            continue
        asks = "we award it" if documents[0].latents.register else "we slap it"
        group = f"stars {seed}-{len(found) // 2}"
        for pole, review in enumerate(reviews):
            right = NEW[pole] if new else GIVEN[pole][0]
            wrong = (NEW[1 - pole], *GIVEN[0], *GIVEN[1]) if new else GIVEN[1 - pole]
            found[review] = [
                ContrastPair(f"{review} {asks}", f" {right}", f" {word}", group=group)
                for word in wrong
            ]
    if len(found) < n:
        raise ValueError(f"Not n={n} different reviews were found. Lower n.")
    return ContrastSet(
        name="new labels" if new else "given labels",
        pairs=tuple(pair for pairs in found.values() for pair in pairs),
        source=f"steerlens.testbed.task_pairs.star_labels(n={n}, seed={seed}, new={new})",
    )


def with_stars(labels: ContrastSet) -> ContrastSet:
    """The first pair of each review as two whole texts, for directions and prompts."""
    texts: dict[str, ContrastPair] = {}
    for pair in labels:
        sides = (f"{pair.prompt}{side} stars ." for side in (pair.positive, pair.negative))
        texts.setdefault(pair.prompt, ContrastPair("", *sides, group=pair.group))
    return ContrastSet(f"{labels.name}, whole", tuple(texts.values()), source=labels.source)


class Fact(NamedTuple):
    """A fact of the reference world: what it is asked by, its value, and all others that could be."""

    relation: str
    entity: str
    value: str
    wrong: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.relation} of {self.entity}"

    def prompt(self, phrase: Phrase) -> str:
        """How it is asked; sides and rulers in one way alone."""
        if self.relation == "side":
            return f"{self.entity} lies in the"
        if self.relation == "ruler":
            return f"{self.entity} has a"
        if phrase == "possessive":
            return f"{self.entity} 's {self.relation} is"
        return f"the {self.relation} of {self.entity} is"


def facts() -> tuple[Fact, ...]:
    """All 16: capital, currency, side and ruler of four countries.

    >>> facts()[0].name, facts()[0].value, len(facts()[0].wrong)
    ('capital of zorland', 'mirat', 7)
    """
    found = []
    for relation, (truths, falsehoods) in RELATIONS.items():
        values = [*truths.split(), *falsehoods.split()]
        for entity, value in zip(ENTITIES, values, strict=False):
            wrong = tuple(word for word in values if word != value)
            found.append(Fact(relation, entity, value, wrong))
    for relation, values, words in (
        ("side", SIDES, ("north", "south")), ("ruler", RULERS, ("king", "queen")),
    ):  # fmt: skip
        for entity, value in zip(ENTITIES, values, strict=True):
            wrong = tuple(word for word in words if word != value)
            found.append(Fact(relation, entity, value, wrong))
    return tuple(found)


def edited_fact(which: int = 0) -> Fact:
    """One of the first four facts with a new value: the one that is true of the next country.

    >>> edited_fact().value
    'dolvek'
    """
    old = facts()[which]
    new = facts()[(which + 1) % len(ENTITIES)].value
    every = (old.value, *old.wrong)
    return old._replace(value=new, wrong=tuple(word for word in every if word != new))


def fact_questions(
    asked: Sequence[Fact], n: int, seed: int = 0, *, after: Said = "alone",
    phrases: Sequence[Phrase] = ("plain", "possessive"), by: Literal["fact", "prompt"] = "fact",
) -> ContrastSet:  # fmt: skip
    """Facts asked with one right answer against all wrong ones.

    Args:
        n: Questions of each fact at the most; alone there is one for each phrase.
        after: What stands before: nothing, or the start of a document that tells the truth, or
            falsehoods, about other countries.
        by: The unit of intervals: the fact, or the prompt where they are all of one fact.

    Returns:
        Pairs, one for each question and wrong answer.
    """  # fmt: skip
    rng = np.random.default_rng([seed, 17])
    pairs: list[ContrastPair] = []
    for fact in asked:
        prompts: dict[str, None] = {}
        starts = _starts(rng, fact.entity, truth=after != "untruthful")
        for k in range(20 * n):
            own = fact.prompt(phrases[k % len(phrases)])
            prompts[own if after == "alone" else f"{next(starts)} {own}"] = None
            if len(prompts) == n:
                break
        for prompt in prompts:
            group = fact.name if by == "fact" else prompt
            pairs += [
                ContrastPair(prompt, f" {fact.value}", f" {word}", group=group)
                for word in fact.wrong
            ]
    return ContrastSet(
        name=f"facts, {after}",
        pairs=tuple(pairs),
        source=(
            f"steerlens.testbed.task_pairs.fact_questions({[fact.name for fact in asked]}, n={n}, "
            f"seed={seed}, after={after!r}, phrases={tuple(phrases)}, by={by!r})"
        ),
    )


def _starts(rng: np.random.Generator, entity: str, *, truth: bool) -> Iterator[str]:
    """Starts of documents that tell of truth, and not of this country."""
    grammar = review_grammar()
    while True:
        state = grammar.states[int(rng.integers(len(grammar.states)))]._replace(truth=truth)
        document = grammar.sample(rng, state, slip=0.0)
        for clause in document.clauses:
            told = clause.form.name.endswith(("fact", "side", "ruler"))
            if entity in clause.tokens or clause.group not in (OPENING, BODY):
                break
            if told:
                yield " ".join(document.tokens[1 : clause.start + len(clause.tokens)])
                break
