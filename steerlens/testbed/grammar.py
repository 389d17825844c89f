"""Grammars of short documents whose concepts are known exactly.

A document has four independent latents (sentiment, register, truth, topic) that persist through
it. Each clause redraws every binary latent's pole with a small probability, the *slip*, so that
evidence about a concept stays finite. Given the clause's latents, a clause is a form (a fixed
sequence of slots) with one word drawn per slot; so every probability has a closed form, which
`steerlens.testbed.oracle` computes.
"""

from __future__ import annotations

import itertools
from bisect import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

BOS, EOS = "<bos>", "<eos>"
SENTENCE_ENDS = frozenset({".", "!"})
"""Tokens that end a clause; they occur nowhere else."""
CONCEPTS = ("sentiment", "register", "truth")
"""The steerable concepts; the positive pole is positive, formal, truthful."""
NEGATIONS = ("negated", "denied", "hardly", "nothing", "concession")
"""How the names of forms begin that express a pole by denying the other."""
OPENING, BODY, CLOSING, END = "opening", "body", "closing", "end"


class Latents(NamedTuple):
    """What a document, or one clause of it, is about and how it speaks."""

    sentiment: bool
    """True: positive."""
    register: bool
    """True: formal."""
    truth: bool
    """True: truthful."""
    topic: str

    def with_pole(self, concept: str, pole: bool) -> Latents:
        """The same latents with one concept set."""
        return self._replace(**{require_concept(concept): pole})


def require_concept(concept: str) -> str:
    """Returns `concept` if the reference world has it.

    Raises:
        ValueError: If it does not.
    """
    if concept not in CONCEPTS:
        raise ValueError(
            f"The reference world has no concept {concept!r}. Use one of {', '.join(CONCEPTS)}."
        )
    return concept


@dataclass(frozen=True, eq=False)
class Slot:
    """One token position: for each latent state, the words it may hold and how likely each is.

    Aligned states list their words in the same order, so that one draw picks counterparts
    ("tasty" and "bland") in two states.
    """

    options: tuple[Mapping[str, float], ...]

    @cached_property
    def probs(self) -> dict[str, Float[np.ndarray, " state"]]:
        """Word to its probability in every state."""
        words = dict.fromkeys(word for options in self.options for word in options)
        return {
            word: np.array([options.get(word, 0.0) for options in self.options]) for word in words
        }

    @cached_property
    def _cumulative(self) -> tuple[tuple[tuple[str, ...], list[float]], ...]:
        return tuple(
            (tuple(options), list(itertools.accumulate(options.values())))
            for options in self.options
        )

    def pick(self, state: int, draw: float) -> str:
        """The word at quantile `draw` (in [0, 1)) of a state's distribution."""
        words, cumulative = self._cumulative[state]
        return words[min(bisect(cumulative, draw), len(words) - 1)]


@dataclass(frozen=True, eq=False)
class Form:
    """A kind of clause: one slot per token, and its weight in each latent state."""

    name: str
    slots: tuple[Slot, ...]
    weights: Float[np.ndarray, " state"]


class Clause(NamedTuple):
    """One sampled clause; `latents` are its own, after slips."""

    form: Form
    group: str
    latents: Latents
    start: int
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """A sampled document and everything hidden behind it."""

    latents: Latents
    clauses: tuple[Clause, ...]

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """All tokens, with the opening <bos> and the closing <eos>."""
        return (BOS, *(token for clause in self.clauses for token in clause.tokens), EOS)

    @property
    def text(self) -> str:
        """The words joined by spaces, without <bos> and <eos>."""
        return " ".join(self.tokens[1:-1])


