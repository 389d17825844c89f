"""The parts of a report page as values: what a result says of itself, without any HTML.

A result returns a `Section`; the page lays out sections and knows no result. A new figure or a new
fact of a result is one more block in the file that makes its section.

In every text, words in `backticks` are shown as code and **words in stars** in bold. Everything
else is shown as it is written, so a prompt or a name can hold any characters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str
    quiet: bool = False
    """Whether it is an explanation rather than a finding: set in grey."""


@dataclass(frozen=True)
class Listing:
    """A list of sentences."""

    items: tuple[str, ...]
    quiet: bool = False


@dataclass(frozen=True)
class Printed:
    """Lines that keep their spaces, such as a printed summary. No markup."""

    text: str


@dataclass(frozen=True)
class Fact:
    """One number: what it is, what it came to, and what that means."""

    term: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Facts:
    """A list of facts."""

    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Figure:
    """A plotly figure. It is drawn when the page is made."""

    draw: Callable[[], "go.Figure"]
    caption: str = ""
    """How to read it, in a sentence or two."""


@dataclass(frozen=True)
class Heading:
    """The head of a column of a table."""

    name: str
    unit: str = ""
    number: bool = True
    """Whether its cells are numbers: set flush right."""


@dataclass(frozen=True)
class Table:
    """A table of words and numbers that are written as they should be shown. No markup."""

    head: tuple[Heading, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    marked: int | None = None
    """The row to highlight."""
    links: tuple[str | None, ...] = ()
    """Where the first cell of each row leads, as a path relative to the page; None for nowhere."""


@dataclass(frozen=True)
class Texts:
    """Written texts under one prompt, to be compared: (label, text) each. No markup."""

    prompt: str
    texts: tuple[tuple[str, str], ...]
    label: str = "prompt"
    """What stands above the prompt, e.g. "prompt 2"."""
    marked: int | None = None
    """The text to highlight, such as the unsteered one."""


@dataclass(frozen=True)
class Folded:
    """Blocks behind a line that opens them."""

    line: str
    blocks: tuple["Block", ...]


Block: TypeAlias = Paragraph | Listing | Printed | Facts | Figure | Table | Texts | Folded


@dataclass(frozen=True)
class Section:
    """What a result says on the page."""

    title: str
    blocks: tuple[Block, ...]
    short: str = ""
    """Its name in the contents of the page; by default the title."""
    parts: tuple["Section", ...] = ()
    """Further sections of the same result, which follow it: each has a title, blocks and a line in
    the contents. What is stated for the top of the page belongs to the section that holds them."""
    question: str = ""
    """The question that the page answers, for its title; of the first section that states one."""
    answer: tuple[str, ...] = ()
    """Sentences for the box at the top of the page, a paragraph each; the first is the finding. Of
    all sections that have any, they stand there in order."""
    introduction: tuple[str, ...] = ()
    """Paragraphs below the answer: what a reader must know to understand it."""
    facts: tuple[Fact, ...] = ()
    """Numbers for the top of the page."""
    limits: tuple[str, ...] = ()
    """What the numbers do not say, for the end of the page: an item each."""
