"""What the report page says about slopes on shifted questions."""

from __future__ import annotations

from steerlens.report.section import Figure, Paragraph, Printed, Section


def shift_section(figure: Figure, numbers: str, *, in_distribution: str, rows: str) -> Section:
    """The section of a map of shifted questions.

    Args:
        figure: The slopes of all rows.
        numbers: The slopes of all sets in one row, as a printed summary.
        in_distribution: The name of the set that the others are compared with.
        rows: What the rows are, e.g. "layers".
    """
    return Section(
        title="Does steering carry over to shifted questions?",
        short="Shifted questions",
        blocks=(
            Paragraph(
                f"Mean slope of all {rows} on shifted questions (another topic, register or "
                f"wording), against the mean slope on the questions of {in_distribution}, which "
                "are in distribution. On the dashed line both slopes are equal."
            ),
            figure,
            Printed(numbers),
        ),
    )
