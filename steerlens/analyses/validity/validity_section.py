"""What the report page says about how far an intervention can be pushed."""

from __future__ import annotations

from steerlens.report.numbers import format_number, with_minus
from steerlens.report.section import Figure, Listing, Paragraph, Section


def validity_section(
    curves: Figure,
    tradeoff: Figure,
    *,
    steering: str,
    r2: tuple[float, float],
    errors: tuple[float, float],
    valid: str,
    flags: tuple[str, ...],
) -> Section:
    """The section of a validity fit.

    Args:
        curves: Preference and utility over the multiplier.
        tradeoff: One against the other.
        steering: What steers, in a sentence.
        r2: Of the curves of preference and of utility.
        errors: How far both miss strengths that they were not fitted to, in nats.
        valid: The multipliers at which utility keeps half of its height, in words.
        flags: What to know before using the constants of the curves.
    """
    preference, utility = map(format_number, r2)
    missed = [format_number(error) for error in errors]
    holds = with_minus(valid).replace("D_u >=", "D ≥")
    blocks = [
        Paragraph(
            "**Preference** is the log-odds of the positive over the negative answer, **utility** "
            "that of either of them over anything else. Each curve is a linear function of the "
            "multiplier times D, the share of the state that later layers can still use "
            f"(arXiv:2602.02343). Of the variance of the mean over multipliers they explain (R²) "
            f"{preference} for preference and {utility} for utility; strengths left out of the fit "
            f"are missed by {missed[0]} and {missed[1]} nats. By the fit, utility keeps at least half "
            f"of its height {holds}."
        ),
        curves,
        Paragraph(
            "The same numbers as a tradeoff: the preference and the utility of every strength, with "
            "the efficient frontier and the fitted curve."
        ),
        tradeoff,
    ]
    if flags:
        blocks.append(Listing(flags, quiet=True))
    return Section(title=f"How far {steering} can be pushed", short="How far", blocks=tuple(blocks))
