"""What is said of a gain that is mostly the step's own."""

from __future__ import annotations

from steerlens.analyses.confirmation.writing_verdict import NOT_LOOKED
from steerlens.analyses.steerability.gain_parts import MOSTLY
from steerlens.analyses.steerability.map_numbers import MapNumbers
from steerlens.analyses.steerability.recommendation import Recommendation, recommend
from steerlens.report.numbers import format_interval, format_number, format_percent, format_signed
from steerlens.stats import Interval


def mostly_direct(numbers: MapNumbers, found: Recommendation, bold: str = "") -> str:
    """A sentence where more than half of the recommended cell's gain is direct; else "".

    Args:
        bold: What stands around the finding, for a text with markup.
    """
    parts = numbers.parts
    if found.cell is None or parts is None:
        return ""
    place = numbers.index(found.cell)
    share = Interval(*(float(x[place]) for x in parts.share))
    if not share.value > MOSTLY:
        return ""
    gain = float(numbers.oriented[place].mean())
    direct = float(parts.direct_interval[0][place])
    amount = (
        f"more than all ({format_number(direct)} nats; later blocks work against it)"
        if direct > gain
        else format_interval(share, format_percent)
    )
    lead = (
        f"{bold}Of its gain on the choosing examples {amount} is direct:{bold} the vector itself "
        "raises the asked answer's logit, and later blocks make little of it."
    )
    if found.written is None or found.written.verdict == NOT_LOOKED:
        lead += " Look at what is written before you use it."
    sign = 1 if found.cell.multiplier > 0 else -1
    other = recommend(numbers, towards=sign, budget=found.budget, by="mediated")
    if other.cell is None or other.cell == found.cell:
        return lead
    return (
        f"{lead} The largest gain through later blocks is {format_interval(other.gain)} nats, at "
        f"{other.cell.row} with multiplier {format_signed(other.cell.multiplier)}."
    )
