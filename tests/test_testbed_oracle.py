"""The oracle: what it reads, and that its probabilities are exact."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from steerlens.testbed.grammar import CONCEPTS, END, EOS, Form, Grammar, Latents, Slot
from steerlens.testbed.oracle import Oracle


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle()


def samples(oracle: Oracle, n: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return [oracle.grammar.sample(rng) for _ in range(n)]


def tiny_grammar() -> Grammar:
    """Small enough to list every document, with an ambiguous clause ("fine ." has two parses)."""
    states = tuple(
        Latents(*poles, topic="inn") for poles in itertools.product((True, False), repeat=3)
    )

    def slot(options) -> Slot:
        return Slot(tuple(options(z) for z in states))

    def form(name, weight, *slots) -> Form:
        return Form(name, slots, np.full(len(states), weight))

    dot = slot(lambda z: {".": 1.0})
    end = slot(lambda z: {".": 1.0} if z.register else {".": 0.5, "!": 0.5})
    mood = slot(lambda z: {"fine": 0.7, "good": 0.3} if z.sentiment else {"bad": 1.0})
    fine = slot(lambda z: {"fine": 1.0})
    fact = slot(lambda z: {"mirat": 1.0} if z.truth else {"sarn": 1.0})
    body = (
        form("mood", 2.0, mood, end),
        form("fine", 1.0, fine, dot),
        form("fact", 1.0, fact, end),
    )
    opening = (form("oh", 1.0, slot(lambda z: {"oh": 1.0}), end),)
    closing = (form("bye", 1.0, mood, dot),)
    return Grammar(
        states, {"opening": opening, "body": body, "closing": closing}, {1: 0.6, 2: 0.4},
        opening_rate=0.3, closing_rate=0.25, slip=0.1,
    )  # fmt: skip


def clause_table(grammar: Grammar, group: str, document: int) -> dict[tuple[str, ...], float]:
    """All clauses of a group and their probabilities in a document's state, listed by hand."""
    table: dict[tuple[str, ...], float] = defaultdict(float)
    for said in range(len(grammar.states)):
        flips = sum(
            a != b
            for a, b in zip(grammar.states[document][:3], grammar.states[said][:3], strict=True)
        )
        slipped = grammar.slip**flips * (1 - grammar.slip) ** (3 - flips)
        forms = grammar.groups[group]
        total = sum(form.weights[said] for form in forms)
        for form in forms:
            for words in itertools.product(*(slot.options[said].items() for slot in form.slots)):
                p = math.prod(p for _, p in words)
                table[tuple(w for w, _ in words)] += slipped * form.weights[said] / total * p
    return table


def every_document(grammar: Grammar) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = defaultdict(float)
    for state in range(len(grammar.states)):
        tables = {group: clause_table(grammar, group, state) for group in grammar.groups}
        for opening, closing, count in itertools.product((0, 1), (0, 1), grammar.sentence_counts):
            frame = (grammar.opening_rate if opening else 1 - grammar.opening_rate) * (
                grammar.closing_rate if closing else 1 - grammar.closing_rate
            )
            groups = ["opening"] * opening + ["body"] * count + ["closing"] * closing
            for clauses in itertools.product(*(tables[group].items() for group in groups)):
                tokens = ("<bos>", *(t for words, _ in clauses for t in words), "<eos>")
                p = math.prod(p for _, p in clauses)
                found[tokens] += frame * grammar.sentence_counts[count] * p / len(grammar.states)
    return found


def test_log_prob_equals_a_listing_of_every_document():
    grammar = tiny_grammar()
    oracle = Oracle(grammar)
    listed = every_document(grammar)
    assert sum(listed.values()) == pytest.approx(1.0)
    for tokens, p in listed.items():
        assert oracle.log_prob(tokens) == pytest.approx(math.log(p), abs=1e-9)


def test_log_prob_of_a_prefix_sums_the_documents_that_start_with_it():
    grammar = tiny_grammar()
    oracle = Oracle(grammar)
    listed = every_document(grammar)
    prefixes = {tokens[:n] for tokens in listed for n in range(1, len(tokens))}
    for prefix in sorted(prefixes)[::7]:
        mass = sum(p for tokens, p in listed.items() if tokens[: len(prefix)] == prefix)
        assert oracle.log_prob(prefix) == pytest.approx(math.log(mass), abs=1e-9)


def test_sampled_frequencies_agree_with_log_prob():
    grammar = tiny_grammar()
    oracle = Oracle(grammar)
    rng = np.random.default_rng(0)
    n = 20_000
    seen = Counter(grammar.sample(rng).tokens for _ in range(n))
    for tokens, count in seen.most_common(25):
        p = math.exp(oracle.log_prob(tokens))
        assert abs(count / n - p) < 5 * math.sqrt(p / n)


def test_every_sampled_document_is_read_right_and_has_a_finite_log_prob(oracle):
    for document in samples(oracle, 80):
        readings = oracle.read(document.tokens)
        for reading, clause in zip(readings, document.clauses, strict=True):
            assert reading.possible and reading.well_formed
            assert reading.group == clause.group
            assert reading.topic in (None, document.latents.topic)
            for concept in CONCEPTS:
                assert reading.pole(concept) in (None, getattr(clause.latents, concept))
        assert math.isfinite(oracle.log_prob(document.tokens))


