"""What the report page says of texts that were written at the recommended cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from steerlens.analyses.confirmation.writing_verdict import NOT_LOOKED
from steerlens.analyses.confirmation.written_numbers import WrittenNumbers
from steerlens.report.numbers import (
    format_interval,
    format_number,
    format_percent,
    format_share,
    format_signed,
)
from steerlens.report.section import Fact, Figure, Folded, Heading, Paragraph, Section, Table, Texts

SHOWN = 3
"""Prompts whose texts stand on the page."""


def written_section(effect: WrittenNumbers, draw: Callable[[], Any], chosen: int | None) -> Section:
    """The section of a `WrittenNumbers`.

    Args:
        draw: Draws the figure of the shares.
        chosen: The index of the cell that a map of the same run recommends.
    """
    blocks = (
        Paragraph(_how(effect)),
        Figure(draw),
        _table(effect, chosen),
        Folded(f"Texts after the first {min(SHOWN, len(effect.prompts))} prompts", _texts(effect)),
    )
    return Section(
        title="What is written at the recommended cells",
        short="Written",
        blocks=blocks,
        facts=() if chosen is None else (_fact(effect, chosen),),
        limits=tuple(_limits(effect)),
    )


def _fact(effect: WrittenNumbers, k: int) -> Fact:
    share = effect.share(k)
    value = effect.verdict(k)
    if value != NOT_LOOKED and share.value == share.value:
        value += f": {format_share(share)}"
    return Fact(
        "In writing",
        value,
        "The change of written texts, read by " + effect.reader + ", as a share of the change that "
        "the context itself makes; with its 95% interval over prompts. Confirmed where the lower "
        "end is above 25%.",
    )


def _how(effect: WrittenNumbers) -> str:
    """What was done, and what the reader is worth."""
    text = (
        f"The model continues {len(effect.prompts)} prompts that chose nothing, at each of the "
        "recommended cells, at the opposite multiplier and unsteered; all texts of one prompt have "
        f"the same random draws. Every text is read by {effect.reader}."
    )
    if effect.positive is None:
        return f"{text} There is no scale to compare with: {effect.missing}."
    why = effect.why_not()
    same = effect.made_by.get("contexts_count") == 1
    return (
        f"{text} The unsteered model also writes under the two contexts of the contrast "
        f"({effect.made_by.get('contexts')}). On those texts the reader's AUROC is "
        f"{format_interval(effect.reader_auroc)}"
        f"{'; the one context there is wrote them and reads them' if same else ''}. The **share** "
        "is (steered − unsteered) / (written under the context − unsteered): 0 is no change, and 1 "
        "as much as the context itself does. Where the unsteered texts show the asked side already, "
        "the scale is half the distance between the two contexts' texts, if that is larger."
        f"{f' No verdict: {why}.' if why else ''}"
    )


def _table(effect: WrittenNumbers, chosen: int | None) -> Table:
    head = (
        Heading("cell", number=False),
        Heading("verdict", number=False),
        Heading("share", "of the context's own effect"),
        Heading("change", effect.unit),
        Heading("against the opposite sign", effect.unit),
    )
    rows = tuple(
        (
            str(cell),
            effect.verdict(k),
            format_interval(effect.share(k), format_percent),
            format_interval(effect.change(k), format_signed),
            format_interval(effect.against_opposite(k), format_signed),
        )
        for k, cell in enumerate(effect.cells)
    )
    means = f"Mean number of unsteered texts: {format_number(effect.unsteered.mean())}"
    if effect.positive is not None and effect.negative is not None:
        means += (
            f", of texts under the positive context {format_number(effect.positive.mean())}, under "
            f"the negative one {format_number(effect.negative.mean())}"
        )
    return Table(head, rows, f"{means} {effect.unit}.", chosen)


def _texts(effect: WrittenNumbers) -> tuple[Texts, ...]:
    """The first prompts with all that was written after them."""
    found = []
    for p, prompt in enumerate(effect.prompts[:SHOWN]):
        texts = [("unsteered", effect.unsteered_texts[p][0])]
        if effect.positive_texts:
            texts.append(("under the positive context", effect.positive_texts[p][0]))
            texts.append(("under the negative context", effect.negative_texts[p][0]))
        for k, cell in enumerate(effect.cells):
            texts.append((str(cell), effect.steered_texts[k][p][0]))
            texts.append((f"{cell.row} at {-cell.multiplier:+g}", effect.opposite_texts[k][p][0]))
        found.append(Texts(prompt, tuple(texts), f"prompt {p + 1}", 0))
    return tuple(found)


def _limits(effect: WrittenNumbers) -> Iterator[str]:
    yield (
        f"**Writing was looked at in {len(effect.prompts)} short texts a cell,** by one reader. A "
        "share says how much of what a context does is done; it does not say that the texts are "
        "good, and the reader sees only what the model itself expects of the contexts."
    )
