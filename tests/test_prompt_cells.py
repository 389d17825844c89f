"""Cells of a file that hold no text: missing prompts, numbers, lists, conversations, uneven columns."""

from __future__ import annotations

import json

import pytest

from steerlens.data import ContrastError, ContrastSet

ANSWERS = [("positive", "negative"), ("chosen", "rejected")]
TURNS = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes"}]
NO_TEXT = {
    "list": (["a", "b"], "is a list, but text is needed: .'a', 'b'.. Write one text"),
    "dict": ({"text": "a"}, "is a dict, but text is needed: {'text': 'a'}. Write one text"),
    "bool": (True, "is a bool, but text is needed: True. Write one text"),
    "turns": (TURNS, r"is a conversation \(2 turns\).*row\['\w+'\]\[-1\]\['content'\]"),
    "turn": (TURNS[:1], r"is a conversation \(1 turn\), but text is needed"),
    "sharegpt": ([{"from": "human", "value": "Hi?"}], r"is a conversation.*\[-1\]\['value'\]"),
}


def written(folder, rows, kind):
    """A file with these rows, as JSON lines or parquet."""
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(params=["jsonl", "parquet"])
def load(tmp_path, request):
    """Loads rows that are written to a file first."""

    def _load(*rows, **options) -> ContrastSet:
        return ContrastSet.load(written(tmp_path, rows, request.param), **options)

    return _load


@pytest.fixture
def load_text(tmp_path):
    """Loads a text that is written to a file first, or an object as JSON."""

    def _load(name, content, **options) -> ContrastSet:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return ContrastSet.load(path, **options)

    return _load


def triples(made: ContrastSet) -> list[tuple[str, str, str]]:
    """Prompt and sides, without the space that depends on the format."""
    return [(p.prompt, p.positive.strip(), p.negative.strip()) for p in made]


def row(prompt: object, good: object, bad: object, sides=ANSWERS[0]) -> dict:
    return {"prompt": prompt, sides[0]: good, sides[1]: bad}


# Numbers are text, as in CSV


@pytest.mark.parametrize("sides", ANSWERS)
def test_numbers_are_read_as_text_in_every_column(load, sides):
    made = load(row(5, 1, 2, sides), row(6, 3, 4, sides))
    assert triples(made) == [("5", "1", "2"), ("6", "3", "4")]
    assert "prompt" not in made[0].meta


@pytest.mark.parametrize("sides", ANSWERS)
@pytest.mark.parametrize("column", [0, 1, 2])
def test_the_row_with_the_number_does_not_decide(tmp_path, sides, column):
    cells: list = ["a", "y", "n"]
    cells[column] = 4.5
    rows = [row(*cells, sides=sides), row("b", "yes", "no", sides)]
    for order in (rows, rows[::-1]):
        made = ContrastSet.load(written(tmp_path, order, "jsonl"))
        assert sorted(triples(made)) == sorted([tuple(map(str, cells)), ("b", "yes", "no")])


@pytest.mark.parametrize("sides", ANSWERS)
def test_json_and_csv_of_the_same_numbers_give_the_same_pairs(load, load_text, sides):
    table = ",".join(("prompt", *sides)) + "\n2+2=,4,5\n"
    assert triples(load(row("2+2=", 4, 5, sides))) == triples(load_text("t.csv", table))


def test_columns_of_numbers_are_read_when_they_are_named(load):
    made = load({"ask": 2, "good": 4, "bad": 5}, positive="good", negative="bad", prompt="ask")
    assert triples(made) == [("2", "4", "5")]


# What is no text is refused by row and column


@pytest.mark.parametrize("sides", ANSWERS)
@pytest.mark.parametrize("column", [0, 1, 2])
@pytest.mark.parametrize("cell", NO_TEXT)
def test_what_is_no_text_is_refused_by_row_and_column(tmp_path, sides, column, cell):
    value, said = NO_TEXT[cell]
    cells: list = ["a", "y", "n"]
    cells[column] = value
    bad, good = row(*cells, sides=sides), row("b", "yes", "no", sides)
    name = ("prompt", *sides)[column]
    for rows, number in (([bad], 1), ([bad, good], 1), ([good, bad], 2)):
        with pytest.raises(ContrastError, match=rf"row {number}: column '{name}' {said}"):
            ContrastSet.load(written(tmp_path, rows, "jsonl"))


