"""The runs of a grid as figures, and as the section of their page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from steerlens import plots
from steerlens.grid.grid_cells import in_short
from steerlens.report.numbers import format_interval
from steerlens.report.section import Block, Figure, Heading, Listing, Paragraph, Section, Table
from steerlens.stats import Interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

UNITS = {"gain": "nats", "cost": "nats of KL per token", "written": "share"}
"""Units of columns; others have none."""
FIRST = ("gain", "auroc")
"""What is shown where nothing else is asked for."""
MOST_DOTS = 60
"""Runs of which every one is drawn on the page."""


@runtime_checkable
class RunLike(Protocol):
    """A run as the views read it."""

    @property
    def values(self) -> Mapping[str, Any]: ...
    @property
    def numbers(self) -> Mapping[str, float]: ...
    @property
    def headline(self) -> Mapping[str, str]: ...
    @property
    def error(self) -> str: ...
    @property
    def folder(self) -> Path: ...


Runs = Sequence[RunLike]
Fields = Mapping[str, Sequence[Any]]


def heatmap(
    runs: Runs, fields: Fields, quantity: str | None, rows: str | None, columns: str | None
) -> go.Figure:
    """A quantity over two fields; the mean over all others."""
    what = quantity_of(runs, quantity)
    down, across = _axes(fields, rows, columns)
    if down is None:
        return dots(runs, fields, what)
    labels = {name: short_labels(fields[name]) for name in (down, across)}
    shape = (len(fields[down]), len(fields[across]))
    means = np.full(shape, np.nan)
    null = np.zeros(shape, bool)
    hover = np.full(shape, "", object)
    for r, c in np.ndindex(shape):
        inside = [
            run
            for run in runs
            if run.values[down] == fields[down][r] and run.values[across] == fields[across][c]
        ]
        found = [run for run in inside if _number(run, what) == _number(run, what)]
        if found:
            means[r, c] = float(np.mean([_number(run, what) for run in found]))
            if what == "gain":
                null[r, c] = all(run.numbers.get("above_null", 1.0) == 0 for run in found)
        others = [name for name in fields if name not in (down, across)]
        hover[r, c] = "<br>".join(_hovered(run, what, others, fields) for run in inside)
    others = [name for name in fields if name not in (down, across) and len(fields[name]) > 1]
    note = f"Each cell is the mean over {' and '.join(others)}." if others else ""
    return plots.run_heatmap(
        means, rows=labels[down], columns=labels[across], row_title=down, column_title=across,
        unit=UNITS.get(what, ""), quantity=what, title=f"{what.capitalize()} by {down} and {across}",
        below_null=null, hover=hover.tolist(), note=note,
    )  # fmt: skip


def dots(runs: Runs, fields: Fields, quantity: str | None) -> go.Figure:
    """A quantity of every finished run, with its interval."""
    what = quantity_of(runs, quantity)
    kept = [run for run in runs if _number(run, what) == _number(run, what)]
    labels = {name: dict(zip(map(repr, values), short_labels(values), strict=True))
              for name, values in fields.items()}  # fmt: skip
    several = [name for name, values in fields.items() if len(values) > 1] or list(fields)
    names = [
        ", ".join(
            labels[name][repr(run.values[name])]
            if isinstance(run.values[name], str)
            else f"{name} {labels[name][repr(run.values[name])]}"
            for name in several
        )
        for run in kept
    ]
    triple = tuple(
        np.asarray([run.numbers.get(f"{what}{end}", math.nan) for run in kept])
        for end in ("", "_low", "_high")
    )
    first = several[0]
    groups = [f"{first} {labels[first][repr(run.values[first])]}" for run in kept]
    one_colour = len(several) == 1 or len(set(groups)) > 7
    chance = [what == "gain" and run.numbers.get("above_null", 1.0) == 0 for run in kept]
    has = bool(np.isfinite(triple[1]).any())
    return plots.run_dots(
        (triple[0], triple[1], triple[2]), names=names,
        groups=["all"] * len(kept) if one_colour else groups,
        unit=UNITS.get(what, ""), quantity=what, title=f"{what.capitalize()} of every run",
        below_null=np.asarray(chance), note="Bars: 95% intervals." if has else "",
    )  # fmt: skip


def quantity_of(runs: Runs, asked: str | None) -> str:
    """The quantity that is shown.

    Raises:
        ValueError: If no run has it.
    """
    known = list(dict.fromkeys(name for run in runs for name in run.numbers))
    if not known:
        raise ValueError(
            "No run has a number to show: none finished, or their results state no "
            "`headline_numbers`."
        )
    if asked is None:
        return next((name for name in FIRST if name in known), known[0])
    if asked not in known:
        raise ValueError(f"There is no quantity {asked!r}. There are {', '.join(known)}.")
    return asked


def _axes(fields: Fields, rows: str | None, columns: str | None) -> tuple[str | None, str]:
    """The field that goes down and the one that goes across; None where there is only one."""
    for name in (rows, columns):
        if name is not None and name not in fields:
            raise ValueError(f"The grid has no field {name!r}. It has {', '.join(fields)}.")
    if rows is not None and rows == columns:
        raise ValueError(f"rows and columns are both {rows!r}. Name two fields.")
    free = [name for name, values in fields.items() if len(values) > 1]
    free += [name for name in fields if name not in free]
    # Models and contrasts are what a reader looks for first; seeds are averaged over.
    free.sort(key=lambda name: name == "seed")
    left = [name for name in free if name not in (rows, columns)]
    if rows is None and columns is None and len(left) == 1:
        return None, left[0]
    down = rows if rows is not None else next((n for n in left), None)
    across = columns if columns is not None else next((n for n in left if n != down), None)
    if down is None or across is None:
        return None, down or across or next(iter(fields))
    return down, across


def section(runs: Runs, fields: Fields, question: str) -> Section:
    """What the runs say on the page of their grid."""
    failed = [run for run in runs if run.error]
    blocks: list[Block] = []
    answer = [f"{len(runs) - len(failed)} of {len(runs)} runs are finished."]
    if any(run.numbers for run in runs):
        what = quantity_of(runs, None)
        best = max(runs, key=lambda run: _or_least(_number(run, what)))
        words = ", ".join(f"{name} {in_short(value)}" for name, value in best.values.items())
        answer.insert(
            0, f"**{what.capitalize()} is largest at {words}**: {with_interval(best, what)}."
        )
        if what == "gain" and best.numbers.get("above_null", 1.0) == 0:
            answer.insert(1, "That is no more than chance allows, and so is every other run's.")
        several = sum(len(values) > 1 for values in fields.values())
        if several > 1:
            blocks.append(Figure(lambda: heatmap(runs, fields, None, None, None), CAPTION))
        if len(runs) <= MOST_DOTS:
            blocks.append(Figure(lambda: dots(runs, fields, None)))
    blocks.append(_table(runs, fields))
    if failed:
        blocks.append(Paragraph("**Failed runs**, which the same grid begins again:"))
        blocks.append(Listing(tuple(f"`{_named(run)}`: {run.error}" for run in failed)))
    return Section(
        "Runs", tuple(blocks), question=question, answer=tuple(answer),
        limits=(
            "The largest of many runs is too large on average: its interval does not account for "
            "the choice among them.",
        ),
    )  # fmt: skip


CAPTION = (
    "A ring stands where no run gains more than its null maps. Hover for the runs behind a cell."
)


def _named(run: RunLike) -> str:
    return " ".join(f"{name}={in_short(value)}" for name, value in run.values.items())


def _table(runs: Runs, fields: Fields) -> Table:
    """Every run with its numbers, leading to its page."""
    names = list(dict.fromkeys(name for run in runs for name in run.numbers))
    shown = [n for n in names if not n.endswith(("_low", "_high")) and n not in ("held_out",)]
    head = [Heading(name, number=False) for name in fields]
    head += [Heading(name, UNITS.get(name, "")) for name in shown]
    rows = []
    for run in runs:
        words = [in_short(run.values[name]) for name in fields]
        if run.error:
            rows.append((*words, *("failed" if k == 0 else "–" for k in range(len(shown)))))
        else:
            rows.append((*words, *(with_interval(run, name) for name in shown)))
    links = tuple(None if run.error else f"../{run.folder.name}/report.html" for run in runs)
    return Table(tuple(head), tuple(rows), "The first column leads to the page of a run.",
                 links=links)  # fmt: skip


def with_interval(run: RunLike, what: str) -> str:
    """A number of a run with its interval, where it has one."""
    of = run.numbers
    if what not in of:
        return "–"
    if what in ("above_null", "held_out"):
        return "yes" if of[what] else "no"
    low, high = of.get(f"{what}_low", math.nan), of.get(f"{what}_high", math.nan)
    return format_interval(Interval(of[what], low, high))


def _number(run: RunLike, what: str) -> float:
    return run.numbers.get(what, math.nan)


def _or_least(value: float) -> float:
    return -math.inf if value != value else value


def _hovered(run: RunLike, what: str, others: Sequence[str], fields: Fields) -> str:
    where = ", ".join(f"{n} {in_short(run.values[n])}" for n in others if len(fields[n]) > 1)
    said = "failed" if run.error else f"{what} {with_interval(run, what)}"
    if not run.error and (cell := run.headline.get("cell")):
        said += f" at {cell}" if cell != "none" else ", no cell chosen"
    return f"{where}: {said}" if where else said


def short_labels(values: Sequence[Any]) -> list[str]:
    """Values as labels that differ, without what they need not say.

    Arguments of methods, the folders of files and their endings, and "reviews/" are left out where
    the labels differ without them.

    >>> short_labels(["data/a.jsonl", "data/b.jsonl"]), short_labels(["LDA()", "PCA(centred=True)"])
    (['a', 'b'], ['LDA', 'PCA'])
    """
    whole = [in_short(value) for value in values]
    for shorter in (_without_arguments, _without_folders):
        tried = [shorter(text) for text in whole]
        if len(set(tried)) == len(tried) and all(tried):
            whole = tried
    return whole


def _without_arguments(text: str) -> str:
    return text.partition("(")[0] if text.endswith(")") else text


def _without_folders(text: str) -> str:
    path = PurePath(text)
    return path.stem if path.suffix.isascii() and path.suffix[1:].isalpha() else path.name
