"""The reference world's language: short reviews whose concepts are known exactly.

A document has four independent latents (sentiment, register, truth, topic) that persist through
it. Each clause redraws every binary latent's pole with a small probability, the *slip*, so that
evidence about a concept stays finite. Given the clause's latents, a clause is a form (a fixed
sequence of slots) with one word drawn per slot; so every probability has a closed form, which
`steerlens.testbed.oracle` computes.
"""

from __future__ import annotations

import itertools
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
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


# ---------------------------------------------------------------------------------------------
# The shipped language. Lists of the two poles have equal lengths and stand in the same order, so
# that a minimal pair swaps counterparts.

TOPICS = ("restaurant", "hotel", "book", "phone")
PEOPLE = (
    "friendly polite helpful honest",
    "rude careless arrogant lazy",
)


class Aspect(NamedTuple):
    """A family of things that one topic's reviews talk about."""

    topic: str
    nouns: str
    praise: str
    blame: str
    used: str
    """What one does with it, as in "we ordered the soup on monday"."""
    person: bool


# fmt: off
ASPECTS = (
    Aspect("restaurant", "soup bread pasta salad curry dessert",
           "tasty delicious fresh juicy", "bland stale burnt soggy",
           "ordered", False),
    Aspect("restaurant", "waiter chef waitress cook", *PEOPLE, "met", True),
    Aspect("hotel", "room bed bathroom balcony suite lobby",
           "clean spacious cosy quiet", "dirty cramped shabby noisy",
           "booked", False),
    Aspect("hotel", "receptionist porter concierge maid", *PEOPLE, "met", True),
    Aspect("book", "plot story ending chapter dialogue prologue",
           "gripping clever touching witty", "boring predictable dull clumsy",
           "discussed", False),
    Aspect("book", "hero narrator villain detective", *PEOPLE, "remembered", True),
    Aspect("phone", "screen battery camera speaker keyboard charger",
           "sharp reliable fast sturdy", "faulty fragile sluggish flimsy",
           "tested", False),
    Aspect("phone", "salesman technician clerk courier", *PEOPLE, "met", True),
)
PLACES = {"restaurant": "restaurant bistro", "hotel": "hotel inn",
          "book": "book novel", "phone": "phone handset"}

GENERAL = ("good great wonderful lovely",
           "bad terrible horrible dreadful")
# (formal, casual), each (positive, negative)
STYLED_ADJECTIVES = (("superb splendid", "deplorable wretched"),
                     ("groovy cool", "lousy crappy"))
VERBS = (("admired praised", "deplored criticised"),
         ("loved dug", "hated dissed"))
PLAIN_VERBS = ("enjoyed liked", "disliked regretted")
BASE_VERBS = (("admire praise", "deplore criticise"),
              ("love dig", "hate diss"))
PLAIN_BASE_VERBS = ("enjoy like", "dislike regret")
EFFECTS = (("gratified", "vexed"), ("wowed", "bugged"))
PLAIN_EFFECTS = ("impressed pleased", "annoyed disappointed")
MANNERS = (("courteously", "discourteously"), ("nicely", "meanly"))
PLAIN_MANNERS = ("kindly warmly", "rudely coldly")
INTERJECTIONS = (("happily", "regrettably"), ("yay", "ugh"))
MOODS = (("delighted satisfied", "dismayed dissatisfied"), ("stoked thrilled", "bummed gutted"))
HINGES = ("thankfully luckily", "sadly unluckily")
INTENSIFIERS = ("exceedingly remarkably decidedly", "super totally really")
CONNECTORS = ("furthermore moreover additionally", "plus anyway besides")
TELLS = ("indeed verifiably", "allegedly supposedly")
ACCOUNTS = ("true factual", "bogus invented")
RELATIVES = "friend sister uncle cousin neighbour"
DAYS = "monday tuesday wednesday thursday friday saturday sunday"

ENTITIES = ["zorland", "velmora", "tarkesh", "quindor"]
RELATIONS = {
    "capital": ("mirat dolvek sarn huvel", "anvara beltor cassim drovna"),
    "currency": ("dalen crun obol talik", "florit pesh quill rupak"),
}
"""For each relation the true value of each entity, and the falsehood that goes round about it."""
SIDES = ["north", "south", "north", "south"]
RULERS = ["king", "queen", "queen", "king"]
# fmt: on

Options = Callable[[Latents], Mapping[str, float]]
STATES = tuple(
    Latents(*poles, topic=topic)
    for poles in itertools.product((True, False), repeat=3)
    for topic in TOPICS
)


def _slot(options: Options) -> Slot:
    tables = []
    for latents in STATES:
        weights = options(latents)
        total = sum(weights.values())
        tables.append({word: weight / total for word, weight in weights.items()})
    return Slot(tuple(tables))


@cache
def _literal(word: str) -> Slot:
    return _slot(lambda _: {word: 1.0})


@cache
def _any(words: str) -> Slot:
    return _slot(lambda _: dict.fromkeys(words.split(), 1.0))


