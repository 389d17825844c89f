"""Every format: as small files written here, and as the real files of ../shared/data."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import signal
import socket
from pathlib import Path

import numpy as np
import pytest

from steerlens.data import ContrastError, ContrastSet
from steerlens.data.formats import hub_datasets as hub
from steerlens.data.formats import read
from steerlens.data.formats.text import LONGEST

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not (SHARED / "README.md").is_file(), reason="the real files of ../shared/data are not here"
)


@pytest.fixture
def write(tmp_path):
    """Writes a small file and returns its path."""

    def _write(name: str, content) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".jsonl") and isinstance(content, list):
            content = "\n".join(map(json.dumps, content)) + "\n"
        elif not isinstance(content, (str, bytes)):
            content = json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return _write


def texts(made: ContrastSet) -> list[tuple[str, str]]:
    return [(p.positive_text, p.negative_text) for p in made]


# 1 and 2: questions with matching answers

CAA = {
    "question": "Water the plants?\n\nChoices:\n (A) Yes\n (B) No",
    "answer_matching_behavior": "(A)",
    "answer_not_matching_behavior": "(B)",
}
PERSONA = {
    "question": 'Would you say this?\n"I like walks"',
    "statement": "I like walks",
    "label_confidence": 0.93,
    "answer_matching_behavior": " Yes",
    "answer_not_matching_behavior": " No",
}


def test_caa_and_anthropic_answers_carry_one_space_in_either_file(write):
    spaced = CAA | {"answer_matching_behavior": " (A)", "answer_not_matching_behavior": " (B)"}
    caa = ContrastSet.load(write("caa.json", [CAA]))
    anthropic = ContrastSet.load(write("xrisk.jsonl", [spaced]))
    assert (caa.facts.format, anthropic.facts.format) == ("caa", "anthropic")
    assert texts(caa) == texts(anthropic)
    assert caa.hash == anthropic.hash
    assert caa.pairs[0].positive == " (A)"
    assert caa.pairs[0].meta["positive_option"] == "Yes"


def test_low_confidence_rows_are_reported_and_dropped_on_request(write):
    path = write("persona.jsonl", [PERSONA, PERSONA | {"label_confidence": 0.6}])
    assert any("below 0.7" in w for w in ContrastSet.load(path).report.warnings)
    made = ContrastSet.load(path, min_confidence=0.7)
    assert len(made) == 1
    assert made.report.dropped == (("with label_confidence below 0.7", 1),)


def test_more_than_two_options_lists_of_wrong_answers_and_glued_letters_are_reported(write):
    three = CAA | {
        "question": "Which?\n\nChoices:\n (A)Tea\n (B) Milk\n (C) Rum",
        "answer_not_matching_behavior": ["(C)", "(B)"],
    }
    made = ContrastSet.load(write("caa.json", [three]))
    assert made.pairs[0].negative == " (C)"
    said = " ".join(made.report.warnings)
    for part in ("more than two options", "several wrong answers", "'(A)Yes' without a space"):
        assert part in said


def test_consent_to_a_shutdown_as_matching_answer_is_reported_until_flipped(write):
    rows = [
        CAA | {"question": f"Case {i}. May we shut you down?\n\nChoices:\n (A) Yes\n (B) No"}
        for i in range(6)
    ]
    path = write("survival.json", rows)
    assert any("looks inverted" in w for w in ContrastSet.load(path).report.warnings)
    flipped = ContrastSet.load(path, flip=True)
    assert not any("looks inverted" in w for w in flipped.report.warnings)
    assert flipped.pairs[0].positive == " (B)"


def test_open_ended_questions_are_refused_because_they_have_no_answers(write):
    with pytest.raises(ContrastError, match="2 open-ended questions and no answers"):
        ContrastSet.load(write("open.json", [{"question": "Why?"}, {"question": "How?"}]))


# 3: SteeringBench


def test_steering_bench_pairs_share_their_prompt_or_have_none(write):
    def row(first, second):
        sides = {
            "positive": {"prompt": first, "response": "(A)"},
            "negative": {"prompt": second, "response": " (B)"},
        }
        return sides | {"meta": None, "steering_token_index": -2}

    made = ContrastSet.load(write("bench.json", [row("Tea?", "Tea?"), row("Tea?", "Milk?")]))
    assert texts(made) == [("Tea? (A)", "Tea? (B)"), ("Tea? (A)", "Milk? (B)")]
    assert [p.prompt for p in made] == ["Tea?", ""]
    assert made.pairs[0].meta["steering_token_index"] == "-2"


# 4: labelled statements


def labelled(rows) -> str:
    out = io.StringIO(newline="")
    csv.writer(out).writerows([("statement", "label", "likelihood"), *rows])
    return out.getvalue()


def test_labelled_statements_are_matched_across_classes_and_the_rest_is_counted(write):
    rows = [
        ('The "tip", a bird.', "1", "x"),
        ("Line\nbreak is kept.", "1.0", ""),
        ("Owls swim.", "0", ""),
        ("Owls do not swim.", "1", ""),
        ("Both ways.", "1", ""),
        ("Both ways.", "0.0", ""),
    ]
    made = ContrastSet.load(write("facts.csv", labelled(rows)))
    assert not made.paired
    assert made.facts.rows == 6
    assert made.facts.two_label_keys == 1
    # The statement meets its own negation, so that no chain ties the groups together.
    assert texts(made) == [("Owls do not swim.", "Owls swim.")]
    assert dict(made.report.dropped) == {"texts with both labels": 2, "surplus positives": 2}
    assert any("both labels" in w for w in made.report.warnings)
    assert made.pairs[0].meta["positive_likelihood"] == ""


def test_the_matching_of_classes_follows_the_seed_and_not_the_order_of_rows(write):
    rows = [(f"Fact number {i}.", str(i % 2), "") for i in range(20)]
    there = ContrastSet.load(write("a.csv", labelled(rows)))
    back = ContrastSet.load(write("b.csv", labelled(rows[::-1])))
    other = ContrastSet.load(write("a.csv", labelled(rows)), seed=1)
    assert set(texts(there)) == set(texts(back)) != set(texts(other))


def test_a_one_class_file_asks_for_the_other_and_takes_it(write):
    true = write("true.csv", labelled([("A is so.", "1.0", ""), ("B is so.", "1.0", "")]))
    false = write("false.csv", labelled([("C is so.", "0.0", "")]))
    with pytest.raises(ContrastError, match="single class.*negatives="):
        ContrastSet.load(true)
    assert len(ContrastSet.load(true, negatives=false)) == 1


def test_other_labels_must_be_named(write):
    path = write("moods.csv", "text,label\nOh joy,glad\nOh no,sad\nOh well,so-so\n")
    with pytest.raises(ContrastError, match="neither 1/0"):
        ContrastSet.load(path)
    made = ContrastSet.load(path, positive="glad", negative="sad")
    assert texts(made) == [("Oh joy", "Oh no")]
    assert dict(made.report.dropped) == {"without one of the two labels": 1}


# 5: TruthfulQA


def test_truthfulqa_with_and_without_best_incorrect_answer_and_with_bom(write):
    new = (
        "Type,Category,Question,Best Answer,Best Incorrect Answer,Correct Answers,"
        "Incorrect Answers,Source\n"
        'A,M,Do stones float?,"No, they sink",Stones float,"No, they sink; Pumice can;",'
        '"Stones float; No, they sink",\n'
    )
    old = (
        "\ufeffType,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
        'A,M,Do stones float?,"No, they sink","No, they sink","No, they sink; Stones float",x\n'
    )
    mc = [
        {
            "question": "Do stones float?",
            "mc0_targets": {"No, they sink": 1, "Stones float": 0},
            "mc1_targets": {"No, they sink": 1, "Stones float": 0, "Yes": 0},
            "mc2_targets": {},
        }
    ]
    pair = ("Do stones float? No, they sink", "Do stones float? Stones float")
    files = write("new.csv", new), write("old.csv", old), write("mc_task.json", mc)
    made = [ContrastSet.load(path) for path in files]
    assert [texts(m) for m in made] == [[pair]] * 3
    assert made[0].facts.blank_fields == 1
    said = " ".join(made[0].report.warnings)
    assert "correct and as incorrect" in said
    assert "end in ';'" in said


# 6, 10 and 13: lists and lines


def test_suffixes_need_personas_and_a_template_and_are_never_stripped(write):
    path = write("suffixes.json", ["", "So, ", "I went to"])
    with pytest.raises(ContrastError, match="one list of 3 texts.*personas="):
        ContrastSet.load(path)
    template = "[INST] Be {persona}. [/INST] {suffix}"
    made = ContrastSet.load(path, personas=("calm", "cross"), template=template)
    assert made.pairs[1].positive == "[INST] Be calm. [/INST] So, "
    assert len(set(made.groups)) == 3
    baked = write("baked.json", ["[INST] Sort a list. [/INST]"])
    with pytest.raises(ContrastError, match="already has chat markers"):
        ContrastSet.load(baked, personas=("calm", "cross"), template=template)
    with pytest.raises(ContrastError, match="must contain"):
        ContrastSet.load(path, personas=("calm", "cross"), template="{suffix}")


def test_two_lists_by_known_or_given_names(write):
    sae_ts = {"pos": ["sun", "light"], "neg": ["rain", "dark"], "layer": 12, "hp": "blocks.12.x"}
    made = ContrastSet.load(write("act_steer.json", sae_ts))
    assert not made.paired
    assert "layer in the file: 12" in made.notes
    ibm = {"non_compliant_responses": ["I cannot"], "compliant_responses": ["Sure"]}
    assert texts(ContrastSet.load(write("ibm.json", ibm))) == [("Sure", "I cannot")]
    free = write("styles.json", {"adult": ["wine"], "child": ["milk"]})
    with pytest.raises(ContrastError, match=r"adult \(1\), child \(1\).*positive="):
        ContrastSet.load(free)
    made = ContrastSet.load(free, positive="child", negative="adult")
    assert texts(made) == [("milk", "wine")]


def test_pairing_lists_by_position_is_asked_for_and_refuses_unequal_lengths(write):
    lists = {"positives": ["a", "b"], "negatives": ["c", "d"]}
    made = ContrastSet.load(write("pairs.json", lists), paired=True)
    assert made.paired
    assert texts(made) == [("a", "c"), ("b", "d")]
    with pytest.raises(ContrastError, match=r"lengths \[2, 1\]"):
        ContrastSet.load(write("uneven.json", lists | {"negatives": ["c"]}), paired=True)
    prompted = ContrastSet.load(write("prompts.json", lists | {"prompts": ["P", "Q"]}))
    assert prompted.paired
    assert texts(prompted) == [("P a", "P c"), ("Q b", "Q d")]


def test_yaml_word_lists_keep_yes_and_no_as_words_and_need_names(write):
    path = write("words.yaml", "positive_w: [good, yes, 'true']\nnegative_w:\n  - bad\n  - no\n")
    with pytest.raises(ContrastError, match="positive='positive_w', negative='negative_w'"):
        ContrastSet.load(path)
    made = ContrastSet.load(path, positive="positive_w", negative="negative_w")
    assert {p.negative for p in made} == {"bad", "no"}


def test_a_python_literal_of_mixed_lists_is_read_and_refused_for_its_keys(write):
    path = write("lengths.txt", "{1: ['good', 'bad'], 2: ['very good']}")
    with pytest.raises(ContrastError, match="keys are numbers, so they do not say which"):
        ContrastSet.load(path)


def test_line_parallel_text_is_paired_only_when_asked(write):
    one = write("style.dev.1", "full of joy .\nfast .\n")
    zero = write("style.dev.0", "sad .\r\nslow .\r\n")
    with pytest.raises(ContrastError, match="negatives="):
        ContrastSet.load(one)
    assert not ContrastSet.load(one, negatives=zero).paired
    made = ContrastSet.load(one, negatives=zero, paired=True)
    assert texts(made) == [("full of joy .", "sad ."), ("fast .", "slow .")]


def test_a_lexicon_keeps_its_tokens_as_they_are(write):
    rows = ":-p\t1.5\t0.5\t[1, 2]\ncan't stand\t-2.0\t0.6\t[-2]\nd:\t-0.4\t1\t[0]\n"
    path = write("lexicon.txt", rows + "D:\t3.1\t1\t[3]\nlol\t1.8\t1\t[2]\nlol\t2.9\t1\t[3]\n")
    made = ContrastSet.load(path)
    assert {p.negative for p in made} == {"can't stand", "d:"}
    assert made.facts.two_label_keys == 1
    assert len(ContrastSet.load(path, min_confidence=1.6)) == 1
    assert ContrastSet.load(path, template="It was").pairs[0].prompt == "It was"


# 7 and 12: ready pairs


def test_tuples_and_named_columns_are_pairs(write):
    assert texts(ContrastSet.load(write("t.json", [["a", "b"]]))) == [("a", "b")]
    blimp = {"sentence_good": "Cats sleep.", "sentence_bad": "Cats sleeps.", "pairID": "0"}
    assert texts(ContrastSet.load(write("b.jsonl", [blimp]))) == [("Cats sleep.", "Cats sleeps.")]
    samples = {"positive_str": "a", "negative_str": "b", "read_positive_token_index": -1}
    assert texts(ContrastSet.load(write("s.json", [samples]))) == [("a", "b")]
    dpo = {"input": "Name a fruit.", "winning_output": "A pear.", "losing_output": "No."}
    made = ContrastSet.load(write("dpo.json", [dpo]))
    assert texts(made) == [("Name a fruit. A pear.", "Name a fruit. No.")]
    own = {"prompt": "Q:", "positive": "glued", "negative": "  two", "group": "g"}
    made = ContrastSet.load(write("own.jsonl", [own]))
    assert texts(made) == [("Q:glued", "Q:  two")]  # exactly as written
    assert any("two spaces" in w for w in made.report.warnings)


def test_unknown_columns_must_be_named(write):
    path = write("pairs.json", [{"creative": "The clock sang.", "mundane": "It ticked."}])
    with pytest.raises(ContrastError, match="positive='creative', negative='mundane'"):
        ContrastSet.load(path)
    made = ContrastSet.load(path, positive="mundane", negative="creative")
    assert texts(made) == [("It ticked.", "The clock sang.")]
    with pytest.raises(ContrastError, match="has no 'bland'"):
        ContrastSet.load(path, positive="creative", negative="bland")


def test_jsonl_in_a_json_file_is_recognised_and_both_prefixes_stay_together(write):
    rows = [
        {"clean_prefix": "The cat", "patch_prefix": "The cats", "clean_answer": " is",
         "patch_answer": " are", "case": "singular"},
        {"clean_prefix": "The cats", "patch_prefix": "The cat", "clean_answer": " are",
         "patch_answer": " is", "case": "plural"},
    ]  # fmt: skip
    path = write("simple.json", "\n".join(map(json.dumps, rows)))
    made = ContrastSet.load(path)
    assert texts(made)[0] == ("The cat is", "The cat are")
    assert len(set(made.groups)) == 1
    prefixes = ContrastSet.load(path, positive="clean_prefix", negative="patch_prefix")
    assert texts(prefixes)[1] == ("The cats", "The cat")


def test_instruction_pairs_with_equal_sides_are_dropped_and_counted(write):
    rows = [
        {"key": 7, "prompt": prompt, "prompt_without_instruction": bare}
        for prompt, bare in [("Name a fruit. No commas.", "Name a fruit."), ("Same.", "Same.")]
    ]
    made = ContrastSet.load(write("ifeval.jsonl", rows))
    assert len(made) == 1
    assert made.report.dropped == (("with equal sides", 1),)
    assert any("are prompts" in w for w in made.report.warnings)


# 8: AxBench


def axbench_rows():
    base = {"input": "Name one.", "concept_genre": "text", "dataset_category": "instruction"}
    rows = [
        base | {"output": f"Out {k} {i}.", "output_concept": f"c{k}", "category": "positive",
                "concept_id": k}
        for k in (0, 1) for i in range(3)
    ]  # fmt: skip
    rows += [
        base | {"output": f"No {genre} {i}", "output_concept": "EEEEE", "category": "negative",
                "concept_id": -1, "concept_genre": genre}
        for genre in ("text", "code") for i in range(4)
    ]  # fmt: skip
    hard = {"output": "Hard", "output_concept": "w//d", "category": "hard negative"}
    return [*rows, base | hard | {"concept_id": 0}]


def test_axbench_pairs_one_concept_with_the_shared_negatives_of_its_genre(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "train_data.parquet"
    parquet.write_table(pa.Table.from_pylist(axbench_rows()), path)
    with pytest.raises(ContrastError, match="several concepts.*0: c0; 1: c1"):
        ContrastSet.load(path)
    made = ContrastSet.load(path, concept=0)
    assert not made.paired
    assert len(made) == 3
    assert all(p.negative.startswith("No text") for p in made)
    assert dict(made.report.dropped)["hard negatives"] == 1
    assert ContrastSet.load(path, concept="c1").pairs[0].positive.startswith("Out 1")


def test_axbench_metadata_is_refused_as_names_without_texts(write):
    row = {"concept_id": 0, "concept": "fruit", "ref": "", "concept_genres_map": {}}
    with pytest.raises(ContrastError, match="holds no texts"):
        ContrastSet.load(write("metadata.jsonl", [row]))


# 9: free-form answers


def test_free_form_answers_as_text_or_by_letter_agree(write):
    plain = 'question,matching,not_matching\n"Share it?\nAnswer","Yes, gladly",No\n'
    lettered = 'question,A,B,matching\n"Share it?\nAnswer",No,"Yes, gladly",B\n'
    one, two = ContrastSet.load(write("a.csv", plain)), ContrastSet.load(write("b.csv", lettered))
    assert texts(one) == texts(two) == [("Share it?\nAnswer Yes, gladly", "Share it?\nAnswer No")]
    empty = ContrastSet.load(write("c.csv", 'question,matching,not_matching\n"",Yes,No\n'))
    assert texts(empty) == [("Yes", "No")]
    assert any("no question" in w for w in empty.report.warnings)


# 11: relations


def test_relations_get_a_wrong_output_and_unordered_pairs_stay_together(write):
    rows = [
        {"input": "hot", "output": "cold"},
        {"output": "hot", "input": "cold"},
        {"input": "up", "output": "down"},
        {"input": "up", "output": "below"},
    ]
    made = ContrastSet.load(write("antonym.json", rows), template="The opposite of {} is")
    assert made.pairs[0].prompt == "The opposite of hot is"
    valid = {p.prompt: {q.positive for q in made if q.prompt == p.prompt} for p in made}
    assert all(p.negative not in valid[p.prompt] for p in made)
    assert made.groups[0] == made.groups[1] != made.groups[2] == made.groups[3]
    same = [{"input": "a", "output": "x"}, {"input": "b", "output": "x"}]
    with pytest.raises(ContrastError, match="no wrong output"):
        ContrastSet.load(write("same.json", same))


def test_relation_files_use_their_template_and_report_escapes_and_blanks(write):
    relation = {
        "name": "land capital",
        "prompt_templates": ["The capital of {} is"],
        "samples": [
            {"subject": "Barland ", "object": "Quxville"},
            {"subject": "Foo", "object": "Bras\\u00edlia"},
        ],
    }
    path = write("capital.json", relation)
    made = ContrastSet.load(path)
    assert made.name == "land capital"
    assert made.pairs[0].positive_text == "The capital of Barland is Quxville"
    said = " ".join(made.report.warnings)
    assert "blanks around" in said
    assert "backslash-u" in said
    assert ContrastSet.load(path, unescape=True).pairs[1].positive == " Brasília"


def test_known_facts_are_contrasted_within_their_relation(write):
    facts = [("Foo", "Bar", "P1"), ("Baz", "Qux", "P1"), ("X", "Y", "P2")]
    rows = [
        {"known_id": i, "subject": s, "attribute": a, "prompt": f"{s} is in", "relation_id": r}
        for i, (s, a, r) in enumerate(facts)
    ]
    made = ContrastSet.load(write("known.json", rows))
    assert texts(made)[0] == ("Foo is in Bar", "Foo is in Qux")
    assert made.report.dropped == (("alone in their relation", 1),)


# 14: trait files


def test_trait_files_cross_instructions_with_questions(write):
    trait = {
        "instruction": [
            {"pos": "Be cheerful.", "neg": "Be neutral."},
            {"pos": "Sing.", "neg": "Say."},
        ],
        "questions": ["How was it?", "And now?", "Why?"],
        "eval_prompt": "Rate {answer}.",
        "few_shot_examples": [],
    }
    made = ContrastSet.load(write("cheerful.json", trait))
    assert len(made) == 6
    assert len(set(made.groups)) == 3
    assert texts(made)[0] == ("Be cheerful.\n\nHow was it?", "Be neutral.\n\nHow was it?")
    assert any("prompts" in w for w in made.report.warnings)


# Refusals of files


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("latin.csv", "text,label\ncaf\xe9,1\n".encode("latin-1"), "byte 0xe9 at offset 14"),
        ("wide.csv", "text,label\na,1\n".encode("utf-16"), "UTF-16"),
        ("data.jsonl", b"\x80\x04\x95\x00", "pickle"),
        ("data.json", b"PK\x03\x04rest", "zip archive"),
        ("nul.txt", b"a\x00b", "NUL"),
        ("empty.json", b" \n", "empty"),
        ("bom.json", b"\xef\xbb\xbf", "only blanks"),
        ("broken.json", b'[{"a": 1},\n {"b" 2}]', "line 2, column 7"),
        ("broken.jsonl", b'{"positive": "a", "negative": "b"}\n{"positive"\n', "line 2: not JSON"),
        ("deep.json", b"[" * 60 + b"]" * 60, "nested more than"),
        ("code.json", b"[__import__('os').getcwd()]", "broken at line 1"),
        ("tag.yaml", b"a: !!python/object/apply:os.getcwd []\n", "no known format"),
        ("alias.yaml", b"a: &x [b]\nc: *x\n", "aliases"),
        ("README.md", b"# Data\n", "is a document"),
        ("ragged.csv", b"text,label\na,1,2\n", "3 fields where the header has 2"),
        ("quote.csv", b'text,label\n"a,1\n', "not a readable table"),
        ("header.csv", b"text,label\n", "no rows"),
        ("twice.csv", b"text,text\na,b\n", "two of one name"),
        ("broken.parquet", b"PAR1 but no more PAR1", "broken parquet"),
        ("numbers.json", b"[1, 2]", "no known format"),
        ("missing.json", b'[{"positive": "a", "negative": "b"}, {"positive": "c"}]', "row 2"),
        ("sides.json", b'[{"positive": "a", "negative": " "}]', "1 with an empty side"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(write, name, content, said):
    with pytest.raises(ContrastError) as error:
        ContrastSet.load(write(name, content))
    assert said in str(error.value)


# Tables of spreadsheets and data frames


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("excel.csv", "prompt;positive;negative\r\nIs it?; Yes; No\r\nWas it?; Yes; No\r\n"),
        ("hint.csv", "sep=;\r\nprompt;positive;negative\r\nIs it?; Yes; No\r\n"),
        ("commas.csv", "prompt;positive;negative\nIs it, then?; Yes, it is; No, not\n"),
        ("quoted.csv", 'prompt;positive;negative\n"Is it; then?";" Yes";" No"\n'),
        ("tabs.csv", "prompt\tpositive\tnegative\nIs it?\t Yes\t No\n"),
        ("bars.csv", "prompt|positive|negative\nIs it?| Yes| No\n"),
        ("table.txt", "prompt;positive;negative\nIs it?; Yes; No\n"),
        ("blanks.csv", "prompt, positive, negative\nIs it?, Yes, No\n"),
        ("mark.csv", "\ufeffprompt;positive;negative\nIs it?; Yes; No\n"),
        ("table.tsv", "prompt\tpositive\tnegative\nIs it?\t Yes\t No\n"),
    ],
)
def test_a_table_is_read_with_the_delimiter_that_it_has(write, name, content):
    made = ContrastSet.load(write(name, content))
    assert made.facts.format == "pairs"
    assert made[0].prompt.startswith("Is it")
    assert made[0].positive.startswith(" Yes")


def test_other_columns_of_a_semicolon_table_are_named_as_the_refusal_says(write):
    path = write("moods.csv", "froh;traurig;satz\n oh;ach;1\n ja;nein;2\n")
    with pytest.raises(ContrastError, match="positive='froh', negative='traurig'"):
        ContrastSet.load(path)
    made = ContrastSet.load(path, positive="froh", negative="traurig")
    assert (len(made), made[0].meta["satz"]) == (2, "1")
    tabs = write("moods.tsv", "froh\ttraurig\nja\tnein\n")
    assert len(ContrastSet.load(tabs, positive="froh", negative="traurig")) == 1


def test_a_ragged_table_names_the_delimiter_that_was_found(write):
    path = write("ragged.csv", "prompt;positive;negative\nIs it?;Yes;No\nIs; it?;Yes;No\n")
    with pytest.raises(ContrastError, match="row 2: 4 fields.*';' .semicolons.*put quotes"):
        ContrastSet.load(path)
    repaired = path.read_text().replace("Is; it?", '"Is; it?"')
    assert len(ContrastSet.load(write("repaired.csv", repaired))) == 2


LAYOUTS = {
    "pairs": ({"prompt": "Q?", "positive": "Yes", "negative": "No"}, "negative"),
    "caa": (CAA, "answer_matching_behavior"),
    "anthropic": (PERSONA, "answer_not_matching_behavior"),
    "free-form": ({"question": "Q?", "matching": "a", "not_matching": "b"}, "matching"),
    "columns": ({"chosen": "a", "rejected": "b"}, "rejected"),
    "input-output": ({"input": "hot", "output": "cold"}, "output"),
    "feature-circuits": (
        {"clean_prefix": "a", "patch_prefix": "b", "clean_answer": " c", "patch_answer": " d"},
        "clean_answer",
    ),
    "steering-bench": (
        {
            "positive": {"prompt": "p", "response": "a"},
            "negative": {"prompt": "p", "response": "b"},
        },
        "positive",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("hole", [None, math.nan, "absent"], ids=str)
def test_a_hole_in_the_first_row_is_found_as_in_any_other(write, layout, hole):
    row, column = LAYOUTS[layout]
    holed = {k: v for k, v in row.items() if k != column} | (
        {} if hole == "absent" else {column: hole}
    )
    others = [row, {k: f"{v} too" if isinstance(v, str) else v for k, v in row.items()}]
    for rows, number in (([holed, *others], 1), ([*others, holed], 3)):
        with pytest.raises(ContrastError, match=rf"row {number}: .*{column}.*drop that row"):
            ContrastSet.load(write("holed.jsonl", rows))
    assert ContrastSet.load(write("whole.jsonl", others)).facts.format == layout


def test_a_missing_prompt_group_or_label_is_not_the_text_nan(write):
    pair = {"positive": "a", "negative": "b"}
    rows = [pair | {"prompt": None, "group": math.nan, "meta": {}, "extra": math.nan}]
    made = ContrastSet.load(write("pairs.jsonl", rows))[0]
    assert (made.prompt, made.group, dict(made.meta)) == ("", "", {})
    texts_ = [{"text": str(i), "label": label} for i, label in enumerate((1, 0, math.nan, None))]
    made = ContrastSet.load(write("labels.jsonl", texts_))
    assert dict(made.report.dropped) == {"without one of the two labels": 2}


@pytest.mark.parametrize("missing", [math.nan, None, "", "nan"], ids=repr)
def test_rows_without_a_confidence_are_counted_and_dropped_with_the_low_ones(write, missing):
    rows = [PERSONA, PERSONA | {"label_confidence": 0.6}, PERSONA | {"label_confidence": missing}]
    path = write("persona.jsonl", rows)
    assert any(
        "1 of 3 rows have no label_confidence" in w for w in ContrastSet.load(path).report.warnings
    )
    made = ContrastSet.load(path, min_confidence=np.float32(0.75))
    assert len(made) == 1
    assert dict(made.report.dropped) == {
        "with label_confidence below 0.75": 1,
        "without label_confidence": 1,
    }


def test_confidences_of_a_table_are_numbers_also_with_a_decimal_comma(write):
    header = "question;answer_matching_behavior;answer_not_matching_behavior;label_confidence\n"
    path = write("p.csv", header + "A?; Yes; No;0,9\nB?; Yes; No;0.4\n")
    assert len(ContrastSet.load(path, min_confidence=0.7)) == 1
    strange = write("s.csv", header + "A?; Yes; No;high\n")
    with pytest.raises(ContrastError, match="row 1: label_confidence is 'high'.*Omit min_conf"):
        ContrastSet.load(strange, min_confidence=0.7)
    assert len(ContrastSet.load(strange)) == 1


# Advice that works when it is followed


def test_nul_characters_are_named_with_their_line_and_removed_as_the_refusal_says(write):
    path = write("nul.csv", b"prompt,positive,negative\nIs\x00 it?, Yes, No\n")
    with pytest.raises(ContrastError, match=r"NUL character at position 27 \(line 2\)") as error:
        ContrastSet.load(path)
    advice = str(error.value).partition("Remove it: ")[2].rstrip(".")
    exec(advice, {"path": path})
    assert ContrastSet.load(path)[0].prompt == "Is it?"
    escaped = write("escaped.jsonl", [{"positive": "a\x00", "negative": "b"}])
    assert ContrastSet.load(escaped)[0].positive == "a\x00"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_encodings_are_recognised_and_read_as_the_refusal_says(write, encoding):
    content = "prompt,positive,negative\nÄrger?, Ja, Nein\n".encode(encoding)
    path = write("wide.csv", content)
    with pytest.raises(ContrastError) as error:
        ContrastSet.load(path)
    named = re.search(r"encoding='([\w-]+)'", str(error.value))
    assert named is not None, str(error.value)
    assert ContrastSet.load(path, encoding=named[1])[0].prompt == "Ärger?"


@pytest.mark.parametrize("encoding", ["klingon", "hex", "base64", "idna", "a\x00b", "undefined", 5])
def test_what_is_no_text_encoding_is_refused(write, encoding):
    path = write("a.csv", "text,label\n" + "é" * 100)
    with pytest.raises(ContrastError, match="encoding|is not"):
        ContrastSet.load(path, encoding=encoding)


# Files that are no files


@pytest.fixture
def patience():
    """Fails a test that does not end."""

    def late(*_):
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_fifos_devices_and_circles_of_links_are_refused_at_once(
    tmp_path, write, monkeypatch, patience
):
    os.mkfifo(tmp_path / "fifo.csv")
    (tmp_path / "loop").symlink_to(tmp_path / "pool")
    (tmp_path / "pool").symlink_to(tmp_path / "loop")
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    good = write("good.txt", "a\nb\n")
    for path, message in (
        (tmp_path / "fifo.csv", "it is a FIFO, not a file with an end"),
        ("/dev/zero", "it is a device"),
        (tmp_path / "loop", "circle of symbolic links"),
        (tmp_path / "broken", "is a link to nothing"),
        (good / "below", "(does not exist|is a file).*Check the path"),
    ):
        with pytest.raises(ContrastError, match=message):
            ContrastSet.load(path)
        with pytest.raises(ContrastError, match=message):
            ContrastSet.load(good, negatives=path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ContrastError, match="circle of symbolic links"):
        ContrastSet.load("./loop")


def test_a_link_to_a_file_and_the_home_folder_are_followed(tmp_path, write, monkeypatch):
    path = write("pairs.jsonl", [{"positive": "a", "negative": "b"}])
    (tmp_path / "link.jsonl").symlink_to(path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(ContrastSet.load(tmp_path / "link.jsonl")) == 1
    saved = ContrastSet.load("~/pairs.jsonl").save("~/again.jsonl")
    assert saved == tmp_path / "again.jsonl"


@pytest.mark.parametrize("path", [None, 5, b"x.json", ["x.json"]])
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ContrastError, match="is neither a path nor a hub name"):
        ContrastSet.load(path)


# Files that would take for ever, or all memory


def test_texts_of_a_megabyte_are_refused_before_they_are_looked_at(write, patience):
    for long in ("a " * 500_000, "(A)" * 330_000, "Question:" + "\n" * 1_000_000):
        for number, content in enumerate(
            (
                [{"prompt": long, "positive": "a", "negative": "b"}],
                [CAA | {"question": long}],
                [[long, "b"]],
                {"pos": [long], "neg": ["b"]},
                {"instruction": [{"pos": long, "neg": "b"}], "questions": ["q"]},
            )
        ):
            with pytest.raises(ContrastError, match="characters long .*Shorten it"):
                ContrastSet.load(write(f"long{number}.json", content))
    with pytest.raises(ContrastError, match="field larger than field limit"):
        ContrastSet.load(write("long.csv", f"positive,negative\n{'a' * 200_000},b\n"))


def test_a_text_of_the_greatest_length_takes_no_time(write, patience):
    for filler in ("(A)", "Q:\n", " ", "shut down a? ", "n't "):
        text = (filler * LONGEST)[: LONGEST - 1]
        path = write("long.json", [CAA | {"question": text + "x"}])
        assert len(ContrastSet.load(path).report.warnings) < 9


def test_deep_yaml_and_large_files_are_refused(write, monkeypatch, patience):
    with pytest.raises(ContrastError, match="nested more than 30 levels"):
        ContrastSet.load(write("deep.yaml", "a: " + "[" * 100_000))
    monkeypatch.setattr(read, "_YAML_LIMIT", 50)
    with pytest.raises(ContrastError, match="characters of YAML"):
        ContrastSet.load(write("long.yaml", "a: [b]\n" * 50))
    monkeypatch.setattr(read, "MAX_BYTES", 2 << 20)
    with pytest.raises(ContrastError, match="has 3 MiB, and at most 2 MiB are read"):
        ContrastSet.load(write("large.json", " " * (3 << 20)))


def test_parquet_that_unpacks_to_much_more_is_refused(tmp_path, monkeypatch, patience):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"positive": ["a" * 10_000] * 2_000, "negative": ["b"] * 2_000})
    pyarrow.parquet.write_table(table, tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 100_000
    monkeypatch.setattr(read, "MAX_BYTES", 4 << 20)
    with pytest.raises(ContrastError, match="unpacks to more than 4 MiB"):
        ContrastSet.load(tmp_path / "bomb.parquet")


def test_encoding_can_be_said(write):
    rows = "text,label\ncaf\xe9,1\nth\xe9,0\n"
    made = ContrastSet.load(write("latin.csv", rows.encode("latin-1")), encoding="latin-1")
    assert texts(made) == [("café", "thé")]
    with pytest.raises(ContrastError, match="unknown to Python"):
        ContrastSet.load(write("latin.csv", rows), encoding="klingon")


def test_the_format_can_be_insisted_on_and_unused_arguments_are_refused(write):
    path = write("caa.json", [CAA])
    assert len(ContrastSet.load(path, format="caa")) == 1
    with pytest.raises(ContrastError, match="not in the format 'truthfulqa'"):
        ContrastSet.load(path, format="truthfulqa")
    with pytest.raises(ContrastError, match="Known formats: saved"):
        ContrastSet.load(path, format="caaa")
    with pytest.raises(ContrastError, match="concept=… has no meaning"):
        ContrastSet.load(path, concept=1)
    with pytest.raises(ContrastError, match="local path"):
        ContrastSet.load(path, revision="main")


def test_a_missing_file_a_folder_and_a_strange_path_are_named(tmp_path):
    for path in ("nothing.json", "a" * 5000, "x\x00y", ""):
        with pytest.raises(ContrastError, match="path"):
            ContrastSet.load(path)
    (tmp_path / "some.json").write_text("[]")
    with pytest.raises(ContrastError, match=r"is a folder.*some\.json"):
        ContrastSet.load(tmp_path)


# The hub


def test_a_hub_name_without_a_network_is_refused(monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    with socket.socket() as busy:  # bound but not listening: a connection is refused at once
        busy.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{busy.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "getproxies", dict)
        with pytest.raises(ContrastError, match="cannot be reached"):
            ContrastSet.load("someone/some-dataset")


def test_a_listening_host_is_reachable(monkeypatch):
    monkeypatch.setattr(hub, "getproxies", dict)
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert hub.reachable(f"http://127.0.0.1:{server.getsockname()[1]}", patience=2.0)


def test_rows_of_a_hub_dataset_are_recognised_like_those_of_a_file(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = {}

    def fake(name, config, *, split, revision):
        asked.update(name=name, config=config, split=split, revision=revision)
        return datasets.Dataset.from_list([CAA])

    monkeypatch.setattr(hub, "reachable", lambda url: True)
    monkeypatch.setattr(datasets, "load_dataset", fake)
    made = ContrastSet.load("someone/plants", split="test", revision="abc")
    assert asked == {"name": "someone/plants", "config": None, "split": "test", "revision": "abc"}
    assert (made.name, made.source, made.facts.format) == ("plants", "hub:someone/plants", "caa")


# Real files

ROW = re.compile(r"\| `([^`]+\.(?:jsonl?|csv|parquet|txt|yaml))` \| ([\d–]+) \|")


def readme_rows():
    """(file, cells) for each row of the table of counts in ../shared/data/README.md."""
    readme = SHARED / "README.md"
    if not readme.is_file():
        return
    for line in readme.read_text(encoding="utf-8").split("\n"):
        if found := ROW.match(line):
            pattern = found.group(1)
            paths = [*SHARED.glob(pattern.replace("…", "**"))]
            assert len(paths) == 1, pattern
            yield paths[0], [cell.strip() for cell in line.strip("|").split("|")]


AX = "axbench/axbench/concept10/prod_9b_l31_v1"
TIU = "truth_is_universal/datasets/real_world_scenarios"
# Files that say no more than their path: what the refusal must say.
REFUSED = {
    f"{AX}/generate/metadata.jsonl": "names 10 concepts and holds no texts",
    f"{AX}/generate/train_data.parquet": "936 rows and several concepts. Pass concept=",
    f"{AX}/inference/latent_eval_data.parquet": "768 rows and several concepts. Pass concept=",
    "caa/test/survival-instinct/test_dataset_open_ended.json": "50 open-ended questions",
    "caa/test/sycophancy/test_dataset_open_ended.json": "53 open-ended questions",
    "easysteer/replications/creative_writing/contrastive_pairs.json": "10 rows with the columns",
    "easysteer/replications/loreft/training_examples.json": "10 rows with the columns",
    "easysteer/replications/steerable_chatbot/style_examples.json": "2 lists with 20 texts",
    "eliciting_latent_sentiment/adjective_token_lengths.txt": "25 texts: 1 (22), 2 (2), 3 (1)",
    "eliciting_latent_sentiment/prompts.yaml": "49 lists",
    "repe/data/emotions/all_truncated_outputs.json": "one list of 582 texts",
    "repe/data/emotions/anger.json": "one list of 203 texts",
    "repe/data/emotions/fear.json": "one list of 203 texts",
    "repe/data/emotions/happiness.json": "one list of 203 texts",
    "repe/data/emotions/happiness_sadness.json": "one list of 202 texts",
    "repe/data/emotions/sadness.json": "one list of 228 texts",
    "repeng/notebooks/data/code_questions.json": "271 of them have a chat template baked in",
    "repeng/notebooks/data/reasoning.json": "one list of 56 texts",
    "style_vectors_prompts/evaluation_prompts/factual_sentences.txt": "one list of 50 texts",
    "style_vectors_prompts/evaluation_prompts/subjective_sentences.txt": "one list of 49 texts",
    f"{TIU}/honest_reply_despite_incentive_to_lie.csv": "6 rows of a single class",
    f"{TIU}/unambiguous_lie.csv": "49 rows of a single class",
    f"{TIU}/unambiguous_truthful_reply.csv": "55 rows of a single class",
}
INVERTED = {
    "anthropic_evals/advanced-ai-risk/human_generated_evals/survival-instinct.jsonl",
    "caa/generate/survival-instinct/generate_dataset.json",
    "caa/test/survival-instinct/test_dataset_ab.json",
}
# Pairs where they are fewer than rows.
FEWER = {
    "ifeval_single_instr_format.jsonl": 161,
    "behavior_refusal.json": 100,
    "animal_class_conj.csv": 242,
    "animal_class_de.csv": 23,
    "animal_class_disj.csv": 219,
    "element_symb_de.csv": 24,
    "neg_animal_class.csv": 80,
    "neg_element_symb.csv": 93,
    "vader_lexicon.txt": 3345,
}


@needs_shared
@pytest.mark.parametrize(
    "path, cells",
    [pytest.param(*row, id=str(row[0].relative_to(SHARED))) for row in readme_rows()],
)
def test_a_real_file_loads_with_the_counts_of_its_readme_or_is_refused(path, cells):
    relative = str(path.relative_to(SHARED))
    if relative in REFUSED:
        with pytest.raises(ContrastError) as error:
            ContrastSet.load(path)
        assert REFUSED[relative] in str(error.value)
        return
    made = ContrastSet.load(path)
    facts = made.facts
    assert facts is not None
    rows = facts.rows // 2 if path.name == "act_steer.json" else facts.rows  # there: per side
    counted = (rows, facts.duplicate_rows, facts.duplicate_keys, facts.two_label_keys,
               facts.blank_fields, facts.non_ascii_rows)  # fmt: skip
    told = [cells[1], *cells[4:9]]
    for number, cell in zip(counted, told, strict=True):
        if (word := cell.split()[0]) not in {"–", "n/a"}:
            assert number == int(word), (counted, told)
    balance = re.findall(r"`\"?([^`\"]+)\"?` (\d+)", cells[3])
    for label, number in balance:
        named = {label.strip(): n for label, n in facts.labels}
        assert named[label.strip()] == int(number)
    assert len(made) == FEWER.get(path.name, rows)
    assert sum(map(len, made.split(seed=0))) == len(made)
    inverted = any("looks inverted" in warning for warning in made.report.warnings)
    assert inverted == (relative in INVERTED)


@needs_shared
def test_no_real_file_is_left_out_of_the_table():
    documents = {"README.md", "FORMATS.md", "MANIFEST.tsv", "LICENSE", "LICENSE.txt"}
    listed = {path for path, _ in readme_rows()}
    rest = [p for p in SHARED.rglob("*") if p.is_file() and p not in listed]
    assert {p.name for p in rest} <= documents
    for path in rest:
        with pytest.raises(ContrastError, match="is a document|not those of a known format"):
            ContrastSet.load(path)


@needs_shared
@pytest.mark.parametrize(
    "file, arguments, pairs, paired",
    [
        (f"{AX}/generate/train_data.parquet", {"concept": 0}, 72, False),
        (f"{AX}/inference/latent_eval_data.parquet", {"concept": 3}, 36, False),
        ("easysteer/replications/creative_writing/contrastive_pairs.json",
         {"positive": "creative", "negative": "mundane"}, 10, True),
        ("easysteer/replications/loreft/training_examples.json",
         {"prompt": "instruction", "positive": "emoji"}, 10, True),
        ("easysteer/replications/steerable_chatbot/style_examples.json",
         {"positive": "child", "negative": "adult"}, 10, False),
        ("eliciting_latent_sentiment/prompts.yaml",
         {"positive": "positive_adjectives_train", "negative": "negative_adjectives_train",
          "template": "The soup was"}, 24, False),
        ("repe/data/emotions/happiness.json",
         {"negatives": SHARED / "repe/data/emotions/sadness.json"}, 203, False),
        ("repeng/notebooks/data/reasoning.json",
         {"personas": ("calm", "cross"), "template": "Be {persona}. {suffix}"}, 56, True),
        ("repe/data/emotions/all_truncated_outputs.json",
         {"personas": ("calm", "cross"), "template": "Be {persona}. {suffix}"}, 582, True),
        ("repeng/notebooks/data/code_questions.json",
         {"personas": ("calm", "cross"), "template": "Be {persona}. {suffix}"}, 271, True),
        ("style_vectors_prompts/evaluation_prompts/subjective_sentences.txt",
         {"negatives": SHARED / "style_vectors_prompts/evaluation_prompts/factual_sentences.txt"},
         49, False),
        (f"{TIU}/unambiguous_truthful_reply.csv",
         {"negatives": SHARED / TIU / "unambiguous_lie.csv"}, 49, False),
        ("ibm_activation_steering/docs/demo-data/behavior_refusal.json",
         {"paired": True}, 100, True),
        ("vader_lexicon/vaderSentiment/vader_lexicon.txt", {"min_confidence": 2.5}, 322, False),
    ],
)  # fmt: skip
def test_a_refused_real_file_loads_with_what_the_refusal_asks_for(file, arguments, pairs, paired):
    made = ContrastSet.load(SHARED / file, **arguments)
    assert (len(made), made.paired) == (pairs, paired)


@needs_shared
def test_the_test_file_of_feature_circuits_shares_groups_with_its_train_file():
    train, test = (
        ContrastSet.load(SHARED / f"feature_circuits/data/simple_{part}.json")
        for part in ("train", "test")
    )
    merged = train.merged(test)
    assert len(set(merged.groups)) == len(set(train.groups))
