"""What the summary and the report page say about laws of the strength."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

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

if TYPE_CHECKING:
    from steerlens.analyses.strength_laws.law_comparison import LawComparison

SHOWN = 3
"""Cases of which the page shows the curves of one row."""


def laws_summary(found: LawComparison) -> str:
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


def laws_section(found: LawComparison) -> Section:
    """Errors by law, the table, and the curves of some rows."""
    blocks: list[Block] = [
        Paragraph(
            "Each law was fitted to the mean curve over the strength, without some of the strengths, "
            "and held against the curve there. **Left out**: inner strengths are left out in turn. "
            "**Beyond**: the half nearest to 0 is fitted, and the outer half is predicted. Errors "
            "are root mean squares over the standard deviation of the curve. More free parameters "
            "are no advantage there."
        ),
        Figure(found.plot),
        Figure(lambda: found.plot(beyond=True)),
        _table(found, controls=False),
    ]
    if any(found.controls):
        own = (_table(found, controls=True), Figure(lambda: found.plot(controls=True)))
        blocks.append(Folded("The same for the controls, directions at random", own))
    for case in dict.fromkeys(found.cases):
        if len(blocks) > SHOWN + 4:
            break
        own = [i for i in found.chosen_rows() if found.cases[i] == case]
        if own:
            middle = own[len(own) // 2]
            blocks.append(Figure(lambda i=middle: found.plot_row(i)))
    blocks.append(Printed(found.summary()))
    return Section("Laws of strength", tuple(blocks), short="Laws")


def _table(found: LawComparison, *, controls: bool) -> Table:
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
