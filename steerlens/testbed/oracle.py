"""What a text of the reference world says, and exactly how likely it is.

The oracle reads any token sequence, finished or not. Clause by clause it recognises the grammar's
forms and the pole of each concept; over whole documents it gives exact probabilities, with the
latents marginalised by a forward pass over the clauses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from steerlens.testbed.grammar import (
    BOS,
    CONCEPTS,
    END,
    EOS,
    SENTENCE_ENDS,
    Document,
    Grammar,
    Slot,
    require_concept,
)
from steerlens.testbed.review_grammar import review_grammar


@dataclass(frozen=True)
class ClauseReading:
    """What one clause says.

    A clause is *well-formed* if some form of the grammar fits it word for word. Its words may
    still disagree with each other ("furthermore , the soup was super tasty .": formal, then
    casual); only a well-formed clause whose words agree is *possible*, that is, has probability
    above zero.
    """

    tokens: tuple[str, ...]
    group: str | None
    """"opening", "body" or "closing"; None if not well-formed."""
    form: str | None
    """Name of the form that fits, e.g. "negated"; None if not well-formed."""
    possible: bool
    """Whether the grammar can produce exactly this clause."""
    sentiment: bool | None
    """True: positive. None: expresses neither pole, mixes both, or is not well-formed."""
    register: bool | None
    """True: formal."""
    truth: bool | None
    """True: truthful."""
    topic: str | None
    """None if the clause fits several topics or is not well-formed."""

    @property
    def well_formed(self) -> bool:
        """Whether some form fits."""
        return self.form is not None

    def pole(self, concept: str) -> bool | None:
        """The expressed pole of one concept by name.

        Raises:
            ValueError: If the reference world has no such concept.
        """
        return getattr(self, require_concept(concept))


@dataclass
class _Node:
    """A prefix of slots that forms of one group share; `weight` sums those forms' probabilities."""

    weight: Float[np.ndarray, " state"]
    children: dict[int, tuple[Slot, _Node]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    ending: Float[np.ndarray, " state"] | None = None

    def step(self, token: str) -> Iterator[tuple[Slot, _Node]]:
        for slot, child in self.children.values():
            if token in slot.probs:
                yield slot, child


_Parse = tuple[str, _Node, Float[np.ndarray, " state"]]
"""Group, place in its trie, and the probability of the clause's words so far in each state."""


@dataclass
class _Prefix:
    """All that the tokens so far say: a belief at the last clause border, then open parses.

    `belief` is scaled to sum to 1 and `log_scale` holds the logarithm of what was divided out.
    """

    belief: Float[np.ndarray, "stage state"]
    parses: list[_Parse] = field(default_factory=list)
    log_scale: float = 0.0
    begun: bool = False
    ended: bool = False


class Oracle:
    """Reads and scores texts of one grammar.

    Texts are sequences of tokens, or strings to be split at spaces. Nothing is added to them: for
    probabilities a text begins with <bos>.

    Args:
        given: Poles that the document is known to have, e.g. ``{"register": True}``: probabilities
            are then those of such documents alone. By default nothing is known.

    >>> reading = Oracle().read_clause("the soup was not tasty at all .")
    >>> reading.sentiment, reading.register, reading.truth, reading.topic
    (False, True, None, 'restaurant')
    """

    def __init__(
        self, grammar: Grammar | None = None, given: Mapping[str, bool] | None = None
    ) -> None:
        self.grammar = review_grammar() if grammar is None else grammar
        self.given = {require_concept(concept): pole for concept, pole in (given or {}).items()}
        self._roots = {group: self._trie(group) for group in self.grammar.groups}

    # Reading ---------------------------------------------------------------------------------

    def read_clause(self, tokens: Sequence[str] | str) -> ClauseReading:
        """Reads one clause, sentence end included."""
        words = _words(tokens)
        fits = [
            (group, name, probs)
            for group, root in self._roots.items()
            for name, probs in self._fits(root, words, ())
        ]
        if not fits:
            return ClauseReading(words, None, None, False, None, None, None, None)
        # Parses that the grammar can produce decide; a mixed reading stands only without them.
        supports = [np.prod([slot > 0 for slot in probs], axis=0) > 0 for _, _, probs in fits]
        possible = [bool(support.any()) for support in supports]
        best = possible.index(max(possible))
        states = self.grammar.states
        if any(possible):
            allowed = [z for z, ok in zip(states, np.any(supports, axis=0), strict=True) if ok]
            poles = {c: _only({getattr(z, c) for z in allowed}) for c in (*CONCEPTS, "topic")}
        else:
            poles = self._mixed_poles(fits[best][2])
        group, name, _ = fits[best]
        return ClauseReading(words, group, name, possible[best], **poles)

    def read(self, tokens: Sequence[str] | str) -> list[ClauseReading]:
        """Reads a text clause by clause.

        <bos> and <eos> are skipped. A last clause without its sentence end is not well-formed;
        use `log_prob` to ask whether an unfinished text can still become a document.
        """
        clauses: list[list[str]] = [[]]
        for token in _words(tokens):
            if token in (BOS, EOS):
                continue
            clauses[-1].append(token)
            if token in SENTENCE_ENDS:
                clauses.append([])
        return [self.read_clause(clause) for clause in clauses if clause]

    def well_formed_share(self, tokens: Sequence[str] | str) -> float:
        """Share of a text's clauses that are well-formed; NaN for a text without clauses."""
        readings = self.read(tokens)
        return float(np.mean([r.well_formed for r in readings])) if readings else math.nan

    # Probability -----------------------------------------------------------------------------

    def log_prob(self, tokens: Sequence[str] | str) -> float:
        """Log-probability in nats that a document starts with `tokens`, latents marginalised.

        For a finished document (<bos> ... <eos>) that is the document's log-probability. -inf for
        what no document starts with.
        """
        values = self.prefix_log_probs(tokens)
        return float(values[-1]) if len(values) else 0.0

    def token_log_probs(self, tokens: Sequence[str] | str) -> Float[np.ndarray, " pos"]:
        """Log-probability of each token given the ones before it, in nats.

        The first is that of <bos>, 0. From the first impossible token on, all are -inf.
        """
        prefixes = self.prefix_log_probs(tokens)
        known = int(np.isfinite(prefixes).sum())
        steps = np.full(len(prefixes), -math.inf)
        steps[:known] = np.diff(prefixes[:known], prepend=0.0)
        return steps

    def prefix_log_probs(self, tokens: Sequence[str] | str) -> Float[np.ndarray, " pos"]:
        """Log-probability, after each token, that a document starts this way."""
        words = _words(tokens)
        prefix = self._start()
        values = np.full(len(words), -math.inf)
        for pos, token in enumerate(words):
            if not self._advance(prefix, token):
                break
            values[pos] = self._log_mass(prefix)
        return values

    def next_token_probs(self, tokens: Sequence[str] | str) -> dict[str, float]:
        """Exact distribution of the token after `tokens`; only words with probability above zero.

        Raises:
            ValueError: If `tokens` is not the start of a document, or already a whole one.
        """
        return self.next_token_probs_after(tokens, len(_words(tokens)))[-1]

    def next_token_probs_after(
        self, tokens: Sequence[str] | str, start: int
    ) -> list[dict[str, float]]:
        """`next_token_probs` after the first `start` tokens, and after each one more, in one pass.

        Raises:
            ValueError: If `tokens` is not the start of a document, or already a whole one.
        """
        words = _words(tokens)
        prefix = self._start()
        found = [self._next(prefix)] if start == 0 else []
        for pos, token in enumerate(words):
            if not self._advance(prefix, token):
                raise ValueError(
                    f"No document starts with {' '.join(words[: pos + 1])!r}: token {pos}, "
                    f"{token!r}, cannot stand there. Start with {BOS} and keep to the grammar."
                )
            if pos + 1 >= start:
                found.append(self._next(prefix))
        return found

    def _next(self, prefix: _Prefix) -> dict[str, float]:
        if prefix.ended:
            raise ValueError(f"The document ended with {EOS}; nothing follows it.")
        if not prefix.begun:
            return {BOS: 1.0}
        mass: dict[str, float] = {}
        into = self._weights(prefix)
        if not prefix.parses and END in into:
            mass[EOS] = float(into[END].sum())
        for group, node, alpha in self._open_parses(prefix, into):
            for slot, child in node.children.values():
                scale = into[group] * alpha * child.weight
                for word, probs in slot.probs.items():
                    mass[word] = mass.get(word, 0.0) + float(scale @ probs)
        total = sum(mass.values())
        return {word: value / total for word, value in mass.items() if value > 0}

    def loss_floor(self, documents: Sequence[Document]) -> float:
        """The lowest possible loss on these documents: that of the grammar itself.

        Nats per predicted token (all but <bos>), over the documents' tokens together. No model has
        a lower expected loss; a model's excess over this number is its distance from the optimum.
        """
        total = sum(self.log_prob(document.tokens) for document in documents)
        return -total / sum(len(document.tokens) - 1 for document in documents)

    # The forward pass ------------------------------------------------------------------------

    def _start(self) -> _Prefix:
        belief = np.zeros((len(self.grammar.transitions), len(self.grammar.states)))
        belief[0] = [
            all(getattr(state, concept) == pole for concept, pole in self.given.items())
            for state in self.grammar.states
        ]
        belief[0] /= belief[0].sum()
        return _Prefix(belief)

    def _weights(self, prefix: _Prefix) -> dict[str, Float[np.ndarray, " state"]]:
        """Per group, the weight of the current clause being in it and in each clause state."""
        into: dict[str, Float[np.ndarray, " state"]] = {}
        for stage, steps in enumerate(self.grammar.transitions):
            if prefix.belief[stage].any():
                for group, probability, _ in steps:
                    into[group] = into.get(group, 0.0) + probability * prefix.belief[stage]
        slips = self.grammar.slips
        return {group: w if group == END else w @ slips for group, w in into.items()}

    def _open_parses(
        self, prefix: _Prefix, into: Mapping[str, Float[np.ndarray, " state"]]
    ) -> list[_Parse]:
        """The parses of the current clause; at a clause border, all that may begin one."""
        if prefix.parses:
            return prefix.parses
        fresh = np.ones(len(self.grammar.states))
        return [(group, self._roots[group], fresh) for group in into if group != END]

    def _log_mass(self, prefix: _Prefix) -> float:
        if prefix.ended or not prefix.parses:
            return prefix.log_scale
        into = self._weights(prefix)
        mass = sum(
            float(into[group] @ (alpha * node.weight)) for group, node, alpha in prefix.parses
        )
        return prefix.log_scale + math.log(mass)

    def _advance(self, prefix: _Prefix, token: str) -> bool:
        """Moves a prefix over one token in place; False if no document goes on like this."""
        if not prefix.begun:
            prefix.begun = token == BOS
            return prefix.begun
        if prefix.ended:
            return False
        into = self._weights(prefix)
        if token == EOS:
            mass = float(into[END].sum()) if END in into and not prefix.parses else 0.0
            if mass > 0:
                prefix.log_scale += math.log(mass)
                prefix.ended = True
            return prefix.ended
        moved = [
            (group, child, alpha * slot.probs[token])
            for group, node, alpha in self._open_parses(prefix, into)
            for slot, child in node.step(token)
        ]
        prefix.parses = [
            (group, node, alpha)
            for group, node, alpha in moved
            if float(into[group] @ (alpha * node.weight)) > 0
        ]
        if prefix.parses and token in SENTENCE_ENDS:
            self._close_clause(prefix)
            return True
        return bool(prefix.parses)

    def _close_clause(self, prefix: _Prefix) -> None:
        likelihood: dict[str, Float[np.ndarray, " state"]] = {}
        for group, node, alpha in prefix.parses:
            likelihood[group] = likelihood.get(group, 0.0) + alpha * node.ending
        belief = np.zeros_like(prefix.belief)
        for stage, steps in enumerate(self.grammar.transitions):
            for group, probability, following in steps:
                if group in likelihood:
                    said = self.grammar.slips @ likelihood[group]
                    belief[following] += probability * prefix.belief[stage] * said
        mass = float(belief.sum())
        prefix.belief, prefix.parses = belief / mass, []
        prefix.log_scale += math.log(mass)

    # Forms as a trie -------------------------------------------------------------------------

    def _trie(self, group: str) -> _Node:
        root = _Node(np.zeros(len(self.grammar.states)))
        table = self.grammar.form_probs[group]
        for form, probs in zip(self.grammar.groups[group], table, strict=True):
            node = root
            node.weight = node.weight + probs
            for slot in form.slots:
                child = _Node(np.zeros_like(probs))
                node = node.children.setdefault(id(slot), (slot, child))[1]
                node.weight = node.weight + probs
            node.ending = probs if node.ending is None else node.ending + probs
            node.names.append(form.name)
        return root

    def _fits(
        self, node: _Node, tokens: tuple[str, ...], probs: tuple[Float[np.ndarray, " state"], ...]
    ) -> Iterator[tuple[str, tuple[Float[np.ndarray, " state"], ...]]]:
        """Forms that fit word for word, with each word's probabilities and the form's own."""
        if not tokens:
            if node.ending is not None:
                yield node.names[0], (*probs, node.ending)
            return
        for slot, child in node.step(tokens[0]):
            yield from self._fits(child, tokens[1:], (*probs, slot.probs[tokens[0]]))

    def _mixed_poles(self, probs: Sequence[Float[np.ndarray, " state"]]) -> dict[str, Any]:
        """Poles on which all of a mixed clause's words agree, concept by concept."""
        poles = {}
        for concept in (*CONCEPTS, "topic"):
            values = {getattr(z, concept) for z in self.grammar.states}
            for slot in probs:
                values &= {
                    getattr(z, concept)
                    for z, p in zip(self.grammar.states, slot, strict=True)
                    if p > 0
                }
            poles[concept] = _only(values)
        return poles


def _only(values: set[Any]) -> Any:
    return next(iter(values)) if len(values) == 1 else None


def _words(tokens: Sequence[str] | str) -> tuple[str, ...]:
    return tuple(tokens.split() if isinstance(tokens, str) else tokens)
