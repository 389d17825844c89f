"""The page lays out any sections: whole, offline, escaped, each in the contents."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

import plotly.graph_objects as go
import pytest

from steerlens.report.page import page, prose
from steerlens.report.rerun import rerun_source
from steerlens.report.section import (
    Fact,
    Facts,
    Figure,
    Folded,
    Heading,
    Listing,
    Paragraph,
    Printed,
    Section,
    Table,
    Texts,
)
from steerlens.results import Result
from tests.test_report import HOSTILE, _Page, manifest


@dataclass(frozen=True, eq=False, repr=False)
class Said(Result):
    """A result that says what it is given."""

    said: Section | None
    made_by: dict[str, Any] = field(default_factory=dict)
    kind: ClassVar[str] = "said"

    def section(self, beside) -> Section | None:
        return self.said


class Other(Said):
    kind = "other"


def drawn() -> go.Figure:
    return go.Figure(go.Scatter(x=[0, 1], y=[1, 2]))


def every_block(words: str) -> tuple:
    """One block of every kind, with the words in each of their texts."""
    return (
        Paragraph(words),
        Paragraph(words, quiet=True),
        Listing((words, words)),
        Printed(words),
        Facts((Fact(words, words, words),)),
        Figure(drawn, words),
        Table((Heading(words, words), Heading("n", number=False)), ((words, words),), words, 0),
        Texts(words, ((words, words), ("empty", " ")), words, 1),
        Folded(words, (Paragraph(words), Figure(drawn))),
    )


def whole(words: str) -> Section:
    return Section(
        words, every_block(words), short=words, question=words, answer=(words,),
        introduction=(words,), facts=(Fact(words, words, words),), limits=(words,),
        parts=(Section(words, every_block(words)), Section(words, ())),
    )  # fmt: skip


@pytest.fixture(scope="module")
def hostile() -> str:
    """A page of which every text is hostile."""
    named = manifest(
        model={**manifest()["model"], "name": HOSTILE},
        fields={**manifest()["fields"], "contrast": HOSTILE, "method": HOSTILE},
        data={HOSTILE: {"name": HOSTILE, "source": HOSTILE, "hash": HOSTILE, "pairs": 3}},
        parts={HOSTILE: HOSTILE},
    )
    results = [Said(whole(HOSTILE), {HOSTILE: [HOSTILE]}), Other(whole(HOSTILE))]
    return page(named, results, HOSTILE)


def test_every_text_is_escaped(hostile):
    assert "<script>alert" not in hostile and "<img src=http" not in hostile
    found = _Page(hostile)
    assert not [tag for tag, a in found.tags if tag == "img" or "src" in a]
    assert found.text.count(HOSTILE) > 60


def test_markup_is_code_and_bold_and_nothing_else():
    assert str(prose("**a `b` c**")) == "**a <code>b</code> c**"
    assert str(prose("`**x**` **y <z>**")) == "<code>**x**</code> <strong>y &lt;z&gt;</strong>"
    assert str(prose("2 ** 3, a ` b, [x](http://y) <b>")).endswith("&lt;b&gt;")
    assert "href" not in str(prose("[x](http://y)"))


def test_every_section_and_figure_has_its_own_name(hostile):
    found = _Page(hostile)
    sections = [str(a["id"]) for tag, a in found.tags if tag == "section"]
    assert len(sections) == len(set(sections)) == 1 + 2 * 3 + 3
    assert sections[0] == "answer" and sections[-3:] == ["data", "rerun", "limits"]
    assert [a["href"] for tag, a in found.tags if tag == "a"] == [f"#{name}" for name in sections]
    figures = re.findall(r'Plotly\.newPlot\(\s*"([\w-]+)"', hostile)
    assert len(figures) == len(set(figures)) == 2 * 2 * 2
    assert len(re.findall(r"plotly\.js v\d", hostile)) == 1


def test_a_table_scrolls_in_its_own_box_or_is_stacked(hostile):
    """So that the page itself never scrolls sideways on a phone."""
    boxes = re.findall(r"<div([^>]*)><table([^>]*)>", hostile)
    assert len(boxes) == 5 and all("scroll framed" in box for box, _ in boxes[:-1])
    assert "scroll stacked" in boxes[-1][0], "the data, whose cells are words"
    alone = re.findall(r"(?<!>)<table([^>]*)>", hostile)
    assert set(alone) == {' class="plain"'}, "names and values, which break anywhere"
    cells = re.findall(r'<td[^>]*data-name="([^"]*)"', hostile)
    assert cells == ["name", "pairs", "source", "content hash"]


def test_what_is_said_at_the_top_stands_in_the_order_of_the_results():
    one = Section("One", (), question="Which?", answer=("First.",), facts=(Fact("a", "1", ""),))
    two = Section("Two", (), question="What?", answer=("**Second**.",), limits=("Not `all`.",))
    text = page(manifest(), [Said(one), Other(two)], "")
    assert "<h1>Which?</h1>" in text
    assert text.index("<p>First.</p>") < text.index("<p><strong>Second</strong>.</p>")
    assert '<li><a href="#said">One</a></li>\n<li><a href="#other">Two</a></li>' in text
    assert "<li>Not <code>all</code>.</li>" in text


def test_a_result_without_a_section_is_left_out_and_its_provenance_kept():
    text = page(manifest(), [Said(None, {"seed": 3}), Other(Section("Two", ()))], "")
    assert 'id="said"' not in text and 'id="other"' in text
    assert "Provenance of <code>said</code>" in text


def test_a_result_that_writes_no_section_has_its_summary_and_its_figure():
    @dataclass(frozen=True, eq=False, repr=False)
    class Plain(Result):
        made_by: dict[str, Any] = field(default_factory=dict)
        kind: ClassVar[str] = "plain"

        def summary(self) -> str:
            return "seven < eight"

        def plot(self) -> go.Figure:
            return drawn()

    text = page(manifest(), [Plain()], "")
    assert "<pre>seven &lt; eight</pre>" in text and "Plotly.newPlot(" in text


def test_each_part_of_the_data_says_what_it_is_for():
    text = page(manifest(parts={"fit": "makes the directions"}), [Said(Section("S", ()))], "")
    assert 'fit<br><span class="quiet">makes the directions</span>' in text


def test_a_page_without_results_is_refused():
    with pytest.raises(ValueError, match="nothing to report"):
        page(manifest(), [], "")


def test_a_rerun_file_says_where_a_strangers_classes_are():
    source = rerun_source(
        {"experiment": "Mine", "method": "Median()", "layers": [[0, 1], 2]},
        {"experiment": "their_file:Mine", "method": "__main__:Median"},
    )
    assert "# Mine is not part of steerlens: put their_file.py beside this file." in source
    assert "from their_file import Mine" in source
    assert "# Median was defined in a script or a notebook: define it here." in source
    assert "method=Median(),\n    layers=((0, 1), 2)," in source
