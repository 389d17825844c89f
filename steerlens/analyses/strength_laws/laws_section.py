"""What the summary and the report page say about laws of the strength."""

from __future__ import annotations

import torch

from steerlens.analyses.strength_laws.known_laws import BASELINES
from steerlens.analyses.strength_laws.law_numbers import LawNumbers
from steerlens.report.numbers import format_interval, format_number, format_share
from steerlens.report.section import (
    Block,
    Figure,
    Folded,
    Heading,
    Paragraph,
    Printed,
    Section,
    Table,
)


def laws_summary(found: LawNumbers) -> str:
    """For each quantity the errors of its laws, then exponents and bumps."""
    rows, cases = found.chosen_rows(), len(set(found.cases))
    lines = [
        f"{len(rows)} rows of {cases} {'case' if cases == 1 else 'cases'}, "
        f"{len(found.rows) - len(rows)} controls, {len(found.multipliers)} multipliers from "
        f"{found.multipliers.min():g} to {found.multipliers.max():g}; errors over the spread of the "
        "curve: left out, and beyond (fitted to the inner half)"
    ]
    for quantity in found.quantities:
        lines.append(f"  {quantity}")
        for law in found.laws:
            if law.quantity == quantity:
                held, far = (
                    format_interval(found.over_cases(found.relative(quantity, law.name, beyond=b)))
                    for b in (False, True)
                )
                lines.append(f"    {law.name} ({law.free or 'no'} free): {held}, beyond {far}")
    for quantity in ("cost", "cross-entropy"):
        first, within = (
            format_interval(found.mean_exponent(quantity, first=first)) for first in (True, False)
        )
        lines.append(
            f"  {quantity} grows with power {first} of the strength from 0.05 to 0.25, {within} from "
            "0.2 to 1"
        )
    sure, seen, share = (format_share(found.bump_share(of=of)) for of in ("found", "seen", "share"))
    lines.append(
        f"  followed tokens that rise and then fall: {sure} for sure, {seen} on these questions; in "
        f"{share} of the questions of a token"
    )
    return "\n".join(lines)


def laws_section(
    found: LawNumbers,
    *,
    errors: tuple[Figure, ...],
    of_controls: Figure,
    curves: tuple[Figure, ...],
) -> Section:
    """Errors by law, the table, and the curves of some rows.

    Args:
        errors: Figures of the errors, left out and beyond.
        of_controls: The errors of the controls; not drawn where there are none.
        curves: Figures of the curves of some rows.
    """
    blocks: list[Block] = [
        Paragraph(
            "Each law was fitted to the mean curve over the strength, without some of the strengths, "
            "and held against the curve there. **Left out**: inner strengths are left out in turn. "
            "**Beyond**: the half nearest to 0 is fitted, and the outer half is predicted. Errors "
            "are root mean squares over the standard deviation of the curve. More free parameters "
            "are no advantage there."
        ),
        *errors,
        _table(found, controls=False),
    ]
    if any(found.controls):
        own = (_table(found, controls=True), of_controls)
        blocks.append(Folded("The same for the controls, directions at random", own))
    blocks += curves
    blocks.append(Printed(found.summary()))
    return Section(
        "Laws of strength", tuple(blocks), short="Laws", answer=(_answer(found),),
        question="Which law does steering follow over its strength?",
    )  # fmt: skip


def _answer(found: LawNumbers) -> str:
    """For each quantity the law that misses least what was left out, and what was beyond."""
    parts = []
    for quantity in found.quantities:
        laws = [law for law in found.names(quantity) if law not in BASELINES]
        best = []
        for beyond in (False, True):
            errors = {
                law: found.over_cases(found.relative(quantity, law, beyond=beyond)).value
                for law in laws
            }
            least = min(errors, key=lambda law: errors[law])
            best.append(f"{least} ({format_number(errors[least])})")
        parts.append(f"**{quantity}**: {best[0]} in between, {best[1]} beyond")
    return (
        "The laws with the least error, over the spread of the curve, at strengths that they were not "
        f"fitted to. {'; '.join(parts)}."
    )


def _table(found: LawNumbers, *, controls: bool) -> Table:
    head = (
        Heading("quantity", number=False), Heading("law", number=False), Heading("free"),
        Heading("left out"), Heading("beyond"), Heading("left out, median", "own unit"),
    )  # fmt: skip
    rows = []
    chosen = found.chosen_rows(controls)
    for k, law in enumerate(found.laws):
        errors = [
            found.over_cases(
                found.relative(law.quantity, law.name, beyond=beyond), controls=controls
            )
            for beyond in (False, True)
        ]
        median = float(torch.median(found.held_out[chosen, k]))
        own = f"{format_number(median)} {law.unit}".strip()
        rows.append(
            (law.quantity, law.name, str(law.free or "–"), *map(format_interval, errors), own)
        )
    who = "controls" if controls else "rows"
    return Table(
        head,
        tuple(rows),
        f"Means over the {who} of a case and over cases, with intervals over cases.",
    )
