"""The reference world's language: the words and forms of short reviews.

Lists of the two poles have equal lengths and the same order, so that a minimal pair exchanges
counterparts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from steerlens.testbed.grammar import BODY, CLOSING, OPENING, Form, Grammar, Latents, Slot

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