@dataclass(frozen=True, eq=False)
class Grammar:
    """A distribution over documents: <bos> opening? body-clause+ closing? <eos>.

    Args:
        states: Every combination of latents; uniform for documents.
        groups: The forms of "opening", "body" and "closing" clauses.
        sentence_counts: Probability of each number of body clauses, at least 1.
        opening_rate: Probability of an opening clause.
        closing_rate: Probability of a closing clause.
        slip: Probability, per clause and concept, that the clause shows the other pole.

    Raises:
        ValueError: If a form has a sentence end inside it or none at its end, if a form's weight
            depends on a concept (minimal pairs would differ in structure), if a group that occurs
            has no forms, or if the rates are not probabilities.
    """

    states: tuple[Latents, ...]
    groups: Mapping[str, tuple[Form, ...]]
    sentence_counts: Mapping[int, float]
    opening_rate: float
    closing_rate: float
    slip: float

    def __post_init__(self) -> None:
        if min(self.sentence_counts) < 1 or abs(sum(self.sentence_counts.values()) - 1) > 1e-9:
            raise ValueError(
                f"sentence_counts={dict(self.sentence_counts)} is not a distribution over "
                "1, 2, ... Give probabilities that sum to 1 for counts of at least 1."
            )
        for name in ("opening_rate", "closing_rate", "slip"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1).")
        needed = {OPENING: self.opening_rate, BODY: 1.0, CLOSING: self.closing_rate}
        for group, rate in needed.items():
            if rate > 0 and not self.groups.get(group):
                raise ValueError(
                    f"There are no forms for {group!r} clauses, but they occur with probability "
                    f"{rate}. Add forms to groups[{group!r}], or set the rate to 0."
                )
        for form in itertools.chain(*self.groups.values()):
            ends = [set(slot.probs) <= SENTENCE_ENDS for slot in form.slots]
            inside = [SENTENCE_ENDS.isdisjoint(slot.probs) for slot in form.slots[:-1]]
            if not (ends[-1] and all(inside)):
                raise ValueError(
                    f"Form {form.name!r} must end, and only end, with one of "
                    f"{sorted(SENTENCE_ENDS)}."
                )
            by_topic: dict[str, float] = {}
            for latents, weight in zip(self.states, form.weights, strict=True):
                if by_topic.setdefault(latents.topic, weight) != weight:
                    raise ValueError(
                        f"The weight of form {form.name!r} depends on a concept, so a minimal "
                        "pair could differ in structure. Let only its slots depend on concepts."
                    )

    @cached_property
    def form_probs(self) -> dict[str, Float[np.ndarray, "form state"]]:
        """For each group, the probability of each of its forms in each state."""
        tables = {}
        for group, forms in self.groups.items():
            weights = np.stack([form.weights for form in forms])
            tables[group] = weights / weights.sum(0)
        return tables

    @cached_property
    def slips(self) -> Float[np.ndarray, "state state"]:
        """Probability that a document in the row's state says a clause in the column's."""
        table = np.zeros((len(self.states), len(self.states)))
        for (i, document), (j, clause) in itertools.product(enumerate(self.states), repeat=2):
            if document.topic == clause.topic:
                changed = sum(a != b for a, b in zip(document[:3], clause[:3], strict=True))
                table[i, j] = self.slip**changed * (1 - self.slip) ** (len(CONCEPTS) - changed)
        return table

    @cached_property
    def transitions(self) -> tuple[tuple[tuple[str, float, int], ...], ...]:
        """For each stage of a document, what may come next: (group, probability, next stage).

        Stage 0 is the start, stage 1 + n follows n body clauses (n = 0: the opening), the last
        stage follows the closing.
        """
        most = max(self.sentence_counts)
        closed = most + 2
        stages = [
            ((OPENING, self.opening_rate, 1), (BODY, 1 - self.opening_rate, 2)),
            ((BODY, 1.0, 2),),
        ]
        for n in range(1, most + 1):
            left = sum(p for count, p in self.sentence_counts.items() if count >= n)
            stop = self.sentence_counts.get(n, 0.0) / left
            stages.append(
                (
                    (BODY, 1 - stop, n + 2),
                    (CLOSING, stop * self.closing_rate, closed),
                    (END, stop * (1 - self.closing_rate), closed),
                )
            )
        stages.append(((END, 1.0, closed),))
        return tuple(tuple(step for step in stage if step[1] > 0) for stage in stages)

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word of the language in alphabetical order, without <bos> and <eos>."""
        forms = itertools.chain(*self.groups.values())
        return tuple(sorted({word for form in forms for slot in form.slots for word in slot.probs}))

    @cached_property
    def digest(self) -> str:
        """Hex digest of everything that decides probabilities; another grammar has another one."""
        said = sha256()
        facts = (self.states, dict(self.sentence_counts), self.opening_rate, self.closing_rate)
        said.update(repr((*facts, self.slip)).encode())
        slots: dict[Slot, str] = {}  # forms share slots, and writing one out is the costly part
        for group, forms in self.groups.items():
            for form in forms:
                for slot in form.slots:
                    if slot not in slots:
                        slots[slot] = repr([dict(options) for options in slot.options])
                written = ", ".join(slots[slot] for slot in form.slots)
                weights = form.weights.tolist()
                said.update(f"({group!r}, {form.name!r}, {weights!r}, [{written}])".encode())
        return said.hexdigest()

    def without_negation(self) -> Grammar:
        """The same language without forms that negate, and without slips: easier to learn."""
        return replace(
            self,
            groups={
                group: tuple(form for form in forms if not form.name.startswith(NEGATIONS))
                for group, forms in self.groups.items()
            },
            slip=0.0,
        )

    @property
    def longest_document(self) -> int:
        """The most tokens a document can have, <bos> and <eos> included."""
        longest = {
            group: max(len(form.slots) for form in forms) for group, forms in self.groups.items()
        }
        frame = longest.get(OPENING, 0) + longest.get(CLOSING, 0)
        return 2 + frame + max(self.sentence_counts) * longest[BODY]

    def sample(
        self,
        rng: np.random.Generator,
        latents: Latents | None = None,
        slip: float | None = None,
    ) -> Document:
        """Draws one document.

        Args:
            latents: The document's latents; drawn uniformly if None.
            slip: Replaces the grammar's slip, e.g. 0 for a document that never wavers.
        """
        if latents is None:
            latents = self.states[int(rng.integers(len(self.states)))]
        draws = rng.random(self._draws_per_document).tolist()
        return self._build(latents, iter(draws), self.slip if slip is None else slip)

    def minimal_pair(
        self, concept: str, rng: np.random.Generator, latents: Latents | None = None
    ) -> tuple[Document, Document]:
        """Draws two documents equal in everything but one concept's words.

        Neither wavers (no slips), both have the same clauses of the same lengths, and at least
        one clause tells them apart.

        Returns:
            The document at the concept's positive pole, then the one at its negative pole.
        """
        require_concept(concept)
        while True:
            base = latents or self.states[int(rng.integers(len(self.states)))]
            draws = rng.random(self._draws_per_document).tolist()
            positive, negative = (
                self._build(base.with_pole(concept, pole), iter(draws), 0.0)
                for pole in (True, False)
            )
            if positive.tokens != negative.tokens:
                return positive, negative

    @cached_property
    def _index(self) -> dict[Latents, int]:
        return {latents: i for i, latents in enumerate(self.states)}

    @cached_property
    def _draws_per_document(self) -> int:
        # A fixed number, so that two documents built from the same draws stay aligned.
        return self.longest_document + (max(self.sentence_counts) + 3) * (len(CONCEPTS) + 2)

    @cached_property
    def _form_cumulative(self) -> dict[str, list[list[float]]]:
        return {group: table.cumsum(0).T.tolist() for group, table in self.form_probs.items()}

    def _build(self, latents: Latents, draws: Iterator[float], slip: float) -> Document:
        clauses = []
        stage, start = 0, 1
        while True:
            group, stage = self._step(stage, next(draws))
            if group == END:
                return Document(latents, tuple(clauses))
            poles = [pole != (next(draws) < slip) for pole in latents[:3]]
            said = Latents(*poles, topic=latents.topic)
            state = self._index[said]
            forms = self.groups[group]
            at = bisect(self._form_cumulative[group][state], next(draws))
            form = forms[min(at, len(forms) - 1)]
            tokens = tuple(slot.pick(state, next(draws)) for slot in form.slots)
            clauses.append(Clause(form, group, said, start, tokens))
            start += len(tokens)

    def _step(self, stage: int, draw: float) -> tuple[str, int]:
        steps = self.transitions[stage]
        for group, probability, following in steps:
            draw -= probability
            if draw < 0:
                return group, following
        return steps[-1][0], steps[-1][2]  # rounding left a rest above the last probability
