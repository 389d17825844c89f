"""The page over many runs: it opens offline and leads to the page of each run."""

from __future__ import annotations

from collections.abc import Mapping

from steerlens.report.page import LOOK, OF_ANY_DATA, Drawing, environment, parts_of, properties
from steerlens.report.section import Facts, Section


def grid_page(section: Section, *, meta: str, fields: Mapping[str, str], version: str) -> str:
    """The page of a grid of runs, as HTML, laid out like that of a run.

    Args:
        section: What was found. Its question is the title.
        meta: A line below the title.
        fields: The fields that differ between the runs, with their values in words.
        version: Of steerlens.
    """
    drawing = Drawing()
    parts = list(parts_of({"runs": section}))
    contents = [("answer", "Answer"), *((part.anchor, part.name) for part in parts)]
    return environment().get_template("grid.html.jinja").render(
        question=section.question,
        meta=meta,
        contents=[*contents, ("rerun", "Run it again"), ("limits", "Limits")],
        answer=section.answer,
        introduction=section.introduction,
        facts=drawing.html(Facts(section.facts), "answer"),
        sections=[
            {
                "anchor": part.anchor,
                "title": part.title,
                "blocks": [drawing.html(block, part.anchor) for block in part.blocks],
            }
            for part in parts
        ],
        limits=[*section.limits, OF_ANY_DATA],
        fields=properties(fields),
        version=version,
        **LOOK,
    )  # fmt: skip
