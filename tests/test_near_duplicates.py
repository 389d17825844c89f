"""Pairs that ask nearly the same are found, reported and kept together."""

import itertools
import random

import pytest

from steerlens.data import ContrastError, ContrastPair, ContrastSet
from steerlens.data.near_duplicates import near_duplicates, shingles, text_groups
from steerlens.experiment.experiment_data import load_data, load_others, load_shifts

WORDS = [
    f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "ra", "so", "te", "vu") for b in "bdfgklmnprst"
]


def sentences(count, length, seed=0):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=length)) for _ in range(count)]


def jaccard(one, other):
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def changed(text, place):
    words = text.split()
    words[place] = "zzz"
    return " ".join(words)


def test_the_groups_are_those_of_comparing_all():
    texts = sentences(60, 40)
    texts += [changed(text, i % 40) for i, text in enumerate(texts[:20])]
    texts += [changed(changed(text, 3), 30) for text in texts[:10]]
    random.Random(1).shuffle(texts)
    expected = list(range(len(texts)))
    for i, j in itertools.combinations(range(len(texts)), 2):
        if jaccard(texts[i], texts[j]) > 0.8:
            expected = [expected[i] if e == expected[j] else e for e in expected]
    found = text_groups(texts)
    assert len(set(found)) == len(set(expected)) < len(texts)
    for i, j in itertools.combinations(range(len(texts)), 2):
        assert (found[i] == found[j]) == (expected[i] == expected[j])


def test_links_state_their_similarity():
    texts = sentences(5, 40)
    twin = changed(texts[2], 20)
    (link,) = near_duplicates([*texts, twin])
    assert link[:2] == (2, 5)
    assert link.similarity == pytest.approx(jaccard(texts[2], twin)) and link.similarity > 0.8


def test_case_and_punctuation_do_not_count_and_scripts_without_spaces_do():
    assert text_groups(["One, two three!", "one two three"]) == ["0", "0"]
    same = "今日はとても良い天気ですから公園へ散歩に行きましょう明日は雨が降るそうです"
    assert len(set(text_groups([same + "ね", same + "よ", "全く別の文章がここにあります"]))) == 2


def test_a_template_does_not_make_all_questions_one():
    template = (
        "Answer with yes or no and give no reason for it . Is it true that {} is red ? Answer :"
    )
    texts = [
        template.format(" ".join(words)) for words in itertools.product(WORDS[:6], WORDS[6:12])
    ]
    assert len(set(text_groups(texts))) == len(texts)


def test_many_texts_are_compared_without_comparing_all(monkeypatch):
    texts = sentences(4000, 30)
    twins = [changed(text, 12) for text in texts[:100]]
    found = near_duplicates([*texts, *twins])
    assert {link[:2] for link in found} == {(i, 4000 + i) for i in range(100)}


@pytest.fixture(scope="module")
def questions():
    texts = sentences(40, 40)
    prompts = [*texts, *(changed(text, 7) for text in texts[:8])]
    return ContrastSet("near", tuple(ContrastPair(p, " yes", " no") for p in prompts))


def test_near_duplicates_are_one_group_and_one_part(questions):
    assert len(set(questions.groups)) == 40
    for seed in range(5):
        parts = questions.split(seed)
        homes = {pair.prompt: k for k, part in enumerate(parts) for pair in part}
        for i in range(8):
            assert homes[questions[i].prompt] == homes[questions[40 + i].prompt]


def test_the_report_counts_them(questions):
    report = questions.report
    assert report.near_duplicates == 16 and report.groups == 40 and report.largest_group == 2
    assert "nearly the same: 16 pairs, kept in one group, e.g. " in str(report)
    plain = ContrastSet("plain", questions.pairs[:40]).report
    assert plain.near_duplicates == 0 and "nearly the same" not in str(plain)


def test_without_leaves_out_what_is_nearly_the_same_and_says_so(questions):
    main = ContrastSet("main", questions.pairs[:40])
    other = ContrastSet("other", questions.pairs[40:])
    mixed = ContrastSet(
        "mixed", (*other.pairs[:5], main[20], ContrastPair("Is it late?", " yes", " no"))
    )
    kept = mixed.without(main)
    assert [pair.prompt for pair in kept] == ["Is it late?"]
    assert kept.notes[-1] == (
        "1 of 7 pairs, those not in 'main' (left out: 1 asked there, 5 nearly the same)"
    )
    assert kept.without(main) is kept
    with pytest.raises(ContrastError, match=r"nearly the same as one \(8 of 8\)"):
        other.without(main)


def test_shifted_and_other_questions_are_no_near_duplicates_of_the_main_parts(questions, tmp_path):
    plain = ContrastSet("plain", questions.pairs[:40])
    plain.save(tmp_path / "plain.jsonl")
    fresh = tuple(ContrastPair(text, " yes", " no") for text in sentences(4, 40, seed=9))
    ContrastSet("file", (*questions.pairs[40:], *fresh)).save(tmp_path / "file.jsonl")
    data = load_data(str(tmp_path / "plain.jsonl"), None, (40, 40, 40), 8, 0)
    path = str(tmp_path / "file.jsonl")
    shifted = load_shifts(data.fit.source, (path,), data, 40, 0).shifted[path]
    others = load_others(data.fit.source, (path,), data, 40, 0)[path]
    for found in (shifted, others):
        assert {pair.prompt for pair in found} == {pair.prompt for pair in fresh}
        assert any("8 nearly the same" in note for note in found.report.notes)


def test_copies_of_a_question_are_no_near_duplicates_of_their_own():
    pair = ContrastPair("Is the soup good?", " yes", " no")
    twice = ContrastSet("twice", (pair, pair, ContrastPair("Is it late?", " yes", " no")))
    assert twice.report.near_duplicates == 0 and len(set(twice.groups)) == 2


def test_large_groups_are_said_to_tell_little():
    pairs = [ContrastPair(f"{w} {v}", " a", " b", group=w) for w in WORDS[:4] for v in WORDS[10:20]]
    report = ContrastSet("clusters", tuple(pairs)).report
    assert report.effective_groups == pytest.approx(4) and "groups: 4, the largest" in str(report)
    uneven = ContrastSet("uneven", tuple(pairs[:13])).report
    assert "2, the largest of 10 pairs, effectively 1.55" in str(uneven)
