"""What the report page says about SAE features beside DiffMean and random controls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from steerlens.analyses.features.comparison_arms import BY_EFFECT, DIFFMEAN, SEARCHED
from steerlens.analyses.features.paired_comparison import ComparedArm
from steerlens.report.numbers import format_interval, format_number, format_signed
from steerlens.report.section import Figure, Heading, Paragraph, Section, Table
from steerlens.stats import Interval

if TYPE_CHECKING:
    from collections.abc import Callable

    import plotly.graph_objects as go

_HEAD = (
    Heading("arm", number=False),
    Heading("site", number=False),
    Heading("feature"),
    Heading("length", "stream norms"),
    Heading("gain", "nats"),
    Heading("KL", "nats per token"),
    Heading("utility", "nats"),
    Heading("over DiffMean", "nats"),
    Heading("over random feature", "nats"),
    Heading("over searched directions", "nats"),
    Heading("p, random feature"),
    Heading("p, random direction"),
)


def comparison_section(
    at_equal_kl: Sequence[ComparedArm],
    at_equal_utility: Sequence[ComparedArm],
    *,
    random_feature: Interval,
    figures: tuple[Callable[[], go.Figure], Callable[[], go.Figure], Callable[[], go.Figure]],
    budget: float,
    utility_drop: float,
    nulls: int,
    examples: int,
    data_name: str,
) -> Section:
    """The section of a comparison of features.

    Args:
        at_equal_kl: Every arm at its best layer, at equal KL.
        at_equal_utility: The same at an equal loss of utility.
        random_feature: The gain of the best of a few random features, at equal KL.
        figures: The gains at equal KL, at equal utility, and those of the candidates.
        nulls: How many random searches were made; 0 for none.
        examples: How many questions the gains are measured on.
    """
    kl, utility = format_number(budget), format_number(utility_drop)
    if nulls:
        controls = (
            f"The grey controls are random features and random directions: {nulls} times over, the "
            "one of a few that gains most on the choosing examples."
        )
    else:
        controls = "No random controls were measured (`nulls=0`), so there are no p-values."
    return Section(
        title="Features, DiffMean and random controls at equal cost",
        short="Features",
        question=f"Which SAE features steer {data_name}?",
        answer=_answer(at_equal_kl, random_feature, budget, examples),
        blocks=(
            Paragraph(
                f"Every arm adds a vector whose length costs {kl} nats of KL per token of ordinary "
                "text. Features are searched for on the fitting and the choosing examples. The "
                "gains below are on the reporting examples, which were used for neither. "
                f"{controls} “{SEARCHED.capitalize()}” is found by the same two steps as the "
                "features by effect, among as many random directions as there are features. A "
                "feature found by effect must exceed it to be more than the best of many."
            ),
            Figure(figures[0]),
            _table(at_equal_kl, f"costs {kl} nats of KL per token of ordinary text"),
            Paragraph(
                "The same choices, each with a length that lowers the utility log-odds by "
                f"{utility} nats on the choosing examples:"
            ),
            Figure(figures[1]),
            _table(at_equal_utility, f"costs {utility} nats of the utility log-odds"),
            Paragraph(
                "The features of each layer that separate the contrast best, and the gain of each "
                "on the choosing examples. These examples choose among them, so the largest gain "
                "is too large on average; the figure shows what there was to choose from."
            ),
            Figure(figures[2]),
        ),
        limits=(
            "**Arms and layers are many, and intervals are for one at a time.** They are over "
            "examples only, and no difference is corrected for the number of arms and layers that "
            "are looked at. The p-values allow for the choice of a layer, since the random controls "
            "choose theirs in the same way.",
            "**Features are those of one SAE for each layer.** An SAE of another size or training "
            "has other features.",
        ),
    )


def _table(arms: Sequence[ComparedArm], cost: str) -> Table:
    return Table(
        _HEAD,
        tuple(tuple(map(_shown, arm)) for arm in arms),
        caption=f"Each arm at the layer where it gained most on the choosing examples, measured on "
        f"held-out examples, with a length that {cost}. Intervals are 95% intervals over "
        "examples, paired in the differences. The p-value compares an arm with repeated choices "
        "of the best of a few random features or random directions.",
    )


def _shown(value: Any) -> str:
    if isinstance(value, Interval):
        return format_interval(value)
    return format_number(value) if isinstance(value, float) else str(value)


def _answer(
    arms: Sequence[ComparedArm], random_feature: Interval, budget: float, examples: int
) -> tuple[str, ...]:
    """What the feature found by effect gains, beside DiffMean and chance; nothing if it has none."""
    by_name = {arm.arm: arm for arm in arms}
    found, diffmean, searched = (by_name[name] for name in (BY_EFFECT, DIFFMEAN, SEARCHED))
    if math.isnan(found.gain.value) or found.site is None:
        return ()
    words = (
        f"The feature found by effect, **{found.feature} at layer {found.site.layer}**, changes "
        f"the log-odds of the positive answer by **{format_interval(found.gain)} nats** on "
        f"{examples} held-out examples, for {format_interval(found.kl)} nats of KL per token of "
        f"held-out text ({format_number(budget)} on the texts that set its length). "
    )
    over = found.over_diffmean
    if not math.isnan(over.value) and diffmean.site is not None:
        verdict = (
            "more than DiffMean"
            if over.low > 0
            else "less than DiffMean"
            if over.high < 0
            else "not distinguishable from DiffMean"
        )
        words += (
            f"That is **{verdict}** (layer {diffmean.site.layer}, {format_interval(diffmean.gain)} "
            f"for {format_interval(diffmean.kl)}; difference "
            f"{format_interval(over, format_signed)}). "
        )
    if not math.isnan(random_feature.value):
        words += f"The best of a few random features reaches {format_interval(random_feature)}. "
    words += (
        "The best of as many random directions as there are features, found by the same steps, "
        f"reaches {format_interval(searched.gain)}."
    )
    return (words,)
