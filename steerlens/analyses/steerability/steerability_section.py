"""What a steerability map says on the report page."""

from __future__ import annotations

from functools import partial

from steerlens.analyses.probe.probe_map import ProbeMap
from steerlens.analyses.steerability import map_answer, map_figures, map_parts
from steerlens.analyses.steerability.map_numbers import MapNumbers
from steerlens.analyses.steerability.recommendation import recommend
from steerlens.analyses.steerability.row_words import row_word
from steerlens.report.section import Figure, Section


def steerability_section(numbers: MapNumbers, probe: ProbeMap | None) -> Section:
    """The section of a map.

    Args:
        probe: A probe of the same contrast. Its AUROC is shown for the rows whose site was probed.
    """
    found = recommend(numbers)
    parts = [] if numbers.parts is None else [map_parts.mediated(numbers)]
    parts += [map_parts.doses(numbers), map_parts.tradeoff(numbers), map_parts.slopes(numbers)]
    if probe is not None and numbers.covered_by(probe):
        parts.append(map_parts.against(numbers, probe))
    parts += [map_parts.others(numbers, found), map_parts.by_row(numbers, probe, found)]
    caption = map_parts.how_to_read(numbers)
    return Section(
        title=f"Map: every {row_word(numbers)} at every multiplier",
        short="Map",
        blocks=(Figure(partial(map_figures.map_figure, numbers), caption),),
        parts=tuple(parts),
        question=str(numbers.made_by.get("question", "")),
        answer=tuple(map_answer.answer(numbers, found)),
        introduction=(map_answer.introduction(numbers),),
        facts=tuple(map_answer.facts(numbers, found)),
        limits=tuple(map_answer.limits(numbers)),
    )
