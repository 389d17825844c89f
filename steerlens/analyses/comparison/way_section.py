"""What the report page says of ways of adapting a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analyses.comparison.concept_numbers import ConceptNumbers
from steerlens.analyses.comparison.criterion import About
from steerlens.analyses.comparison.published import published_judgements
from steerlens.analyses.comparison.share_of_full import FULL, against_full
from steerlens.analyses.comparison.verdicts import Verdict
from steerlens.analyses.comparison.way_answer import Answered, answer, named, written_of
from steerlens.report.numbers import format_number, format_percent, in_words
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
from steerlens.stats import Bounds

if TYPE_CHECKING:
    import plotly.graph_objects as go

IN_CONTEXT, UNSTEERED = "in context", "unsteered"
AFTERWARDS = (
    "Each way writes the first tokens of a text at the multiplier that costs the budget, and is then "
    "switched off. KL is from a run with the same random draws that was never steered and wrote a text "
    "of its own; both go on with the same ordinary text. Above, keys and values stay as they were "
    "built; in the middle they are recomputed, so that the text alone is left of the way; below, the "
    "same text with the one and the other cache."
)
RADAR = (
    "The large circle is the best way and names the spokes with the ends of their scales, from the "
    "centre to the rim; the small ones number them. Each scale is of these ways alone, and the "
    "criteria are not worth the same, so no area or mean of a circle says which way is better."
)
DECIDING = (
    "Constraints rule ways out before any ranking. These are examples, each by itself. "
    "`run.ways.recommend(weights=False, overhead=0.01, fades_within=8)` filters by those that are "
    "given, ranks what remains, and says why each other way is not among it; "
    "`run.ways.plot_decisions(…)` draws this for them."
)


@runtime_checkable
class Shown(Answered, Protocol):
    """What the section is made of: a `WayComparison`."""

    @property
    def settings(self) -> tuple[str, ...]: ...
    @property
    def concepts(self) -> tuple[str, ...]: ...
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
    def on(self, concept: str) -> Answered: ...
    @property
    def repeats(self) -> int: ...
    @property
    def has_ideal(self) -> bool: ...
    @property
    def ranking(self) -> list[int]: ...
    def relative(self, name: str, to: str) -> Bounds: ...
    def plot_tradeoff(self) -> go.Figure: ...
    def plot_nearness(self) -> go.Figure: ...
    def plot_afterwards(self) -> go.Figure: ...
    def plot_criteria(self) -> go.Figure: ...
    @property
    def has_radar(self) -> bool: ...
    def plot_radar(self) -> go.Figure: ...
    def plot_decisions(self) -> go.Figure: ...
    def verdicts(self) -> dict[str, list[Verdict]]: ...


def way_section(shown: Shown) -> Section:
    """The section of a comparison of ways."""
    order = [shown.ways[i] for i in shown.ranking]
    blocks: list[Block] = [
        Paragraph(_introduction(shown)),
        _table(shown, order, "does"),
        *_by_concept(shown, order),
        *_left_alone(shown, order),
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
    blocks.append(
        Folded(
            "What each number is",
            (Listing(tuple(f"**{c.short}** ({c.unit}): {c.meaning}" for c in shown.criteria)),),
        )
    )
    made = "\n".join(f"`{w}`: `{s}`" for w, s in zip(shown.ways, shown.settings, strict=True))
    blocks.append(Folded("How each way was made", (Listing(tuple(made.splitlines()), quiet=True),)))
    parts = [_costs(shown, order), _leaves(shown, order), _at_once(shown), _decisions(shown, order)]
    parts += [against_full(shown, order)] if FULL in shown.ways else []
    if shown.sample_prompts:
        parts.append(_texts(shown, order))
    parts.append(published_judgements(shown.ways))
    return Section(
        title="Ways of adapting the model, at equal cost",
        short="Ways",
        blocks=tuple(blocks),
        parts=tuple(parts),
        question=f"Which way of adapting the model to {in_words(shown.concepts)} is best?",
        answer=answer(shown, order),
        facts=_facts(shown, order),
        limits=_limits(shown),
    )


def _costs(shown: Shown, order: list[str]) -> Section:
    """What ways break and take."""
    return Section(
        title="What it costs",
        short="Costs",
        blocks=(_table(shown, order, "breaks"), _table(shown, order, "takes")),
    )


def _leaves(shown: Shown, order: list[str]) -> Section:
    """What ways leave behind."""
    blocks: list[Block] = [_table(shown, order, "leaves")]
    if all(one.afterwards is not None for one in shown.each):
        blocks.append(Figure(shown.plot_afterwards, AFTERWARDS))
    return Section(title="What it leaves behind", short="Reversibility", blocks=tuple(blocks))


def _at_once(shown: Shown) -> Section:
    """All criteria in one picture, and in another."""
    blocks: list[Block] = [Figure(shown.plot_radar, RADAR)] if shown.has_radar else []
    return Section(
        title="All criteria at once",
        short="Criteria",
        blocks=(*blocks, Figure(shown.plot_criteria)),
    )


def _facts(shown: Shown, order: list[str]) -> tuple[Fact, ...]:
    by = named(shown, shown.ranked_by)
    found = [Fact("best way", order[0], f"by {by.short}, of {len(shown.ways)} ways")]
    found.append(Fact(by.short, written_of(shown, by, order[0]), by.meaning))
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
            asked, ordinary = map(format_percent, shares)
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
    rows = tuple((way, *(written_of(shown, one, way) for one in some)) for way in order)
    more = " and repetitions" if shown.repeats > 1 else ""
    caption = {
        "does": "What each way does, best first. Brackets: 95% intervals over groups of examples"
        f"{more}.",
        "breaks": "What else each way does, at the budget.",
        "takes": "What each way takes. Brackets, if any: the least and the most of all trainings.",
        "leaves": "What each way leaves behind when it is removed, and when it is switched off in the "
        f"middle of a text. Brackets: 95% intervals over texts{more}.",
    }[about]
    return Table(tuple(head), rows, caption=caption, marked=0 if about == "does" else None)


def _by_concept(shown: Shown, order: list[str]) -> tuple[Block, ...]:
    """What the means of the first table are of."""
    if len(shown.concepts) < 2:
        return ()
    some = [named(shown, name) for name in dict.fromkeys((shown.ranked_by, "gain"))]
    alone = [(concept, shown.on(concept)) for concept in shown.concepts]
    head = [Heading("way", number=False)]
    head += [Heading(f"{one.short}, {concept}", one.unit) for one in some for concept, _ in alone]
    rows = tuple(
        (way, *(written_of(on, one, way) for one in some for _, on in alone)) for way in order
    )
    told = Table(tuple(head), rows, caption="The same on each concept alone.")
    return (Folded("Concept by concept", (told,)),)


def _decisions(shown: Shown, order: list[str]) -> Section:
    """The decision matrix, and every reason in words."""
    judged, reasons = shown.verdicts(), []
    for way in order:
        i = shown.ways.index(way)
        why = [each[i].why for each in judged.values() if each[i].outcome == "fails"]
        if why:
            reasons.append(f"**{way}**: {'; '.join(dict.fromkeys(why))}")
    blocks: list[Block] = [Paragraph(DECIDING), Figure(shown.plot_decisions)]
    if reasons:
        blocks.append(
            Folded("Every constraint that a way does not meet", (Listing(tuple(reasons)),))
        )
    return Section(title="What rules a way out", short="Deciding", blocks=tuple(blocks))


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