def test_conversations_in_all_columns_are_named_also_in_parquet(load):
    record = row(TURNS[:1], TURNS, TURNS, ANSWERS[1])
    with pytest.raises(ContrastError, match="row 1: column 'prompt' is a conversation"):
        load(record)
    del record["prompt"]
    with pytest.raises(ContrastError, match="row 1: column 'chosen' is a conversation"):
        load(record)
    texts = {side: record[side][-1]["content"] + side for side in ANSWERS[1]}  # as it says
    assert len(load(texts | {"prompt": "Hi?"})) == 1


@pytest.mark.parametrize("sides", ANSWERS)
def test_a_prompt_of_another_name_is_refused_too(tmp_path, sides):
    record = row(None, "y", "n", sides) | {"question": TURNS}
    with pytest.raises(ContrastError, match="row 1: column 'question' is a conversation"):
        ContrastSet.load(written(tmp_path, [record], "jsonl"))
    made = ContrastSet.load(written(tmp_path, [record | {"context": "The sky."}], "jsonl"))
    assert made[0].prompt == "The sky."  # a text comes first, and the other is warned of
    assert any("column 'question' is kept in meta" in w for w in made.report.warnings)


def test_chat_turns_beside_a_prompt_are_kept_and_warned_of(load):
    made = load(row("a", "y", "n") | {"messages": TURNS})
    assert "Hi?" in made[0].meta["messages"]
    assert any("column 'messages' is kept in meta" in w for w in made.report.warnings)


# Missing prompts


@pytest.mark.parametrize("sides", ANSWERS)
@pytest.mark.parametrize("hole", [None, float("nan"), "absent"], ids=str)
def test_a_missing_prompt_beside_others_is_refused(tmp_path, sides, hole):
    holed, whole = row(hole, "y", "n", sides), row("b", "yes", "no", sides)
    if hole == "absent":
        del holed["prompt"]
    said = "column 'prompt' is missing, and other rows have it.*\"\" for none, or drop that row"
    for rows, number in (([holed, whole], 1), ([whole, holed], 2)):
        with pytest.raises(ContrastError, match=rf"row {number}: {said}"):
            ContrastSet.load(written(tmp_path, rows, "jsonl"))
    made = ContrastSet.load(written(tmp_path, [whole, holed | {"prompt": ""}], "jsonl"))
    assert [p.prompt for p in made] == ["b", ""]  # as the refusal says
    assert not any("'prompt' is empty" in w for w in made.report.warnings)
    assert [p.prompt for p in ContrastSet.load(written(tmp_path, [holed], "jsonl"))] == [""]


def test_a_prompt_under_another_name_in_one_row_is_named(load_text):
    rows = [row("a", "y", "n"), {"question": "x", "positive": "y", "negative": "n"}]
    with pytest.raises(ContrastError, match="row 2: column 'prompt'.*has 'question': rename it"):
        load_text("rows.json", rows)


def test_a_prompt_that_was_taken_out_of_a_saved_set_is_refused(tmp_path):
    made = ContrastSet.from_pairs([("a", " y", " n"), ("b", " y", " n")])
    path = made.save(tmp_path / "saved.jsonl")
    path.write_text(path.read_text().replace('"prompt": "b", ', ""))
    with pytest.raises(ContrastError, match="row 2: column 'prompt' is missing"):
        ContrastSet.load(path)


@pytest.mark.parametrize("sides", ANSWERS)
def test_an_empty_prompt_of_a_csv_is_said_in_the_report(load_text, sides):
    head = ",".join(("prompt", *sides)) + "\n"
    said = "column 'prompt' is empty in 1 of 3 rows (2), which are read without a prompt"
    made = load_text("t.csv", head + "a,y,n\n,yes,no\nb,,n\n")
    assert triples(made) == [("a", "y", "n"), ("", "yes", "no")]
    assert said in str(made.report)
    for body in ("a,y,n\n,,\n", ",y,n\n,yes,no\n"):  # no pair without one; no pair with one
        assert "is empty in" not in str(load_text("t.csv", head + body).report)


