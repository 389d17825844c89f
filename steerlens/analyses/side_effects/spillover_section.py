"""What the report page says about gains on other concepts."""

from __future__ import annotations

from collections.abc import Sequence

from steerlens.report.numbers import format_p_value, with_minus
from steerlens.report.section import Figure, Paragraph, Section

OTHER_WAY = (
    "**The other way round:** {unrelated}. They are as long, at the same place, and compared with "
    "either sign. A direction of something else that moves these questions as far would show that "
    "the gain is not of this contrast."
)
"""What is said of unrelated directions."""


def spillover_section(
    figures: Sequence[Figure],
    *,
    steering: str,
    p_value: float | None,
    null_name: str,
    nulls: int,
    unrelated: str = "",
) -> Section:
    """The section of a map of spill-over.

    Args:
        steering: What steers, in a sentence.
        p_value: Of the largest gain on another concept; None without null maps.
        null_name: What the null maps are; or, if there are none, why: "because …".
        nulls: How many there are.
        unrelated: What directions of other concepts do to the target, in words.
    """
    if p_value is None:
        compared = f"There are no null maps {null_name}, so there is no p-value."
    else:
        compared = (
            f"Compared with {nulls} null maps ({null_name}), the largest gain on another concept "
            f"has {format_p_value(p_value, nulls)}."
        )
    return Section(
        title="What else does steering move?",
        short="Other concepts",
        blocks=(
            Paragraph(
                f"Gain of {steering} on questions about the target concept and about other concepts, "
                f"at every multiplier. {compared}"
            ),
            *figures,
            *([Paragraph(OTHER_WAY.format(unrelated=with_minus(unrelated)))] if unrelated else []),
        ),
    )
