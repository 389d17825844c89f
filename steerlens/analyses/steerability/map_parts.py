"""The parts of a map's section on the report page: figures and tables."""

from __future__ import annotations

import math
from functools import partial

import torch

from steerlens.analyses.probe.probe_map import ProbeMap
from steerlens.analyses.steerability import map_figures as figures
from steerlens.analyses.steerability.example_clouds import answer_artefact, two_clouds
from steerlens.analyses.steerability.map_numbers import MapNumbers
from steerlens.analyses.steerability.recommendation import UNTESTED, Recommendation, recommend
from steerlens.analyses.steerability.row_words import interval_at, row_heading, row_word
from steerlens.report.numbers import (
    NOTHING,
    format_interval,
    format_number,
    format_percent,
    format_signed,
    in_words,
    with_minus,
)
from steerlens.report.section import Figure, Heading, Paragraph, Section, Table
from steerlens.sites import Site


def how_to_read(numbers: MapNumbers) -> str:
    """The caption of the heatmap."""
    held = numbers.confirmation
    others = "" if held is None else f", and for the chosen cell on {len(held.kl)} others"
    above, steered = numbers.above_null, numbers.multipliers != 0
    if above is None:
        tested = f"Hatched cells cost too much. {UNTESTED}"
    elif bool((above & steered).any()):
        tested = (
            "Stippled cells gain no more than chance gives, and hatched cells cost too much, "
            "whatever they gain."
        )
    else:
        tested = "No cell gains more than chance gives. Hatched cells cost too much."
    return (
        f"Each cell is the mean change of the log-odds over {numbers.examples}. "
        "Red raises the positive answer and blue the negative one, so what can be steered "
        f"both ways is blue on the left and red on the right. {tested} The bars show the most that "
        f"each {row_word(numbers)} gains, either way, within the budget. The cost was measured on "
        f"{numbers.kl.shape[-1]} ordinary texts{others} ({numbers.ordinary})."
    )


def doses(numbers: MapNumbers) -> Section:
    """Propensity and cost over the multiplier."""
    shown = min(figures.MOST_LINES, len(numbers.rows))
    which = f"the {row_word(numbers)}" if shown == 1 else f"the {shown} {row_word(numbers, shown)}"
    gaining = int((numbers.row_scores > 0).sum())
    most = f"{'gains' if shown == 1 else 'gain'} most within the budget"
    if not gaining:
        most = (
            f"{'moves' if shown == 1 else 'move'} most, since nothing is gained within the budget"
        )
    elif gaining < shown:
        most += f" ({gaining} of them) and that move most beyond it"
    caption = (
        f"Log-odds of the positive answer as the multiplier grows, at {which} that {most}, with the "
        "cost below. "
        "A steady rise is good steering; where a curve bends back or the cost rises steeply, the "
        "model is usually breaking."
    )
    return Section(
        "Dose and response", (Figure(partial(figures.dose_response_figure, numbers), caption),)
    )


def mediated(numbers: MapNumbers) -> Section:
    """The part of every gain that later blocks make of the step."""
    found = recommend(numbers, by="mediated")
    caption = (
        "A step that is added to the stream stands in the final stream itself, and later blocks "
        "read it. The **direct** part of a gain is what the final norm and the unembedding make of "
        "the step alone, with the outputs of all later blocks held; the **mediated** part, shown "
        "here, is the rest. A gain that is mostly direct raises the asked answer whether or not the "
        "model makes anything of it."
    )
    where = "that is above the null and within the budget" if numbers.nulls else "within the budget"
    best = (
        f"No cell {where} gains more than 0 nats through later blocks."
        if found.cell is None
        else f"The most within the budget is {format_interval(found.gain)} nats, at "
        f"{found.cell.row} with multiplier {format_signed(found.cell.multiplier)}."
    )
    unknown = [row for row, known in zip(numbers.rows, _known(numbers), strict=True) if not known]
    if unknown:
        best += (
            f" {in_words(unknown)} {'has' if len(unknown) == 1 else 'have'} no step to hold apart."
        )
    return Section(
        "Gain through later blocks",
        (Figure(partial(figures.mediated_figure, numbers), f"{caption} {best}"),),
        short="Mediated gain",
    )


def _known(numbers: MapNumbers) -> list[bool]:
    return [False] * len(numbers.rows) if numbers.parts is None else numbers.parts.known.tolist()


def tradeoff(numbers: MapNumbers) -> Section:
    """Gain against cost of every cell."""
    caption = (
        "A point for each cell with a multiplier above zero. Up is more effect, left is less harm "
        "to ordinary text; the steps show the most that can be gained at each cost."
    )
    return Section(
        "Gain against cost", (Figure(partial(figures.tradeoff_figure, numbers), caption),)
    )


def slopes(numbers: MapNumbers) -> Section:
    """The slope of every example."""
    caption = (
        "The **slope** of an example is the log-odds it gains per unit of multiplier. Examples "
        "below zero are **anti-steerable**: on the whole, steering moves them the wrong way."
    )
    said = answer_artefact(numbers) or two_clouds(numbers)
    pointed_out = (Paragraph(said),) if said else ()
    figure = Figure(partial(figures.slopes_figure, numbers), caption)
    return Section("Every example", (*pointed_out, figure))


