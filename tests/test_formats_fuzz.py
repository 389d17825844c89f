"""Whatever bytes a file holds, loading gives a set or our own error, in bounded time.

Every run tries the same files: hypothesis derives them from the tests themselves.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
import time
from functools import cache
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from steerlens.data import ContrastError, ContrastSet
from steerlens.data.formats.recognise import FORMATS

FUZZ = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
SECONDS = 20.0
"""Of processor time for one file."""

# Words that formats look for, so that random files come close to real ones.
WORDS = (
    "question answer_matching_behavior answer_not_matching_behavior statement label text positive "
    "negative prompt response pos neg positives negatives prompts input output concept_id concept "
    "category output_concept concept_genre Question Correct\xa0Answers matching not_matching A B "
    "mc1_targets mc0_targets mc2_targets clean_prefix patch_prefix clean_answer patch_answer "
    "prompt_without_instruction samples subject object attribute prompt_templates instruction "
    "questions steerlens facts hash notes meta group label_confidence relation_id"
)
NAMES = st.sampled_from(WORDS.split(" "))
LEAVES = st.one_of(
    st.text(max_size=8),
    st.sampled_from([" (A)", "(B)", "0", "1.0", "Q?\n\nChoices:\n (A) x\n (B) y", "\ud800", "{}"]),
    st.sampled_from(["positive", "negative", "contrast-set 1", "EEEEE", " ", "", "nan", "1e999"]),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=12,
)
RECORDS = st.lists(st.dictionaries(NAMES, VALUES, min_size=1, max_size=8), min_size=1, max_size=4)
SUFFIXES = st.sampled_from(
    [".json", ".jsonl", ".csv", ".tsv", ".txt", ".yaml", ".parquet", ".0", ""]
)

# One valid row per layout; the fuzz below damages them.
ROWS = [
    {"question": "Q?", "answer_matching_behavior": "(A)", "answer_not_matching_behavior": "(B)"},
    {"question": "Q?", "answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No",
     "label_confidence": 0.9},
    {"positive": {"prompt": "p", "response": "a"}, "negative": {"prompt": "p", "response": "b"}},
    {"statement": "s", "label": 1},
    {"Question": "Q?", "Best Answer": "a", "Correct Answers": "a; b", "Incorrect Answers": "c"},
    {"question": "Q?", "mc1_targets": {"a": 1, "b": 0}},
    {"input": "i", "output": "o", "output_concept": "c", "category": "positive", "concept_id": 0,
     "concept_genre": "text"},
    {"question": "Q?", "A": "a", "B": "b", "matching": "B"},
    {"question": "Q?", "matching": "a", "not_matching": "b"},
    {"pos": ["a", "b"], "neg": ["c"], "layer": 3},
    {"input": "hot", "output": "cold"},
    {"name": "r", "prompt_templates": ["The {} is"], "samples": [{"subject": "s", "object": "o"}]},
    {"subject": "s", "attribute": "a", "prompt": "s is", "relation_id": "P1"},
    {"clean_prefix": "a", "patch_prefix": "b", "clean_answer": " c", "patch_answer": " d"},
    {"prompt": "a b", "prompt_without_instruction": "a"},
    {"instruction": [{"pos": "a", "neg": "b"}], "questions": ["q"]},
    {"prompt": "p", "positive": "a", "negative": "b", "meta": {"k": "v"}},
    {"steerlens": "contrast-set 1", "name": "n", "facts": {"rows": 1}, "notes": ["x"]},
]  # fmt: skip


def check(content: bytes, suffix: str = ".json", **arguments) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        path.write_bytes(content)
        start = time.process_time()
        try:
            made = ContrastSet.load(path, **arguments)
        except ContrastError as error:
            assert len(str(error)) > 20
            return
        finally:
            assert time.process_time() - start < SECONDS
        assert len(made) > 0
        assert str(made.report)
        assert made._repr_html_()
        assert ContrastSet.load(made.save(Path(folder) / "again.jsonl")).hash == made.hash


@FUZZ
@given(st.binary(max_size=200), SUFFIXES)
@example(b"PAR1" + bytes(20) + b"PAR1", ".parquet")
@example(b"{1: [" + b"'a'," * 3 + b"]}", ".txt")
@example(b"[" + b"(" * 300 + b")" * 300 + b"]", ".txt")
@example(b"{0x" + b"f" * 6000 + b": ['a']}", ".txt")
@example(b"[" + b"1" * 6000 + b"]", ".json")
@example(b'["\\d", ' + b"'x']", ".json")
@example(b"\xef\xbb\xbf\r\r", ".csv")
def test_random_bytes_give_a_set_or_our_error(content, suffix):
    check(content, suffix)


@FUZZ
@given(st.text(max_size=120), SUFFIXES)
def test_random_text_gives_a_set_or_our_error(content, suffix):
    check(content.encode("utf-8", "surrogatepass"), suffix)


@FUZZ
@given(VALUES | RECORDS)
def test_random_json_gives_a_set_or_our_error(value):
    check(json.dumps(value).encode())


@FUZZ
@given(RECORDS)
def test_random_json_lines_give_a_set_or_our_error(rows):
    check("\n".join(map(json.dumps, rows)).encode(), ".jsonl")


@FUZZ
@given(
    st.sampled_from(ROWS),
    st.lists(st.tuples(st.integers(0, 7), st.none() | VALUES), max_size=3),
    st.integers(1, 4),
)
def test_a_damaged_row_of_any_layout_gives_a_set_or_our_error(row, damages, copies):
    rows = [dict(row) for _ in range(copies)]
    keys = list(row)
    for at, value in damages:
        damaged, key = rows[at % copies], keys[at % len(keys)]
        if value is None:
            damaged.pop(key, None)
        else:
            damaged[key] = value
    check(json.dumps(rows).encode())
    check(json.dumps(rows[0]).encode())


@FUZZ
@given(
    st.lists(NAMES, min_size=1, max_size=6),
    st.lists(st.lists(LEAVES.map(str), min_size=1, max_size=6), max_size=5),
)
def test_random_tables_give_a_set_or_our_error(header, rows):
    out = io.StringIO(newline="")
    csv.writer(out).writerows([header, *rows])
    check(out.getvalue().encode("utf-8", "surrogatepass"), ".csv")


@FUZZ
@given(
    st.sampled_from(ROWS),
    st.fixed_dictionaries(
        {},
        optional={
            "format": st.sampled_from([f.name for f in FORMATS]),
            "template": st.sampled_from(["{prompt}:", "{} is", "{answer}", "{suffix}{persona}"]),
            "positive": st.sampled_from(["pos", "1", "input", "text"]),
            "negative": st.sampled_from(["neg", "0", "output"]),
            "prompt": st.sampled_from(["question", "input"]),
            "paired": st.booleans(),
            "concept": st.sampled_from(["c", 0, "none"]),
            "personas": st.just(("calm", "cross")),
            "min_confidence": st.floats(0, 1),
            "flip": st.booleans(),
            "unescape": st.booleans(),
            "seed": st.integers(),
        },
    ),
)  # fmt: skip
def test_any_arguments_on_any_layout_give_a_set_or_our_error(row, arguments):
    check(json.dumps([row, row]).encode(), **arguments)
    check(json.dumps(row).encode(), **arguments)


# Real files, damaged


@cache
def real_files() -> dict[str, tuple[bytes, str]]:
    """The start of every real file of ../shared/data; of each layout where they are not here."""
    suffixes = {".json", ".jsonl", ".csv", ".txt", ".yaml", ".parquet"}
    found = sorted(path for path in SHARED.rglob("*") if path.suffix in suffixes)
    if not found:
        return {str(i): (json.dumps([row, row]).encode(), ".json") for i, row in enumerate(ROWS)}
    return {
        str(path.relative_to(SHARED)): (
            path.read_bytes()[: None if path.suffix == ".parquet" else 8_000],
            path.suffix,
        )
        for path in found
    }


SPICE = st.one_of(
    st.binary(min_size=1, max_size=4),
    st.sampled_from(
        [b"\0", b'"', b",", b";", b"\r", b"\xff\xfe", b"\xef\xbb\xbf", b"null", b"NaN", b"1e999",
         b"{", b"]", b"\\u0000", b"\\ud800", b"PAR1", b"&a *a", b"!!python/object:os.system",
         b"9" * 5000, b" " * 3000, b"(A)" * 500, b"label", b"positive", b"steerlens"]
    ),
)  # fmt: skip


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """A file with some bytes overwritten, put in, taken out or repeated, or cut short."""
    whole = bytearray(content)
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(whole)))
        piece, how = draw(SPICE), draw(st.sampled_from(["over", "in", "out", "again", "cut"]))
        if how == "over":
            whole[at : at + len(piece)] = piece
        elif how == "in":
            whole[at:at] = piece
        elif how == "out":
            del whole[at : at + 50 * len(piece)]
        elif how == "again":
            whole[at:at] = whole[: 50 * len(piece)]
        elif at > 100:
            del whole[at:]
    return bytes(whole)


@settings(FUZZ, max_examples=250)
@given(st.data())
def test_damaged_real_files_give_a_set_or_our_error(data):
    content, suffix = real_files()[data.draw(st.sampled_from(sorted(real_files())))]
    check(data.draw(damaged(content)), data.draw(st.just(suffix) | SUFFIXES))
