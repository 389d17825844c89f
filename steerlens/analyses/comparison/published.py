"""What others judged of families of ways, beside what is measured and never mixed with it."""

from __future__ import annotations

from collections.abc import Sequence

from steerlens.report.section import Heading, Paragraph, Section, Table

CRITERIA = (
    "reliability", "generalisation", "specificity", "computation", "data", "composability",
    "usability", "reversibility",
)  # fmt: skip
JUDGED: dict[str, str] = {
    "prompting": "000+++++",
    "fine-tuning": "++−−−−−−",
    "LoRA, adapters": "++0+0+−+",
    "steering by differences": "+0+++00+",
    "steering by training": "+++0000+",
    "steering by dictionaries": "0++−−00+",
}
"""Family -> a judgement for each criterion: + good, 0 mixed, − weak."""
FAMILIES: dict[str, str] = {
    "DiffMean": "steering by differences", "prompt": "prompting", "full weights": "fine-tuning",
    "LoRA": "LoRA, adapters", "post-block": "LoRA, adapters", "joint": "LoRA, adapters",
    "local weight": "fine-tuning", "vector": "steering by training",
    "LoReFT": "steering by training", "ReFT-r1": "steering by training",
    "adapter": "steering by training", "soft prefix": "prompting",
    "clamp": "steering by differences", "SADI heads": "steering by differences",
    "nudge": "steering by training",
}  # fmt: skip
"""The family to which a way is counted here, by its name up to the first comma."""


def published_judgements(ways: Sequence[str]) -> Section:
    """The judgements of arXiv:2604.14090 for the families of these ways."""
    families: dict[str, list[str]] = {}
    for way in ways:
        family = FAMILIES.get(way.partition(",")[0].partition("(")[0])
        if family is not None:
            families.setdefault(family, []).append(way)
    rows = tuple(
        (family, ", ".join(families[family]), *judged)
        for family, judged in JUDGED.items()
        if family in families
    )
    head = (Heading("family", number=False), Heading("ways here", number=False))
    return Section(
        title="What was published: judgements, not measurements",
        short="Published judgements",
        blocks=(
            Paragraph(
                "Judgements of arXiv:2604.14090, a paper without experiments of its own, as notes on "
                "it report them: + good, 0 mixed, − weak. They are of families, not of the ways above, "
                "and nothing above is made of them."
            ),
            Table((*head, *(Heading(name, number=False) for name in CRITERIA)), rows),
        ),
    )