def against(numbers: MapNumbers, probe: ProbeMap) -> Section:
    """How readable the contrast is, beside how steerable."""
    r = numbers.probe_correlation(probe)
    n = len(numbers.rows)
    rank = (
        "There is no rank correlation: there are too few rows, or one of the two is the same in all "
        "of them."
        if math.isnan(r.value)
        else f"Over the {n} {row_word(numbers, n)}, Spearman's rank correlation of AUROC with the gain "
        f"within the budget is {format_interval(r, format_signed)}."
    )
    return Section(
        "Probe against steering",
        (
            Figure(
                partial(figures.against_probe_figure, numbers, probe),
                "A layer where the contrast can be read need not be one where writing it changes "
                f"the answer. {rank}",
            ),
        ),
    )


def others(numbers: MapNumbers, found: Recommendation) -> Section:
    """Why the other rows were not chosen."""
    null = "are above the null and cost" if numbers.nulls else "gain more than 0 and cost"
    budget = format_number(numbers.budget)
    if found.cell is not None:
        lead = (
            "The choice is the largest mean gain, towards more of the behaviour, among cells that "
            f"{null} at most {budget} nats of KL per token. The best cell of every other "
            f"{row_word(numbers)}, on the choosing examples:"
        )
    else:
        both = "is both above the null and" if numbers.nulls else "both gains more than 0 and is"
        lead = (
            f"No cell {both} within {budget} nats of KL per token. The strongest cell of each "
            f"{row_word(numbers)}, on the choosing examples:"
        )
    rows = tuple(
        (
            str(numbers.row_labels[numbers.find(cell.row)]),
            format_signed(cell.multiplier),
            with_minus(why),
        )
        for cell, why in found.reasons
    )
    head = (row_heading(numbers), Heading("multiplier"), Heading("why not", number=False))
    table = Table(head, rows) if rows else Paragraph("There is no other row.")
    return Section(f"Why not other {row_word(numbers, 2)}", (Paragraph(lead), table))


def by_row(numbers: MapNumbers, probe: ProbeMap | None, found: Recommendation) -> Section:
    """The table with a row for each row of the map, the last layer first as in the heatmap."""
    if probe is not None and not set(numbers.sites) & set(probe.sites):
        probe = None
    lead = (
        f"On the {numbers.examples}"
        f"{'' if probe is None else '; AUROC on the fitting pairs, out of fold'}. **Monotonicity** "
        "is Spearman's rank correlation of an example's log-odds with the multiplier, from −1 to 1, "
        "averaged over examples. The best gain counts either way of steering: a negative multiplier "
        "is meant to lower the log-odds."
        f"{' A dagger (†) marks a gain that is not above the null.' if numbers.nulls else ''}"
        f"{'' if found.cell is None else f' The chosen {row_word(numbers)} is highlighted.'}"
    )
    head = [
        row_heading(numbers),
        Heading("slope", "nats per unit multiplier"),
        Heading("anti-steerable", "of examples"),
        Heading("monotonicity", "−1 to 1"),
        *([] if probe is None else [Heading("probe AUROC", "0.5 is guessing")]),
        Heading("best gain in budget", "nats"),
        Heading("at multiplier"),
        Heading("for KL", "nats per token"),
    ]
    order = range(len(numbers.rows))
    if numbers.layers is not None:
        order = order[::-1]
    rows = tuple(_row_cells(numbers, probe, i) for i in order)
    marked = None if found.cell is None else list(order).index(numbers.find(found.cell.row))
    stream = next((site.stream for site in numbers.sites if site is not None), "")
    caption = "" if numbers.layers is None else f"Stream `{stream}`; layers count from 0."
    title = "Layer by layer" if numbers.layers is not None else "Intervention by intervention"
    return Section(title, (Paragraph(lead), Table(tuple(head), rows, caption, marked)))


def _row_cells(numbers: MapNumbers, probe: ProbeMap | None, i: int) -> tuple[str, ...]:
    """The table's row of one row of the map."""
    gains = numbers.oriented.mean(-1)[i].masked_fill(~numbers.within_budget[i], -torch.inf)
    j = int(gains.argmax())
    rank = numbers.monotonicity[i]
    best = ("none", NOTHING, NOTHING)
    if bool(gains[j] > 0):
        dagger = " †" if numbers.nulls and not bool(numbers.exceeds[i, j]) else ""
        best = (
            f"{interval_at(numbers.gain_interval, i, j)}{dagger}",
            format_signed(numbers.multipliers[j]),
            format_number(numbers.cost[i, j]),
        )
    return (
        str(numbers.row_labels[i]),
        interval_at(numbers.slope_interval, i),
        format_percent(numbers.anti_steerable[i]),
        format_number(rank[~rank.isnan()].mean()),  # constant examples have no rank correlation
        *([] if probe is None else [_auroc(probe, numbers.sites[i])]),
        *best,
    )


def _auroc(probe: ProbeMap, site: Site | None) -> str:
    """AUROC at a site; a dash where it was not probed."""
    if site not in probe.sites:
        return NOTHING
    return format_interval(probe.auroc_at(probe.sites.index(site)))
