"""The reference world's grammar: seeded, paired, and as the documentation says."""

from __future__ import annotations

import numpy as np
import pytest

from steerlens.testbed.grammar import (
    BOS,
    CONCEPTS,
    EOS,
    SENTENCE_ENDS,
    Form,
    Grammar,
    Latents,
    Slot,
)
from steerlens.testbed.review_grammar import (
    ASPECTS,
    CONNECTORS,
    GENERAL,
    PEOPLE,
    STATES,
    review_grammar,
)
from steerlens.testbed.reviews import contexts, forms_of, neutral_texts, questions


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return review_grammar()


def test_sampling_is_decided_by_the_seed(grammar):
    def texts(seed):
        rng = np.random.default_rng(seed)
        return [grammar.sample(rng).text for _ in range(20)]

    assert texts(3) == texts(3)
    assert texts(3) != texts(4)


def test_every_document_fits_the_context_and_its_frame(grammar):
    rng = np.random.default_rng(0)
    for _ in range(300):
        tokens = grammar.sample(rng).tokens
        assert (tokens[0], tokens[-1]) == (BOS, EOS)
        assert len(tokens) <= grammar.longest_document <= 96
        assert tokens[-2] in SENTENCE_ENDS
        assert set(tokens[1:-1]) <= set(grammar.vocabulary)


def test_vocabulary_is_a_few_hundred_lower_case_words(grammar):
    words = grammar.vocabulary
    assert 300 <= len(words) <= 500
    assert all(word == word.lower() and not word.isspace() for word in words)


def test_latents_are_uniform_and_clauses_slip_at_the_stated_rate(grammar):
    rng = np.random.default_rng(1)
    documents = [grammar.sample(rng) for _ in range(3000)]
    for concept in CONCEPTS:
        share = np.mean([getattr(d.latents, concept) for d in documents])
        assert abs(share - 0.5) < 0.03
        slipped = [
            getattr(c.latents, concept) != getattr(d.latents, concept)
            for d in documents
            for c in d.clauses
        ]
        assert abs(np.mean(slipped) - grammar.slip) < 0.01


@pytest.mark.parametrize("concept", CONCEPTS)
def test_minimal_pairs_differ_in_one_concept_only(grammar, concept):
    rng = np.random.default_rng(2)
    for _ in range(100):
        positive, negative = grammar.minimal_pair(concept, rng)
        assert len(positive.tokens) == len(negative.tokens)
        assert positive.tokens != negative.tokens
        assert positive.latents == negative.latents.with_pole(concept, True)
        for one, other in zip(positive.clauses, negative.clauses, strict=True):
            assert one.form is other.form
            for slot, a, b in zip(one.form.slots, one.tokens, other.tokens, strict=True):
                if a != b:
                    # The word of one side is impossible on the other: the concept decides it.
                    state = STATES.index(other.latents)
                    assert slot.options[state].get(a, 0.0) == 0.0 or concept == "register"


def test_a_document_without_slips_keeps_its_poles(grammar):
    rng = np.random.default_rng(5)
    latents = Latents(True, False, True, "phone")
    document = grammar.sample(rng, latents, slip=0.0)
    assert all(clause.latents == latents for clause in document.clauses)


def test_praise_and_blame_share_no_words():
    praise = {w for a in ASPECTS for w in a.praise.split()} | set((GENERAL[0] + PEOPLE[0]).split())
    blame = {w for a in ASPECTS for w in a.blame.split()} | set((GENERAL[1] + PEOPLE[1]).split())
    assert not praise & blame
    assert all(len(a.praise.split()) == len(a.blame.split()) for a in ASPECTS)


def test_another_grammar_has_another_digest(grammar):
    other = Grammar(
        states=grammar.states,
        groups=grammar.groups,
        sentence_counts=grammar.sentence_counts,
        opening_rate=grammar.opening_rate,
        closing_rate=grammar.closing_rate,
        slip=0.08,
    )
    assert other.digest != grammar.digest


def test_a_form_without_sentence_end_is_refused(grammar):
    word = Slot(tuple({"word": 1.0} for _ in STATES))
    form = Form("endless", (word,), np.ones(len(STATES)))
    with pytest.raises(ValueError, match="endless.*must end"):
        Grammar(STATES, {"body": (form,)}, {1: 1.0}, 0.0, 0.0, 0.1)


def test_a_form_whose_weight_depends_on_a_concept_is_refused():
    end = Slot(tuple({".": 1.0} for _ in STATES))
    form = Form("biased", (end,), np.array([1.0 + z.sentiment for z in STATES]))
    with pytest.raises(ValueError, match="depends on a concept"):
        Grammar(STATES, {"body": (form,)}, {1: 1.0}, 0.0, 0.0, 0.1)


def test_an_unknown_concept_is_refused_by_name(grammar):
    with pytest.raises(ValueError, match=r"'colour'.*sentiment, register, truth"):
        grammar.minimal_pair("colour", np.random.default_rng(0))
    with pytest.raises(ValueError, match="'colour'"):
        contexts("colour", 3)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_contexts_differ_before_the_last_clause_and_end_inside_it(concept):
    pairs = contexts(concept, 60, seed=1).pairs
    assert len(pairs) == 60
    for pair in pairs:
        one, other = pair.positive.split(), pair.negative.split()
        assert pair.prompt == "" and one != other and len(one) == len(other)
        assert BOS not in one and one[-1] not in SENTENCE_ENDS and one[-1] == other[-1]
        border = max(i for i, word in enumerate(one) if word in SENTENCE_ENDS)
        assert one[border + 1 :] == other[border + 1 :]
        assert one[:border] != other[:border] or one[border] != other[border]


