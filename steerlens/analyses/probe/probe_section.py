"""What a probe says on the report page."""

from __future__ import annotations

from functools import partial

from steerlens.analyses.probe.probe_figure import probe_figure
from steerlens.analyses.probe.probe_scores import ProbeScores
from steerlens.report.numbers import format_interval, format_number, format_share
from steerlens.report.section import Figure, Heading, Section, Table


def probe_section(scores: ProbeScores, *, with_map: bool) -> Section:
    """The section of a probe.

    Args:
        with_map: Whether a steerability map is on the page: its section has a table by layer, and
            introduces the page.
    """
    layers = scores.layers
    best = scores.best_row
    where = str(scores.best) if layers is None else f"layer {layers[best]}"
    auroc, accuracy = format_interval(scores.best_auroc), format_share(scores.accuracy_at(best))
    control = _control(scores)
    found = "" if with_map or not control else f" With shuffled labels, AUROC is {control}."
    name = scores.made_by.get("data_name") or "the contrast"
    shuffled = (
        f" The same with shuffled labels, where there is nothing to find, has an AUROC of {control} "
        "over layers and repetitions."
        if control
        else ""
    )
    caption = (
        f"Best at {where}: AUROC {auroc} (the probability that a positive text scores above a "
        f"negative one; in each fold that of the site that is best on the other folds), accuracy "
        f"{accuracy}, cross-validated over {scores.examples} with no question in two folds.{shuffled}"
    )
    return Section(
        title="Probe: where the contrast can be read",
        short="Probe",
        blocks=(Figure(partial(probe_figure, scores), caption),),
        parts=() if with_map else (_by_layer(scores),),
        question=f"At which layers can {name} be read?",
        answer=(
            f"A probe reads the contrast best at **{where}**: AUROC {auroc}, where 0.5 is guessing "
            f"and 1 is perfect.{found}",
        ),
        introduction=() if with_map else (_introduction(),),
        limits=(
            "**What can be read need not be used.** A probe shows that a layer holds the contrast, "
            "not that the model acts on it.",
        ),
    )


def _introduction() -> str:
    return (
        "A **probe** scores a text by how far the model's residual stream (the running sum that its "
        "layers read and write) lies along a direction that separates positive from negative texts. "
        "It is judged on texts that did not make the direction. Brackets hold 95% intervals."
    )


def _control(scores: ProbeScores) -> str:
    """The range of the control's AUROC; empty without a control."""
    if not len(scores.control):
        return ""
    ends = scores.control_auroc.min(), scores.control_auroc.max()
    return " to ".join(map(format_number, ends))


def _by_layer(scores: ProbeScores) -> Section:
    """The table with a row for each site, the last layer first."""
    layers = scores.layers
    order = range(len(scores.sites))
    if layers is not None:
        order = order[::-1]
    rows = tuple(
        (
            str(scores.row_labels[i]),
            format_interval(scores.auroc_at(i)),
            format_share(scores.accuracy_at(i)),
        )
        for i in order
    )
    head = (
        Heading("site", number=False) if layers is None else Heading("layer"),
        Heading("probe AUROC", "0.5 is guessing"),
        Heading("accuracy", "of texts"),
    )
    stream = f"Stream `{scores.sites[0].stream}`; layers count from 0. " if layers else ""
    caption = f"{stream}Cross-validated over {scores.scores.shape[1]} pairs."
    return Section("Layer by layer" if layers else "Site by site", (Table(head, rows, caption),))
