"""The figures of a steerability map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.confirmation.writing_verdict import NOT_LOOKED
from steerlens.analyses.probe.probe_map import ProbeMap
from steerlens.analyses.steerability.map_numbers import MapNumbers
from steerlens.analyses.steerability.recommendation import UNTESTED, Recommendation, recommend
from steerlens.results import Cell
from steerlens.sites import Site

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_LINES = 4
"""Rows of the dose-response figure, where none are named."""


def map_figure(numbers: MapNumbers) -> go.Figure:
    """Row x multiplier: mean gain, with the null and the budget marked and the score beside."""
    found = recommend(numbers)
    score, low, high = numbers.row_score_interval
    steered = numbers.multipliers.sign() != 0
    above = numbers.above_null
    rows = "intervention" if numbers.layers is None else "layer"
    return plots.steerability_figure(
        numbers.gains.mean(-1).tolist(),
        rows=numbers.row_labels,
        columns=numbers.multipliers.tolist(),
        unit="nats",
        quantity="gain",
        title=_of_data(numbers, f"Gain in log-odds by {rows} and multiplier"),
        note=" ".join(filter(None, ["" if numbers.nulls else UNTESTED, _in_writing(found)])),
        column_title=_with_unit(numbers, "multiplier"),
        best=_marked(numbers, found.cell),
        below_null=None if above is None else (~above & steered).tolist(),
        over_budget=(~numbers.within_budget).tolist(),
        hover=_hover(numbers),
        score=score.tolist(),
        score_unit="nats",
        score_low=low.tolist(),
        score_high=high.tolist(),
        score_title=f"gain within {numbers.budget:g} nats of KL",
    )


def _marked(numbers: MapNumbers, cell: Cell | None) -> tuple[int | str, float] | None:
    """The label of a cell's row and its multiplier, where a figure marks it."""
    if cell is None:
        return None
    return numbers.row_labels[numbers.find(cell.row)], cell.multiplier


def _in_writing(found: Recommendation) -> str:
    """The verdict on the best cell's texts, for the line below the title."""
    if found.cell is None:
        return ""
    verdict = NOT_LOOKED if found.written is None else found.written.verdict
    return f"The best cell in writing: {verdict}."


def _written_there(numbers: MapNumbers, i: int, j: int) -> str:
    """The verdict on a cell's texts, for its hover."""
    found = numbers.written_at(numbers.cell(i, j))
    return "" if found is None else f"<br>in writing: {found.verdict}"


def mediated_figure(numbers: MapNumbers) -> go.Figure:
    """Row x multiplier: mean mediated gain, with the best cell by it marked."""
    chosen = recommend(numbers, by="mediated").cell  # refuses a map without parts
    parts = numbers.parts
    assert parts is not None
    rows = "intervention" if numbers.layers is None else "layer"
    gain, direct = numbers.oriented.mean(-1), parts.direct_interval[0]
    mean, low, high = parts.mediated_interval
    hover = [
        [
            f"{numbers.cell(i, j)}<br>oriented gain {gain[i, j]:.3g} nats: mediated "
            f"{mean[i, j]:.3g} [{low[i, j]:.3g}, {high[i, j]:.3g}], direct {direct[i, j]:.3g}"
            for j in range(len(numbers.multipliers))
        ]
        for i in range(len(numbers.rows))
    ]
    return plots.layer_heatmap(
        parts.mediated.mean(-1).tolist(),
        rows=numbers.row_labels,
        columns=numbers.multipliers.tolist(),
        unit="nats",
        quantity="mediated gain",
        title=_of_data(numbers, f"Gain through later blocks, by {rows} and multiplier"),
        note="The direct part, of the step itself, is left out.",
        column_title=_with_unit(numbers, "multiplier"),
        best=_marked(numbers, chosen),
        over_budget=(~numbers.within_budget).tolist(),
        hover=hover,
    )