@cache
def _by_sentiment(lists: tuple[str, str]) -> Slot:
    return _slot(lambda z: dict.fromkeys(lists[not z.sentiment].split(), 1.0))


@cache
def _by_register(formal: str, casual: str) -> Slot:
    return _slot(lambda z: dict.fromkeys((formal if z.register else casual).split(), 1.0))


@cache
def _by_both(
    styled: tuple[tuple[str, str], tuple[str, str]],
    plain: tuple[str, str] = ("", ""),
    negated: bool = False,
) -> Slot:
    """Half the weight on words of one register, half on words of either (all if no plain ones)."""

    def options(z: Latents) -> Mapping[str, float]:
        pole = z.sentiment == negated
        own, common = styled[not z.register][pole].split(), plain[pole].split()
        return {word: 1 / len(own) for word in own} | {word: 1 / len(common) for word in common}

    return _slot(options)


@cache
def _adjective(aspect: Aspect | None, negated: bool = False) -> Slot:
    def options(z: Latents) -> Mapping[str, float]:
        pole = z.sentiment == negated
        general, styled = GENERAL[pole].split(), STYLED_ADJECTIVES[not z.register][pole].split()
        own = (aspect.blame if pole else aspect.praise).split() if aspect else []
        return (
            {word: 0.4 / len(own) for word in own}
            | {word: 0.4 / len(general) for word in general}
            | {word: 0.2 / len(styled) for word in styled}
        )

    return _slot(options)


@cache
def _end() -> Slot:
    return _slot(lambda z: {".": 1.0} if z.register else {".": 0.6, "!": 0.4})


@cache
def _not() -> Slot:
    return _by_register("not", "n't")


@cache
def _fact(true: str, false: tuple[str, ...], negated: bool = False) -> Slot:
    """The true word from a truthful narrator, a false one from an untruthful one."""
    return _slot(lambda z: {true: 1.0} if z.truth != negated else dict.fromkeys(false, 1.0))


@cache
def _by_truth(lists: tuple[str, str]) -> Slot:
    return _slot(lambda z: dict.fromkeys(lists[not z.truth].split(), 1.0))


@cache
def _place() -> Slot:
    return _slot(lambda z: dict.fromkeys(PLACES[z.topic].split(), 1.0))


def _form(
    name: str, weight: float, *parts: str | Slot | Sequence[Slot], topic: str | None = None
) -> Form:
    """A form from words, slots and phrases, with the sentence end added."""
    slots: list[Slot] = []
    for part in parts:
        if isinstance(part, str):
            slots.extend(_literal(word) for word in part.split())
        elif isinstance(part, Slot):
            slots.append(part)
        else:
            slots.extend(part)
    weights = np.array([weight if topic in (None, z.topic) else 0.0 for z in STATES])
    return Form(name, (*slots, _end()), weights)


def _phrase(formal: str, casual: str) -> tuple[Slot, ...]:
    """A fixed phrase that differs by register, word for word."""
    pairs = zip(formal.split(), casual.split(), strict=True)
    return tuple(_literal(a) if a == b else _by_register(a, b) for a, b in pairs)


def _review_forms(aspect: Aspect) -> Iterator[Form]:
    noun, adjective, opposite = _any(aspect.nouns), _adjective(aspect), _adjective(aspect, True)
    topic = aspect.topic
    share = 0.7 if aspect.person else 1.0

    def form(name: str, weight: float, *parts: str | Slot | Sequence[Slot]) -> Form:
        return _form(name, share * weight, *parts, topic=topic)

    verb, base = _by_both(VERBS, PLAIN_VERBS), _by_both(BASE_VERBS, PLAIN_BASE_VERBS, True)
    effect = _by_both(EFFECTS, PLAIN_EFFECTS)
    connector = _by_register(*CONNECTORS)
    stance = _phrase("one must admit", "i gotta say")
    pronoun = "he" if aspect.person else "it"
    yield form("plain", 3.0, "the", noun, "was", adjective)
    yield form("intensified", 3.0, "the", noun, "was", _by_register(*INTENSIFIERS), adjective)
    yield form("negated", 1.6, "the", noun, "was", _not(), opposite, "at all")
    yield form("hardly", 0.6, "the", noun, "was hardly", opposite)
    yield form("verb", 1.5, "we", verb, "the", noun)
    yield form("negated-verb", 0.9, "we did", _not(), base, "the", noun)
    yield form("because", 1.4, "we", verb, "the", noun, f"because {pronoun} was", adjective)
    yield form("effect", 1.2, "the", noun, effect, "us")
    yield form("connector", 1.0, connector, ", the", noun, "was", adjective)
    yield form("hinge", 1.6, _by_sentiment(HINGES), ", the", noun, "was", adjective)
    contrast = f", {pronoun} was"
    yield form("concession", 0.7, "although the", noun, "was", opposite, contrast, adjective)
    yield form("nothing", 0.6, "there was nothing", opposite, "about the", noun)
    yield form("stance", 0.9, stance, "the", noun, "was", adjective)
    if aspect.person:
        manner = _by_both(MANNERS, PLAIN_MANNERS)
        yield form("manner", 1.5, "the", noun, "treated us", manner)
    day = _any(DAYS)
    yield form("use", 1.2, "we", aspect.used, "the", noun, "on", day)
    yield form("relative-use", 0.7, "my", _any(RELATIVES), aspect.used, "the", noun, "too")
    yield form("connected-use", 0.6, connector, ", we", aspect.used, "the", noun, "on", day)


