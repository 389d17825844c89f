"""Loops are seen, ordinary text is not, and what a text does not have is NaN, not 0."""

import math

import pytest

from steerlens.measures.repetition import (
    compression_ratio,
    distinct_share,
    distinct_without_each,
    repeated_share,
)

SENTENCE = [
    "the",
    "old",
    "king",
    "of",
    "the",
    "town",
    "ate",
    "a",
    "small",
    "blue",
    "fish",
    "and",
    "slept",
]


def test_a_loop_repeats_nearly_all_of_its_ngrams():
    assert repeated_share(["good"] * 24) == pytest.approx(1 - 1 / 21)
    assert repeated_share(["a", "b"] * 12) == pytest.approx(1 - 2 / 21)
    assert repeated_share(SENTENCE) == 0


def test_repeats_and_distinct_ones_are_the_two_parts_of_a_text():
    text = ["the", "cat", "sat", "and", "the", "cat", "sat", "and", "the", "dog", "ran"]
    for n in (1, 2, 3):
        assert repeated_share(text, n) + distinct_share([text], n) == pytest.approx(1)
    assert distinct_share([text], 1) == pytest.approx(6 / 11)
    assert distinct_share([text], 2) == pytest.approx(6 / 10)


def test_distinct_over_several_texts_sees_what_they_share():
    assert distinct_share([SENTENCE]) == 1
    assert distinct_share([SENTENCE] * 4) == pytest.approx(1 / 4)


def test_ngrams_do_not_reach_from_one_text_into_the_next():
    assert distinct_share([["a", "b"], ["b", "a"]], 2) == 1
    assert math.isnan(distinct_share([["a"], ["b"]], 2))


def test_leaving_out_each_text_equals_computing_it_again():
    texts = [["a", "b", "a", "b", "c"], ["a", "b"], [], ["c", "d", "e"], ["a"]]
    for n in (1, 2, 3):
        again = [distinct_share(texts[:i] + texts[i + 1 :], n) for i in range(len(texts))]
        assert distinct_without_each(texts, n) == pytest.approx(again, nan_ok=True)


def test_leaving_out_the_only_text_leaves_nothing():
    assert math.isnan(distinct_without_each([["a", "b"]])[0])


def test_a_loop_compresses_and_a_sentence_hardly_does():
    sentence = " ".join(SENTENCE)
    assert 0.9 < compression_ratio(sentence) < 1.3
    assert compression_ratio("good " * 24) > 8
    assert compression_ratio(sentence * 3) > 2 * compression_ratio(sentence)


def test_what_a_text_does_not_have_is_nan():
    assert math.isnan(repeated_share(["a", "b", "c"]))
    assert math.isnan(distinct_share([[], []], 1))
    assert math.isnan(compression_ratio(" \n"))
    assert not math.isnan(repeated_share(["a", "b", "c", "d"]))


def test_letters_are_not_taken_for_tokens():
    with pytest.raises(TypeError, match="Give its tokens"):
        repeated_share("the cat sat")


def test_ngrams_have_a_length():
    with pytest.raises(ValueError, match="n=0 is no length"):
        distinct_share([["a"]], 0)


def test_text_that_is_no_unicode_can_still_be_measured():
    assert compression_ratio("a\ud800b") > 0
