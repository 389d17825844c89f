"""The prompt of a pair under other names, in rows and in JSON of columns; ordinary texts of a file."""

from __future__ import annotations

import json

import pytest

from steerlens.data import ContrastError, ContrastSet
from steerlens.experiment.experiment_data import ExperimentError, text_lines

SIDES = {"positive": ["a", "b", "c"], "negative": ["x", "y", "z"]}
ASKED = ["A?", "B?", "C?"]


@pytest.fixture
def load(tmp_path):
    """Loads rows or an object that is written to a file first."""

    def _load(content, **options) -> ContrastSet:
        path = tmp_path / "data.json"
        path.write_text(json.dumps(content))
        return ContrastSet.load(path, **options)

    return _load


def triples(made: ContrastSet) -> list[tuple[str, str, str]]:
    return [(p.prompt, p.positive, p.negative) for p in made]


def rows(**columns) -> list[dict]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


# JSON of columns


def test_columns_with_a_prompt_are_what_from_pairs_makes_of_them(load):
    table = {"prompt": ASKED, **SIDES, "group": ["g", "g", "h"], "topic": ["t", "u", "v"]}
    made, expected = load(table), ContrastSet.from_pairs(table)
    assert made.pairs == expected.pairs
    assert made.paired
    assert made.facts.format == "lists"
    assert made.facts.rows == 3


@pytest.mark.parametrize(
    "name", ["prompt", "Prompt", "question", "questions", "input", "Instruction"]
)
def test_a_list_of_prompts_is_kept_under_each_name(load, name):
    made = load({name: ASKED, **SIDES})
    assert made.paired
    assert triples(made) == list(zip(ASKED, "abc", "xyz", strict=True))


def test_columns_with_sides_of_other_names_read_like_rows(load):
    table = {"question": ASKED, "chosen": ["a", "b", "c"], "rejected": ["x", "y", "z"]}
    made = load(table)
    assert made.paired
    assert made.pairs == load(rows(**table)).pairs
    assert triples(made)[0] == ("A?", " a", " x")


def test_columns_whose_sides_are_named_by_arguments_keep_the_prompt(load):
    table = {"prompt": ASKED, "tea": ["a", "b", "c"], "coffee": ["x", "y", "z"]}
    made = load(table, positive="tea", negative="coffee")
    assert triples(made)[2] == ("C?", " c", " z")


def test_a_missing_prompt_is_empty_and_a_missing_side_is_refused_by_row(load):
    assert triples(load({"prompt": ["A?", None, "C?"], **SIDES}))[1] == ("", "b", "y")
    with pytest.raises(ContrastError, match="row 2: column 'positive' is missing"):
        load({"prompt": ASKED, "positive": ["a", None, "c"], "negative": ["x", "y", "z"]})


def test_two_lists_alone_stay_unpaired_and_unused_ones_are_noted(load):
    plain = load(SIDES)
    assert not plain.paired
    assert plain.notes == ()
    topics = load(SIDES | {"topic": ["t", "u", "v"]})
    assert topics.pairs == plain.pairs
    assert topics.notes == ("lists in the file that are not used: 'topic' (3)",)
    short = load(SIDES | {"questions": ["Q?"]})
    assert not short.paired
    assert "'questions' (1)" in short.notes[0]


def test_paired_false_matches_the_sides_of_columns_at_random(load):
    made = load({"prompt": ASKED, **SIDES}, paired=False)
    assert not made.paired
    assert made.pairs == load(SIDES).pairs
    assert "'prompt' (3)" in made.notes[0]


def test_two_lists_that_could_be_the_prompt_are_refused(load):
    with pytest.raises(ContrastError, match="'question' and 'input' could both be the prompt"):
        load({"question": ASKED, "input": ASKED, **SIDES})


# rows


@pytest.mark.parametrize(
    "name", ["question", "Question", "Prompt", "input", "INSTRUCTION", "context"]
)
def test_the_prompt_of_rows_is_kept_under_each_name(load, name):
    made = load(rows(**{name: ASKED}, **SIDES))
    assert triples(made) == list(zip(ASKED, "abc", "xyz", strict=True))
    assert made.pairs[0].meta == {}
    assert made.notes == (f"the prompt is column {name!r}",)
    assert made.facts.duplicate_keys == 0


def test_two_columns_that_could_be_the_prompt_are_refused_and_named(load):
    with pytest.raises(ContrastError, match="'question' and 'context' could both be the prompt"):
        load(rows(question=ASKED, context=["k", "l", "m"], **SIDES))
    blank = load(rows(instruction=ASKED, input=["", "", ""], **SIDES))
    assert [p.prompt for p in blank] == ASKED


def test_a_column_prompt_wins_and_the_other_is_warned_of(load):
    made = load(rows(prompt=ASKED, question=["q", "r", "s"], **SIDES))
    assert [p.prompt for p in made] == ASKED
    assert made.pairs[0].meta == {"question": "q"}
    assert any("column 'question' is kept in meta" in w for w in made.report.warnings)


@pytest.mark.parametrize("sides", [("positive", "negative"), ("chosen", "rejected")])
def test_a_system_column_is_warned_of(load, sides):
    made = load(
        rows(system=["S"] * 3, prompt=ASKED, **dict(zip(sides, SIDES.values(), strict=True)))
    )
    assert [p.prompt for p in made] == ASKED
    assert any("column 'system' is kept in meta" in w for w in made.report.warnings)


def test_chosen_and_rejected_find_the_prompt_in_any_case(load):
    made = load(rows(Question=ASKED, chosen=["a", "b", "c"], rejected=["x", "y", "z"]))
    assert [p.prompt for p in made] == ASKED


def test_a_saved_set_reads_its_own_prompt_only(tmp_path):
    made = ContrastSet.from_pairs(rows(question=ASKED, system=["S"] * 3, **SIDES))
    again = ContrastSet.load(made.save(tmp_path / "saved.jsonl"))
    assert again.pairs == made.pairs
    assert again.report.warnings == made.report.warnings


# ordinary texts


def test_ordinary_texts_are_read_without_a_byte_order_mark(tmp_path):
    path = tmp_path / "neutral.txt"
    path.write_bytes(b"\xef\xbb\xbfThe sky was blue.\r\n\r\nGrass was green.\r\n")
    assert text_lines(str(path), 5) == ["The sky was blue.", "Grass was green."]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16"])
def test_ordinary_texts_in_another_encoding_are_refused(tmp_path, encoding):
    path = tmp_path / "neutral.txt"
    path.write_bytes("The sky was blue.\n".encode(encoding))
    with pytest.raises(ExperimentError, match=r"neutral\.txt.* UTF-8"):
        text_lines(str(path), 5)
