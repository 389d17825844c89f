"""What the report page says about the texts that a steered model writes."""

from __future__ import annotations

from steerlens.report.numbers import format_interval, format_signed
from steerlens.report.section import Figure, Paragraph, Section
from steerlens.stats import Interval


def writing_section(
    figure: Figure, *, prompts: int, tokens: int, chosen: tuple[Interval, Interval] | None
) -> Section:
    """The section of a map of written texts.

    Args:
        figure: The changes of every cell.
        prompts: How many prompts were continued.
        tokens: The largest number of tokens of a text.
        chosen: The changes of surprisal and of repeated 4-grams in the cell that a map recommends.
    """
    in_chosen = ""
    if chosen is not None:
        surprisal, repeated = (format_interval(change, format_signed) for change in chosen)
        in_chosen = (
            f" In the chosen cell, surprisal changes by {surprisal} nats per token and the share of "
            f"repeated 4-grams by {repeated}."
        )
    return Section(
        title="What steering does to writing",
        short="Writing",
        blocks=(
            Paragraph(
                f"Texts of up to {tokens} tokens after {prompts} prompts, sampled in every cell and "
                "compared with the unsteered texts of the same prompts, which have the same random "
                "draws. **Surprisal** is how unlikely the unsteered model finds a text, in nats per "
                f"token; its exponential is the perplexity.{in_chosen} No single number shows that "
                "a text is good: a loop has a low surprisal, and random words repeat nothing."
            ),
            figure,
        ),
    )