def test_null_in_columns_is_said_in_the_report(load_text):
    table = {
        "prompt": ["a", None, ""],
        "positive": ["y", "yes", "ja"],
        "negative": ["n", "no", "x"],
    }
    made = load_text("t.json", table)
    assert [p.prompt for p in made] == ["a", "", ""]
    assert "column 'prompt' is empty in 1 of 3 rows (2), which" in str(made.report)


# Columns of unequal lengths


@pytest.mark.parametrize("sides", ANSWERS)
@pytest.mark.parametrize("lengths", [(2, 1, 2), (3, 2, 2), (1, 2, 2), (2, 2, 1)], ids=str)
@pytest.mark.parametrize("name", ["prompt", "Question", "input"])
def test_prompts_of_another_length_than_the_sides_are_refused(load_text, sides, lengths, name):
    names = (name, *sides)
    table = {n: [f"{n} {i}" for i in range(k)] for n, k in zip(names, lengths, strict=True)}
    shown = ", ".join(rf"'{n}' \({k}\)" for n, k in zip(names, lengths, strict=True))
    with pytest.raises(ContrastError, match=f"columns of unequal lengths: {shown}"):
        load_text("t.json", table)
    made = load_text("t.json", table, paired=False)  # as the refusal says
    assert not made.paired
    assert [p.prompt for p in made] == [""] * len(made)
    del table[name]
    assert load_text("t.json", table).pairs == made.pairs


def test_columns_of_numbers_are_read_like_rows(load_text):
    table = {"prompt": ["2+2=", "1+1="], "positive": [4, 2], "negative": [5, 3]}
    assert triples(load_text("t.json", table)) == [("2+2=", "4", "5"), ("1+1=", "2", "3")]
    table = {"prompt": [5, 6], "positive": ["y", "z"], "negative": ["n", "m"]}
    assert triples(load_text("t.json", table)) == [("5", "y", "n"), ("6", "z", "m")]
    unpaired = load_text("t.json", {"positive": [1, 2], "negative": ["b", "c"]})
    assert sorted(p.positive for p in unpaired) == ["1", "2"]


def test_a_list_in_columns_is_refused_by_row_and_column(load_text):
    table = {"prompt": [TURNS, TURNS], "positive": ["y", "z"], "negative": ["n", "m"]}
    with pytest.raises(ContrastError, match="row 1: column 'prompt' is a conversation"):
        load_text("t.json", table)
    with pytest.raises(ContrastError, match="row 2: column 'positive' is a list"):
        load_text("t.json", {"positive": ["y", ["z"]], "negative": ["n", "m"]})


def test_a_third_list_of_prompts_is_read_in_the_same_way(load_text):
    table = {"prompts": [5, 6], "positives": ["y", "z"], "negatives": ["n", "m"]}
    assert triples(load_text("t.json", table)) == [("5", "y", "n"), ("6", "z", "m")]
    table["prompts"] = ["a", TURNS]
    with pytest.raises(ContrastError, match="row 2: column 'prompts' is a conversation"):
        load_text("t.json", table)
    assert not load_text("t.json", table, paired=False).paired


def test_numbers_called_positive_give_way_to_texts_with_known_names(load):
    made = load({"chosen": "y", "rejected": "n", "positive": 0.9, "negative": 0.1})
    assert triples(made) == [("", "y", "n")]


def test_one_row_with_a_list_is_a_row_and_no_table(load_text):
    for sides in ANSWERS:
        for name, content in {"t.json": [1], "t.jsonl": 1}.items():
            record = {"question": ["Hi?", "Ho?"], sides[0]: "y", sides[1]: "n"}
            with pytest.raises(ContrastError, match="row 1: column 'question' is a list"):
                load_text(name, record if content == 1 else [record])