@pytest.mark.parametrize("concept", CONCEPTS)
def test_questions_have_two_one_word_answers_with_a_leading_space(concept):
    asked = questions(concept, 90, seed=1)
    assert len({(p.prompt, p.positive, p.negative) for p in asked}) == 90
    assert {p.meta["context"] for p in asked} == {"none", "positive", "negative"}
    assert {p.meta["negated"] for p in asked} == {"yes", "no"}
    for pair in asked:
        assert pair.group == pair.prompt == pair.prompt.strip()
        for answer in (pair.positive, pair.negative):
            assert answer[0] == " " and len(answer.split()) == 1


def test_answers_turn_round_under_negation():
    praise = {w for a in ASPECTS for w in a.praise.split()}
    plain = questions("sentiment", 200, seed=0).where(form="plain")
    negated = questions("sentiment", 200, seed=0).where(form="negated")
    assert any(p.positive.strip() in praise for p in plain)
    assert not any(p.negative.strip() in praise for p in plain)
    assert any(p.negative.strip() in praise for p in negated)
    assert not any(p.positive.strip() in praise for p in negated)


@pytest.mark.parametrize("context", ["none", "positive", "negative"])
def test_questions_keep_to_the_context_asked_for(context):
    asked = questions("sentiment", 30, context=context)
    assert {p.meta["context"] for p in asked} == {context}
    has_border = [any(end in p.prompt.split() for end in SENTENCE_ENDS) for p in asked]
    assert all(has_border) if context != "none" else not any(has_border)


@pytest.mark.parametrize("topic", ["restaurant", "hotel", "book", "phone"])
def test_data_keep_to_the_topic_asked_for(topic):
    for asked in (questions("sentiment", 30, topic=topic), contexts("sentiment", 30, topic=topic)):
        assert {p.meta["topic"] for p in asked} == {topic}
        said = {word for p in asked for word in (p.prompt + " " + p.positive).split()}
        # "story" also stands in "a true story", of anything.
        nouns = {a: set(a.nouns.split()) - {"story"} for a in ASPECTS}
        assert {a.topic for a, words in nouns.items() if words & said} == {topic}


def test_data_keep_to_the_register_asked_for():
    formal, casual = (
        {word for connectors in CONNECTORS[i : i + 1] for word in connectors.split()} | {mark}
        for i, mark in enumerate(("shall", "!"))
    )
    for register, own, others in (("formal", formal, casual), ("casual", casual, formal)):
        for concept in ("sentiment", "truth"):
            sets = (
                questions(concept, 60, register=register),
                contexts(concept, 60, register=register),
            )
            for asked in sets:
                said = {
                    word
                    for p in asked
                    for t in (p.prompt, p.positive, p.negative)
                    for word in t.split()
                }
                assert said & own and not said & others


@pytest.mark.parametrize("concept", CONCEPTS)
def test_data_keep_to_the_form_asked_for(concept):
    for form in (forms_of(concept)[0], "negated-fact" if concept == "truth" else "negated"):
        asked = questions(concept, 8, form=form, topic="book")
        assert {p.meta["form"] for p in asked} == {form}
        assert {p.meta["form"] for p in contexts(concept, 8, form=form)} == {form}


def test_every_form_that_tells_of_a_concept_is_among_its_forms():
    for concept in CONCEPTS:
        seen = {p.meta["form"] for p in questions(concept, 100, seed=3)}
        assert seen <= set(forms_of(concept))


def test_what_is_kept_draws_anew_and_nothing_kept_draws_as_ever():
    """The hashes of data that results were reported on."""
    assert questions("sentiment", 40, 3).hash == (
        "5251088515a0e2dfe6d1b5e8978fa01ce137e99e85d283d10375f9196c7e578a"
    )
    assert contexts("truth", 40, 3).hash == (
        "8267aee71557a42935862af4969641a5b42301d8923bac5f5a5d0ba33f3b9fdb"
    )
    one, other = (questions("sentiment", 40, topic=topic) for topic in ("book", "phone"))
    assert [p.meta["form"] for p in one] != [p.meta["form"] for p in other]
    assert questions("sentiment", 40, topic="book").hash == one.hash


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"topic": "car"}, "topic='car'"),
        ({"register": "slang"}, "slang"),
        ({"form": "fact"}, "'fact' can be cut where it tells of sentiment"),
        ({"form": "sonnet"}, "Use one of because"),
    ],
)
def test_what_the_language_has_not_cannot_be_kept(wanted, message):
    for make in (questions, contexts):
        with pytest.raises((ValueError, TypeError), match=message):
            make("sentiment", 3, **wanted)


def test_the_register_cannot_be_kept_while_it_is_the_concept():
    with pytest.raises(ValueError, match="while register is the concept"):
        questions("register", 3, register="formal")


def test_more_data_than_a_narrow_choice_has_are_refused():
    with pytest.raises(ValueError, match=r"Not n=6 different .* form='return'"):
        questions("sentiment", 6, context="none", form="return")


def test_bad_requests_for_data_are_refused():
    with pytest.raises((ValueError, TypeError), match="some"):
        questions("truth", 3, context="some")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="n=0"):
        questions("truth", 0)
    with pytest.raises(ValueError, match="n=0"):
        neutral_texts(0)


def test_neutral_texts_are_seeded_documents_without_special_tokens():
    assert neutral_texts(5, seed=2) == neutral_texts(5, seed=2) != neutral_texts(5, seed=3)
    assert not any(BOS in text or EOS in text for text in neutral_texts(20))