def _hover(numbers: MapNumbers) -> list[list[str]]:
    mean, low, high = numbers.gain_interval
    change = numbers.utility_change
    parts = [[""] * len(numbers.multipliers) for _ in numbers.rows]
    if numbers.parts is not None:
        shares = zip(
            numbers.parts.direct_interval[0].tolist(), numbers.parts.known.tolist(), strict=True
        )
        parts = [[f", {x:.3g} of it direct" if known else "" for x in row] for row, known in shares]
    return [
        [
            f"{numbers.cell(i, j)}<br>oriented gain {mean[i, j]:.3g} "
            f"[{low[i, j]:.3g}, {high[i, j]:.3g}] nats{parts[i][j]}<br>"
            f"KL {numbers.cost[i, j]:.3g} nats per token<br>utility {change[i, j]:+.3g} nats"
            f"{_written_there(numbers, i, j)}"
            for j in range(len(numbers.multipliers))
        ]
        for i in range(len(numbers.rows))
    ]


def dose_response_figure(
    numbers: MapNumbers, rows: Sequence[str | int | Site] | None = None
) -> go.Figure:
    """Propensity over multipliers in some rows, with the cost below."""
    chosen = numbers.best_rows(MOST_LINES) if rows is None else [numbers.find(r) for r in rows]
    bands = stats.mean_interval(numbers.propensities, numbers.groups)
    cost = numbers.cost
    return plots.dose_response(
        {numbers.row_name(i): _lists(tuple(x[i] for x in bands)) for i in chosen},
        multipliers=numbers.multipliers.tolist(),
        unit="nats",
        quantity="propensity",
        title="Propensity against steering strength",
        cost={numbers.row_name(i): cost[i].tolist() for i in chosen},
        cost_unit="nats per token",
        cost_quantity="KL",
        budget=numbers.budget,
        multiplier_unit=numbers.made_by.get("unit", ""),
    )


def slopes_figure(numbers: MapNumbers) -> go.Figure:
    """The steerability slope of every example in every row."""
    return plots.example_slopes(
        numbers.slopes.tolist(),
        rows=numbers.row_labels,
        unit="nats per unit multiplier",
        title="Steerability of every example",
    )


def tradeoff_figure(numbers: MapNumbers) -> go.Figure:
    """Gain against cost of every cell with a multiplier above 0, with the efficient frontier."""
    chosen = recommend(numbers).cell
    above_zero = (numbers.multipliers > 0).nonzero()[:, 0].tolist()
    cells = [(i, j) for i in range(len(numbers.rows)) for j in above_zero]
    mean, cost = numbers.oriented.mean(-1), numbers.cost
    return plots.tradeoff(
        [float(mean[cell]) for cell in cells],
        [float(cost[cell]) for cell in cells],
        labels=[str(numbers.cell(*cell)) for cell in cells],
        rows=[numbers.row_labels[i] for i, _ in cells],
        gain_unit="nats",
        cost_unit="nats per token",
        cost_quantity="KL",
        title="What each cell gains and costs",
        budget=numbers.budget,
        best=None if chosen is None else str(chosen),
    )


def against_probe_figure(numbers: MapNumbers, probe: ProbeMap) -> go.Figure:
    """How readable the contrast is, and how steerable, row by row."""
    correlation = numbers.probe_correlation(probe)
    known = correlation.value == correlation.value  # not NaN
    return plots.probe_against_steering(
        _lists(numbers.auroc_of(probe)),
        _lists(numbers.row_score_interval),
        rows=numbers.row_labels,
        probe_unit="AUROC",
        steering_unit="nats",
        probe_quantity="probe",
        steering_quantity="gain within the budget",
        title="Readable is not steerable",
        correlation=correlation if known else None,
    )


def _lists(band: tuple[Tensor, ...]) -> tuple[list[float], ...]:
    return tuple(x.tolist() for x in band)


def _of_data(numbers: MapNumbers, title: str) -> str:
    name = numbers.made_by.get("data_name")
    return f"{title}, {name}" if name else title


def _with_unit(numbers: MapNumbers, what: str) -> str:
    unit = numbers.made_by.get("unit")
    return f"{what} ({unit})" if unit else what
