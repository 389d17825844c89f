"""What the report page says of ways of adapting a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analyses.comparison.concept_numbers import ConceptNumbers
from steerlens.analyses.comparison.criterion import About, Criterion
from steerlens.analyses.comparison.published import published_judgements
from steerlens.report.numbers import format_interval, format_number
from steerlens.report.section import (
    Block,
    Fact,
    Figure,
    Folded,
    Heading,
    Listing,
    Paragraph,
    Section,
    Table,
    Texts,
)
from steerlens.stats import Bounds, Interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

FULL = "full weights"
"""The way that others are held against where it is there."""
IN_CONTEXT, UNSTEERED = "in context", "unsteered"
HYPOTHESIS = (
    "An article attributes to arXiv:2604.14090 that steering reaches 90–95% of the gain of "
    "fine-tuning at under 5% of its compute. No description of that paper contains such numbers; it "
    "has no experiments. Here it is a hypothesis, and this is its measurement:"
)
AFTERWARDS = (
    "Each way writes the first tokens of a text at the multiplier that costs the budget, and is then "
    "switched off. KL is from a run with the same random draws that was never steered and wrote a text "
    "of its own; both go on with the same ordinary text. Above, keys and values stay as they were "
    "built; in the middle they are recomputed, so that the text alone is left of the way; below, the "
    "same text with the one and the other cache."
)
_OF_FULL = ("share", "gain", "written")


@runtime_checkable
class Shown(Protocol):
    """What the section is made of: a `WayComparison`."""

    @property
    def ways(self) -> tuple[str, ...]: ...
    @property
    def settings(self) -> tuple[str, ...]: ...
    @property
    def concepts(self) -> tuple[str, ...]: ...
    @property
    def budget(self) -> float: ...
    @property
    def pairs(self) -> int: ...
    @property
    def samples(self) -> Mapping[str, tuple[str, ...]]: ...
    @property
    def sample_prompts(self) -> tuple[str, ...]: ...
    @property
    def made_by(self) -> dict[str, Any]: ...
    @property
    def factors(self) -> Float[Tensor, " factor"]: ...
    @property
    def at_budget(self) -> int: ...

    @property
    def each(self) -> tuple[ConceptNumbers, ...]: ...
    @property
    def repeats(self) -> int: ...
    @property
    def has_ideal(self) -> bool: ...
    @property
    def ranked_by(self) -> str: ...
    @property
    def ranking(self) -> list[int]: ...
    @property
    def criteria(self) -> tuple[Criterion, ...]: ...
    def criterion(self, name: str) -> Bounds: ...
    def interval(self, name: str, way: str) -> Interval: ...
    def relative(self, name: str, to: str) -> Bounds: ...
    def difference(self, name: str, way: str, than: str) -> Interval: ...
    def plot_tradeoff(self) -> go.Figure: ...
    def plot_nearness(self) -> go.Figure: ...
    def plot_afterwards(self) -> go.Figure: ...
    def plot_criteria(self) -> go.Figure: ...


def way_section(shown: Shown) -> Section:
    """The section of a comparison of ways."""
    order = [shown.ways[i] for i in shown.ranking]
    blocks: list[Block] = [
        Paragraph(_introduction(shown)),
        _table(shown, order, "does"),
        *_left_alone(shown, order),
        _table(shown, order, "takes"),
        _table(shown, order, "leaves"),
        Folded(
            "What each number is",
            (Listing(tuple(f"**{c.short}** ({c.unit}): {c.meaning}" for c in shown.criteria)),),
        ),
        Figure(
            shown.plot_tradeoff,
            "Every way at several multiples of the multiplier that costs the budget. A way is better "
            "the further up it is at the same cost; below, how likely either answer still is.",
        ),
    ]
    if shown.has_ideal:
        blocks.append(
            Figure(
                shown.plot_nearness,
                "The share of the KL to the exact distribution that is wanted, over each way's own "
                "multiplier (1 is what was trained). It falls again where a way overshoots or "
                "breaks text.",
            )
        )
    if all(one.afterwards is not None for one in shown.each):
        blocks.append(Figure(shown.plot_afterwards, AFTERWARDS))
    blocks.append(Figure(shown.plot_criteria))
    parts = [_against_full(shown, order)] if FULL in shown.ways else []
    if shown.sample_prompts:
        parts.append(_texts(shown, order))
    parts.append(published_judgements(shown.ways))
    made = "\n".join(f"`{w}`: `{s}`" for w, s in zip(shown.ways, shown.settings, strict=True))
    blocks.append(Folded("How each way was made", (Listing(tuple(made.splitlines()), quiet=True),)))
    return Section(
        title="Ways of adapting the model, at equal cost",
        short="Ways",
        blocks=tuple(blocks),
        parts=tuple(parts),
        question=f"Which way of adapting the model to {' and '.join(shown.concepts)} is best?",
        answer=_answer(shown, order),
        facts=_facts(shown, order),
        limits=_limits(shown),
    )


def _written(shown: Shown, criterion: Criterion, way: str) -> str:
    return format_interval(shown.interval(criterion.name, way), criterion.written)


def _named(shown: Shown, name: str) -> Criterion:
    return next(one for one in shown.criteria if one.name == name)


def _answer(shown: Shown, order: list[str]) -> tuple[str, ...]:
    best, by = order[0], _named(shown, shown.ranked_by)
    top = shown.interval(by.name, best)
    if top.value != top.value:
        return ("No way has a multiplier that costs the budget, so none could be compared.",)
    near = [way for way in order[1:] if shown.difference(by.name, best, way).low <= 0]
    told = f", not told apart from {_listed(near)} on the same examples" if near else ""
    sentence = (
        f"**{best}** has the highest {by.short}: {_written(shown, by, best)} {by.unit}{told}."
    )
    gain = _named(shown, "gain")
    gains = shown.criterion("gain")[0].nan_to_num(-1e9)
    most = shown.ways[int(gains.argmax())]
    if by.name != "gain":
        sentence += (
            f" At equal cost ({format_number(shown.budget)} nats of KL per token) **{most}** gains "
            f"most: {_written(shown, gain, most)} nats. The two rank differently because a gain does "
            "not count text that is broken or pushed too far."
            if most != best
            else f" It also gains most at equal cost: {_written(shown, gain, most)} nats."
        )
    return (sentence,)


def _listed(ways: Sequence[str]) -> str:
    """Ways in a sentence; their names may hold commas."""
    return ", ".join(f"`{way}`" for way in ways)


def _facts(shown: Shown, order: list[str]) -> tuple[Fact, ...]:
    by = _named(shown, shown.ranked_by)
    found = [Fact("best way", order[0], f"by {by.short}, of {len(shown.ways)} ways")]
    found.append(Fact(by.short, _written(shown, by, order[0]), by.meaning))
    found.append(
        Fact("repetitions", str(shown.repeats), f"of each way on {', '.join(shown.concepts)}")
    )
    return tuple(found)


def _introduction(shown: Shown) -> str:
    several = "repetitions, each with other pairs and draws" if shown.repeats > 1 else "repetition"
    text = (
        f"{len(shown.ways)} ways were made of the same {shown.pairs} pairs, in {shown.repeats} "
        f"{several}, and measured on the same other examples. A multiplier scales each of them, also "
        "the changed weights and the prompt: 0 is the model alone. Unless it says otherwise, numbers "
        f"are at the multiplier that costs {format_number(shown.budget)} nats of KL per token on "
        "ordinary texts."
    )
    if shown.has_ideal:
        text += (
            " On the reference model the exact distribution p* of documents at the wanted pole is "
            "known, so that **share to ideal** = 1 − KL(p* ‖ p)/KL(p* ‖ p without the way) says how "
            "far a way gets: 1 is the ideal, 0 no change, below 0 further away than before."
        )
    return text


def left_alone(
    ways: Sequence[str], gain: Float[Tensor, "way _question"], kl: Float[Tensor, "way _text"]
) -> str:
    """Which ways leave some texts as they are, and how many they act on; "" where none does."""
    found = []
    for way, *moved in zip(ways, gain, kl, strict=True):
        if any(bool(one.isnan().any()) for one in moved):
            continue
        shares = [float((one != 0).float().mean()) for one in moved]
        if min(shares) < 1:
            asked, ordinary = map(_percent, shares)
            found.append(
                f"`{way}` on {asked} of the questions and {ordinary} of the ordinary texts"
            )
    if not found:
        return ""
    told = "; ".join(found)
    return f"Not all act on every text: {told}. The others stay as they are, to the last bit."


def _left_alone(shown: Shown, order: list[str]) -> tuple[Block, ...]:
    index = [shown.ways.index(way) for way in order]
    gain, kl = (
        torch.cat([getattr(one, of)[index, :, shown.at_budget].flatten(1) for one in shown.each], 1)
        for of in ("gain", "kl")
    )
    told = left_alone(order, gain, kl)
    return (Paragraph(told),) if told else ()


def _table(shown: Shown, order: list[str], about: About) -> Table:
    """What each way does, what it takes, or what it leaves behind."""
    some = [one for one in shown.criteria if one.about == about]
    head = [Heading("way", number=False)]
    head += [Heading(one.short, one.unit) for one in some]
    rows = tuple((way, *(_written(shown, one, way) for one in some)) for way in order)
    more = " and repetitions" if shown.repeats > 1 else ""
    caption = {
        "does": "What each way does, best first. Brackets: 95% intervals over groups of examples"
        f"{more}.",
        "takes": "What each way takes. Brackets, if any: the least and the most of all trainings.",
        "leaves": "What each way leaves behind when it is removed, and when it is switched off in the "
        f"middle of a text. Brackets: 95% intervals over texts{more}.",
    }[about]
    return Table(tuple(head), rows, caption=caption, marked=0 if about == "does" else None)


def _against_full(shown: Shown, order: list[str]) -> Section:
    """Every way as a share of full fine-tuning, by each metric and in compute."""
    there = [
        name
        for name in _OF_FULL
        if any(one.name == name for one in shown.criteria)
        and shown.interval(name, FULL).low > 0  # a share of nothing says nothing
    ]
    bounds = {name: shown.relative(name, FULL) for name in there}
    seconds = shown.criterion("seconds")[0]
    full = float(seconds[shown.ways.index(FULL)])
    rows = []
    verdicts = []
    for name in there:
        reach = [
            w for w in order if w != FULL and float(bounds[name][0][shown.ways.index(w)]) >= 0.9
        ]
        cheap = [w for w in reach if float(seconds[shown.ways.index(w)]) < 0.05 * full]
        verdicts.append(
            f"By **{_named(shown, name).short}**, {_listed(reach) or 'no other way'} "
            f"{'reach' if len(reach) > 1 else 'reaches'} 90% of full fine-tuning, and "
            f"{_listed(cheap) or 'none of them'} at under 5% of its seconds."
        )
    for way in order:
        if way == FULL:
            continue
        i = shown.ways.index(way)
        cells = [
            format_interval(Interval(*(float(part[i]) for part in bounds[name])), _percent)
            for name in there
        ]
        rows.append((way, *cells, _percent(float(seconds[i]) / full)))
    head = (
        Heading("way", number=False),
        *(Heading(_named(shown, name).short, "of full weights") for name in there),
        Heading("seconds to make", "of full weights"),
    )
    return Section(
        title="As a share of full fine-tuning",
        short="Share of full fine-tuning",
        blocks=(
            Paragraph(HYPOTHESIS),
            Listing(tuple(verdicts)),
            Table(
                head, tuple(rows),
                caption="Ratios of means over the same examples, with 95% intervals. A metric is left "
                "out where that of full fine-tuning is not clearly above 0.",
            ),
        ),
    )  # fmt: skip


def _percent(value: float) -> str:
    return f"{100 * value:.0f}%".replace("-", "−")


def _texts(shown: Shown, order: list[str]) -> Section:
    blocks = []
    names = [UNSTEERED, *([IN_CONTEXT] if IN_CONTEXT in shown.samples else []), *order]
    for k, prompt in enumerate(shown.sample_prompts):
        texts = tuple((name, shown.samples[name][k]) for name in names if name in shown.samples)
        blocks.append(Texts(prompt, texts, f"prompt {k + 1}", marked=0))
    return Section(
        title="What each way writes",
        short="Texts",
        blocks=(
            Paragraph(
                "Each way at the multiplier that costs the budget, for the first concept and "
                "repetition. These prompts are some of those that the table reads."
            ),
            *blocks,
        ),
    )


def _limits(shown: Shown) -> tuple[str, ...]:
    found = [
        "**One set of hyperparameters.** Ranks, steps, the layer and the objectives' own constants "
        "are those of the settings; the learning rate is the best of a few by validation loss.",
        "**Intervals are for one way at a time**, and no difference is corrected for how many ways "
        "and criteria are looked at.",
        "**Processor seconds depend on the machine** and on what else runs there; compare them with "
        "those of the same run alone.",
    ]
    if shown.repeats == 1:
        found.append(
            "**One repetition.** Intervals are over examples alone: another draw of the training "
            "pairs would give other numbers."
        )
    return tuple(found)
