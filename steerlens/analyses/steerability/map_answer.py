"""What a map says at the top of the report page, and what its numbers do not say."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from steerlens import stats
from steerlens.analyses.steerability.example_clouds import answer_artefact
from steerlens.analyses.steerability.gain_words import mostly_direct
from steerlens.analyses.steerability.map_numbers import MapNumbers
from steerlens.analyses.steerability.recommendation import (
    MEASURED,
    UNTESTED,
    Recommendation,
    recommend,
)
from steerlens.analyses.steerability.row_words import row_word, rows_named
from steerlens.report.numbers import (
    format_interval,
    format_number,
    format_p_value,
    format_share,
    format_signed,
    in_words,
    with_minus,
)
from steerlens.report.section import Fact
from steerlens.stats import Interval
from steerlens.units import MEANING

TOKENS = {
    "Positions.all()": "every token",
    "Positions.last()": "the last token of the prompt",
    "Positions.from_prompt_end()": "the last token of the prompt and every token after it",
    "Positions.generated()": "every token after the prompt",
}
"""Which tokens are steered, in words."""


NOBODY_READ = (
    "**Not looked at in writing:** no texts of this cell were read (`steerlens.confirm_in_writing`), "
    "so whether the model writes what the gain promises is not known."
)


def answer(numbers: MapNumbers, found: Recommendation) -> Iterator[str]:
    """What the map says, for somebody who reads nothing else."""
    asked = numbers.multipliers > 0
    real = numbers.exceeds & asked
    responding = (real & numbers.within_budget).any(-1)
    costly = real.any(-1) & ~responding
    chance = _chance(numbers)
    if found.cell is not None:
        yield _effect(numbers, found)
        yield NOBODY_READ if found.written is None else found.written.sentence()
        if elsewhere := _confirmed_elsewhere(numbers, found):
            yield elsewhere
        yield f"{_price(numbers, found)} {chance}"
        if note := mostly_direct(numbers, found, bold="**"):
            yield note
        if numbers.confirmation is None:
            yield (
                "No examples were held out: the same examples chose this cell, so its gain is too "
                "large on average."
            )
        count, n = int(responding.sum()), len(numbers.rows)
        only = f" {_rows(numbers, costly)} only at a higher cost." if bool(costly.any()) else ""
        yield (
            f"Of {n} {row_word(numbers, n)}, {count} {_responds(numbers, count)} within the cost "
            f"budget: {rows_named(numbers, responding)}.{only}"
        )
    elif bool(costly.any()):
        yield (
            f"**No {row_word(numbers)} responds within the cost budget** of "
            f"{format_number(numbers.budget)} nats of KL per token. {_rows(numbers, costly)}, at a "
            f"higher cost. {chance}"
        )
    elif numbers.nulls:
        yield (
            f"**Nothing is above the null.** No {row_word(numbers)} responds, at any multiplier above "
            f"zero, by more than the null maps do. {chance}"
        )
    else:
        yield f"**Nothing is gained** at any multiplier above zero. {chance}"
    if artefact := answer_artefact(numbers):
        yield artefact
    if found.backwards:
        yield f"**{found.backwards.partition(':')[0]}**:{with_minus(found.backwards.partition(':')[2])}"
    if found.outside:
        yield found.outside
    if found.cell is None:
        yield (
            "So no cell was chosen to steer with, and nothing was measured on held-out examples."
        )


def _confirmed_elsewhere(numbers: MapNumbers, found: Recommendation) -> str:
    """Which runners-up are confirmed in writing, where the chosen cell is not."""
    if found.written is None or found.written.verdict != "gain without writing":
        return ""
    kept = [one for one in numbers.written if one.verdict == "confirmed in writing"]
    if not kept:
        if len(numbers.written) < 2:
            return ""
        return "None of the runners-up that were looked at is confirmed in writing either."
    named = [f"{one.cell} ({format_share(one.share)})" for one in kept]
    return f"Confirmed in writing instead: {in_words(named)}."


def _rows(numbers: MapNumbers, rows: Tensor) -> str:
    """Rows that respond, and that they do, as the start of a sentence."""
    named = rows_named(numbers, rows)
    named = named if numbers.layers is None else named.capitalize()
    return f"{named} {_responds(numbers, int(rows.sum()))}"


def _responds(numbers: MapNumbers, count: int) -> str:
    """What rows that respond do."""
    s = "s" if count == 1 else ""
    return f"respond{s} by more than chance" if numbers.nulls else f"gain{s} more than 0 nats"


def _effect(numbers: MapNumbers, found: Recommendation) -> str:
    """The chosen cell and its gain."""
    assert found.cell is not None and found.gain is not None
    held = numbers.confirmation
    gain = found.gain if held is None else held.gain
    confirmed = held is None or (gain.low > 0 if gain.known else gain.value > 0)
    use = "Use" if numbers.layers is None else "Steer at"
    writes = found.written is None or found.written.verdict != "gain without writing"
    lead = use if confirmed and writes else "The best cell is"
    doubt = "" if confirmed else ", but **held-out examples do not confirm it**"
    examples = numbers.examples if held is None else held.examples
    ends = f" [{format_number(gain.low)}, {format_number(gain.high)}]" if gain.known else ""
    odds = Interval(*(math.exp(min(x, 700.0)) for x in gain))
    return (
        f"{lead} **{numbers.row_name(numbers.find(found.cell.row))}** with multiplier "
        f"**{format_signed(found.cell.multiplier)}**{doubt}: the log-odds of the positive answer "
        f"change by **{format_signed(gain.value)} nats**{ends} on {examples}, which makes "
        f"the odds {format_interval(odds)} times what they were."
    )


def _price(numbers: MapNumbers, found: Recommendation) -> str:
    """What the chosen cell costs, and the share of examples that it moves the wrong way."""
    held = numbers.confirmation
    cost = format_number(found.cost) if held is None else format_interval(held.cost)
    wrong = "" if held is None else (
        f", and moves {format_share(held.wrong_way)} of the examples the wrong way"
    )  # fmt: skip
    return (
        f"It costs {cost} nats of KL per token of ordinary text ({numbers.ordinary}), of "
        f"{format_number(numbers.budget)} allowed{wrong}."
    )


def _chance(numbers: MapNumbers) -> str:
    """What the nulls say, in a sentence."""
    if not numbers.nulls:
        return UNTESTED
    names = in_words([name for name in numbers.nulls])
    return (
        f"The best of all cells would stand out as much by chance ({names}) with probability "
        f"**p = {format_number(numbers.p_value)}**."
    )


def introduction(numbers: MapNumbers) -> str:
    """What a reader must know to understand the answer."""
    ends = "Brackets hold 95% intervals; a **nat** is the unit of natural logarithms."
    unit = numbers.made_by.get("unit")
    if unit is None:
        return (
            "Each row is an **intervention**: a change of the model with a strength, the "
            "**multiplier**. At multiplier 0 the model is unchanged. The `choose` questions fill the "
            "map and choose the cell, and the `report` questions measure the chosen cell once; no "
            f"question is in both. {ends}"
        )
    where = TOKENS.get(str(numbers.made_by.get("positions")), "the steered tokens")
    return (
        "**Steering** adds a fixed vector, the **direction**, to the residual stream of one layer "
        f"(the running sum that every later layer reads) at {where}. The **multiplier** scales it: "
        f"multiplier 1 adds a vector as long as {MEANING.get(unit, unit)}. A direction is found by "
        "comparing texts that show a behaviour with texts that do not. The `fit` pairs make the "
        "directions, the `choose` questions fill the map and choose the cell, and the `report` "
        f"questions measure the chosen cell once; no question is in two of these parts. {ends}"
    )


def facts(numbers: MapNumbers, found: Recommendation) -> Iterator[Fact]:
    """The numbers of the answer, each with what it means."""
    held, cells = numbers.confirmation, numbers.cost.numel()
    if held is not None:
        n = held.examples
        yield Fact(
            "Gain, held out",
            f"{format_interval(held.gain)} nats",
            "How much steering raises the log-odds of the positive answer over the negative one, "
            f"with its 95% interval, on {n} that had no part in the choice. One nat "
            "multiplies the odds by 2.72.",
        )
        yield Fact(
            "Steered the wrong way",
            format_share(held.wrong_way),
            f"Share of those {n} whose gain is below zero, with its 95% interval: a good "
            "mean can hide examples that steering harms.",
        )
        yield Fact(
            "Cost, held out",
            f"{format_interval(held.cost)} nats per token",
            "KL divergence: how far the predictions of the next token move on ordinary text that "
            f"steering should leave alone. 0 is unchanged; {numbers.budget:g} was allowed.",
        )
        yield Fact(
            "Change of utility, held out",
            f"{format_interval(held.utility, format_signed)} nats",
            "Log-odds of giving either answer rather than anything else. Below zero, the model "
            "begins to lose the question.",
        )
    if found.cell is not None and found.gain is not None:
        yield Fact(
            "Gain where it was chosen",
            f"{format_interval(found.gain)} nats",
            f"The same on the {numbers.examples} that chose this cell out of "
            f"{cells}. As the best of many it is too large on average.",
        )
        if held is None:
            yield Fact(
                "Cost",
                f"{format_number(found.cost)} nats per token",
                "KL divergence: how far the predictions of the next token move on ordinary text. "
                f"0 is unchanged; {numbers.budget:g} was allowed.",
            )
    yield from _null_facts(numbers, cells)
    if bool((numbers.multipliers < 0).any()):
        yield _less(numbers)


def _in_half(numbers: MapNumbers) -> str:
    products = numbers.made_by.get("null_products")
    return f" The null maps were computed with products in {products}." if products else ""


def _null_facts(numbers: MapNumbers, cells: int) -> Iterator[Fact]:
    """Whether the map is more than chance: one p-value, and what it is made of."""
    if not numbers.nulls:
        yield Fact("More than chance?", "not tested", UNTESTED)
        return
    most = max(null.planned for null in numbers.nulls.values())
    both = (
        "the larger of the two below, so that it holds against both"
        if len(numbers.nulls) > 1
        else "of the one below"
    )
    yield Fact(
        "More than chance?",
        format_p_value(numbers.p_value, most),
        f"Probability that the best of all {cells} cells stands out as much by chance: {both}. "
        f"{MEASURED if len(numbers.nulls) > 1 else ''}".rstrip()
        + _in_half(numbers),
    )
    if (null := numbers.label_null) is not None:
        yield Fact(
            "Part of it: the labels",
            format_number(null.p_value),
            f"Against {null.maps} maps of directions fitted to shuffled labels. It rejects labels "
            "without meaning; it does not reject a readable contrast that is not the one asked "
            "about, whose direction is longer than those of shuffled labels.",
        )
    if (null := numbers.direction_null) is not None:
        name = list(numbers.nulls)[-1]
        yield Fact(
            "Part of it: the direction",
            format_number(null.p_value),
            f"Against {null.maps} maps of {name} just as long: would any push do it? It does not "
            "reject directions of shuffled labels, since they lie where activations vary.",
        )


def _less(numbers: MapNumbers) -> Fact:
    """The best cell for less of the behaviour."""
    found = recommend(numbers, towards=-1)
    if found.cell is None:
        does = "is above the null" if numbers.nulls else "lowers the log-odds"
        return Fact(
            "Towards less of it",
            "nothing",
            f"No cell with a negative multiplier {does} within the budget.",
        )
    return Fact(
        "Towards less of it",
        f"{format_interval(found.gain)} nats",
        "How far a negative multiplier lowers the log-odds, at the best cell for that: "
        f"{found.cell.row} at multiplier {format_signed(found.cell.multiplier)}, for "
        f"{format_number(found.cost)} nats of KL per token. On the examples that chose it.",
    )


def limits(numbers: MapNumbers) -> Iterator[str]:
    """What the numbers do not say."""
    yield (
        "**Log-odds stand in for behaviour.** They compare two given answers to each question. A "
        "model can shift them and still write something else."
    )
    yield (
        f"**The cost is an average over ordinary text.** KL on {numbers.kl.shape[-1]} short texts "
        "does not show rare or delayed harm, lost skills, or what happens over long texts."
    )
    if "method" in numbers.made_by:
        yield (
            f"**There is one direction per layer.** It was found by `{numbers.made_by['method']}` "
            "from the fitting pairs. A layer that does not respond here does not respond to this "
            "direction, from these data, at these tokens and multipliers."
        )
    picked = f"**The best of {numbers.cost.numel()} cells was picked.** "
    gain = (
        "The gain does not account for that, since no examples were held out."
        if numbers.confirmation is None
        else "The held-out gain accounts for that, since other examples measure it."
    )
    if numbers.nulls:
        least = 1 / (1 + min(null.planned for null in numbers.nulls.values()))
        yield (
            f"{picked}{gain} The p-value accounts for it, since it compares best cells with best "
            f"cells. With at most this number of null maps, p cannot fall below "
            f"{format_number(least)}; where it is clear that p is far from that, fewer are made."
        )
    else:
        yield f"{picked}{gain} {UNTESTED}"
    yield (
        "**Intervals are over groups of examples only,** one cell at a time: examples that share a "
        "question or are near-duplicates are one group. Other fitting pairs, seeds or models would "
        "add to them."
    )
    held = numbers.confirmation
    few = {
        stats.too_few(numbers.groups, numbers.gains.shape[-1], "choosing examples"),
        "" if held is None else stats.too_few(held.groups, len(held.gains), "held-out examples"),
        "" if held is None else stats.too_few(held.text_groups, len(held.kl), "ordinary texts"),
    }
    yield from (f"**There are few of them.** {words}" for words in sorted(few - {""}))