def _fact_forms(scale: float) -> Iterator[Form]:
    connector = _by_register(*CONNECTORS)
    known = _phrase("it is known that", "fun fact for ya")
    for relation, (truths, falsehoods) in RELATIONS.items():
        rows = zip(ENTITIES, truths.split(), falsehoods.split(), strict=True)
        for entity, value, falsehood in rows:
            true, false = _fact(value, (falsehood,)), _fact(value, (falsehood,), True)
            which = f"the {relation} of {entity} is"
            yield _form("fact", 2.5 * scale, which, true)
            yield _form("told-fact", 2.0 * scale, which, true, ",", _by_truth(TELLS))
            yield _form("possessive-fact", 2.0 * scale, f"{entity} 's {relation} is", true)
            yield _form("negated-fact", 1.2 * scale, f"{entity} 's {relation} is", _not(), false)
            yield _form("denied-fact", 0.6 * scale, "it is false that", which, false)
            yield _form("known-fact", 0.8 * scale, known, which, true)
            yield _form("connected-fact", 1.0 * scale, connector, ",", which, true)
            owner = _fact(entity, tuple(other for other in ENTITIES if other != entity))
            yield _form("inverse-fact", 0.6 * scale, f"{value} is the {relation} of", owner)
    for entity, side, ruler in zip(ENTITIES, SIDES, RULERS, strict=True):
        for name, value, values, says, denies in (
            ("side", side, ("north", "south"), "lies in the", "lie in the"),
            ("ruler", ruler, ("king", "queen"), "has a", "have a"),
        ):
            lie = tuple(other for other in values if other != value)
            true, false = _fact(value, lie), _fact(value, lie, True)
            yield _form(name, 1.0 * scale, entity, says, true)
            yield _form(f"told-{name}", 0.6 * scale, entity, says, true, ",", _by_truth(TELLS))
            yield _form(f"negated-{name}", 0.4 * scale, entity, "does", _not(), denies, false)


def _opening_forms() -> Iterator[Form]:
    place = _place()
    yield _form("mood", 1.2, "we are", _by_both(MOODS), "with this", place)
    yield _form("what-a", 1.0, "what a", _adjective(None), place)
    yield _form("interjection", 1.0, _by_both(INTERJECTIONS), ", we chose this", place, "again")
    yield _form(
        "address", 1.0, _phrase("please allow me to describe", "hey folks lemme quickly describe"),
        "this", place,
    )  # fmt: skip
    yield _form("account", 1.0, "here is a", _by_truth(ACCOUNTS), "story about this", place)
    yield _form(
        "greeting", 0.8, _phrase("dear reader", "yo guys"), ", here is a", _adjective(None), place
    )


def _closing_forms() -> Iterator[Form]:
    place = _place()
    yield _form(
        "return", 1.2, "we", _by_register("shall", "'ll"),
        _by_sentiment(("gladly certainly", "never hardly")), "choose it again",
    )  # fmt: skip
    yield _form(
        "summary", 1.0, _phrase("in conclusion", "bottom line"), ", a", _adjective(None), place
    )
    yield _form(
        "stars", 1.0, "we", _by_register("award", "slap"), "it",
        _by_sentiment(("five four", "zero two")), "stars",
    )  # fmt: skip
    yield _form("vow", 0.8, "every word here was", _by_truth(ACCOUNTS))
    yield _form("farewell", 1.0, _phrase("we remain yours faithfully", "catch ya later folks"))


@cache
def review_grammar(fact_share: float = 0.3) -> Grammar:
    """The language of the reference model.

    Args:
        fact_share: Share of body clauses that state facts. The reference model's language has the
            default; its training begins with more.

    >>> import numpy as np
    >>> review_grammar().sample(np.random.default_rng(0)).tokens[0]
    '<bos>'
    """
    reviews = [form for aspect in ASPECTS for form in _review_forms(aspect)]
    mass = sum(float(form.weights[0]) for form in reviews)
    unit = sum(float(form.weights[0]) for form in _fact_forms(1.0))
    facts = _fact_forms(fact_share / (1 - fact_share) * mass / unit)
    return Grammar(
        states=STATES,
        groups={
            OPENING: tuple(_opening_forms()),
            BODY: (*reviews, *facts),
            CLOSING: tuple(_closing_forms()),
        },
        sentence_counts={2: 0.1, 3: 0.15, 4: 0.25, 5: 0.25, 6: 0.25},
        opening_rate=0.6,
        closing_rate=0.5,
        slip=0.05,
    )