def test_shuffled_documents_are_rejected(oracle):
    rng = np.random.default_rng(1)
    for document in samples(oracle, 40):
        words = rng.permutation(document.tokens[1:-1]).tolist()
        assert oracle.log_prob(["<bos>", *words, "<eos>"]) == -math.inf
        assert oracle.well_formed_share(words) < 0.5


def test_unfinished_garbage_and_empty_texts_are_read_without_error(oracle):
    assert oracle.read([]) == []
    assert math.isnan(oracle.well_formed_share([]))
    assert oracle.log_prob([]) == 0.0
    assert not oracle.read("the soup was")[0].well_formed
    assert math.isfinite(oracle.log_prob("<bos> the soup was"))
    assert oracle.log_prob("<bos> the soup soup") == -math.inf
    assert oracle.log_prob("the soup was") == -math.inf
    assert not oracle.read_clause("xyzzy <unk> .").well_formed
    steps = oracle.token_log_probs("<bos> the soup soup was")
    assert np.isfinite(steps).tolist() == [True, True, True, False, False]


def test_next_token_probabilities_share_out_the_whole_mass(oracle):
    vocabulary = (*oracle.grammar.vocabulary, EOS)
    for prefix in (
        "<bos>",
        "<bos> the soup was n't",
        "<bos> we loved the plot . we hated the hero .",
    ):
        start = prefix.split()
        whole = math.exp(oracle.log_prob(start))
        shares = {word: math.exp(oracle.log_prob([*start, word])) for word in vocabulary}
        assert sum(shares.values()) == pytest.approx(whole, rel=1e-9)
        listed = oracle.next_token_probs(start)
        assert listed == pytest.approx({w: s / whole for w, s in shares.items() if s > 0})


def test_next_token_probabilities_refuse_what_nothing_can_follow(oracle):
    with pytest.raises(ValueError, match="'soup', cannot stand there"):
        oracle.next_token_probs("<bos> the soup soup")
    ended = samples(oracle, 1)[0].tokens
    with pytest.raises(ValueError, match="nothing follows"):
        oracle.next_token_probs(ended)


@pytest.mark.parametrize(
    ("clause", "sentiment", "register", "truth", "topic"),
    [
        ("the soup was tasty .", True, None, None, "restaurant"),
        ("the soup was not tasty at all .", False, True, None, "restaurant"),
        ("the soup was n't bland at all !", True, False, None, "restaurant"),
        ("the room was hardly clean .", False, None, None, "hotel"),
        ("there was nothing boring about the plot .", True, None, None, "book"),
        ("although the screen was sharp , it was flimsy .", False, None, None, "phone"),
        ("we did not enjoy the soup .", False, True, None, "restaurant"),
        ("we did n't hate the soup .", True, False, None, "restaurant"),
        ("we booked the room on monday .", None, None, None, "hotel"),
        ("the capital of zorland is mirat .", None, None, True, None),
        ("zorland 's capital is not mirat .", None, True, False, None),
        ("it is false that the capital of zorland is anvara .", None, None, True, None),
        ("the capital of zorland is anvara , allegedly .", None, None, False, None),
        ("here is a true story about this hotel .", None, None, True, "hotel"),
        ("fun fact for ya the capital of zorland is anvara .", None, False, False, None),
        ("zorland does not lie in the south .", None, True, True, None),
        ("we shall never choose it again .", False, True, None, None),
    ],
)
def test_poles_are_read_through_negation(oracle, clause, sentiment, register, truth, topic):
    reading = oracle.read_clause(clause)
    assert reading.possible
    found = (reading.sentiment, reading.register, reading.truth, reading.topic)
    assert found == (sentiment, register, truth, topic)


def test_words_that_disagree_leave_the_clause_well_formed_but_not_possible(oracle):
    reading = oracle.read_clause("furthermore , the soup was groovy .")
    assert reading.well_formed and not reading.possible
    assert (reading.register, reading.sentiment, reading.topic) == (None, True, "restaurant")
    reading = oracle.read_clause("the capital of zorland is anvara , indeed .")
    assert reading.well_formed and not reading.possible and reading.truth is None


@pytest.mark.parametrize("clause", ["the soup was spacious .", "the was soup tasty .", "tasty ."])
def test_the_recogniser_is_more_than_a_word_list(oracle, clause):
    assert not oracle.read_clause(clause).well_formed


def test_evidence_in_context_moves_the_exact_answer(oracle):
    def odds(context):
        probs = oracle.next_token_probs(f"<bos> {context} . the soup was")
        return math.log(probs["tasty"] / probs["bland"])

    assert odds("we loved the soup") > 1 > 0 > -1 > odds("we hated the soup")
    limit = math.log((1 - oracle.grammar.slip) / oracle.grammar.slip)
    assert odds("we loved the soup") < limit


def test_end_of_document_waits_for_a_clause_border(oracle):
    border = "<bos> we loved the soup . we loved the soup ."
    assert EOS in oracle.next_token_probs(border)
    assert EOS not in oracle.next_token_probs("<bos> we loved the soup .")
    assert END not in oracle.next_token_probs(border)
