"""Pictures of ways side by side, of the numbers of a `WayComparison`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.comparison.concept_numbers import ConceptNumbers
from steerlens.analyses.comparison.criterion import Compared, Criterion
from steerlens.analyses.comparison.crossed import as_ratio, crossed_interval
from steerlens.analyses.comparison.verdicts import Constraints, Judged, in_words, verdicts
from steerlens.stats import Bounds

if TYPE_CHECKING:
    import plotly.graph_objects as go

SPOKES = (
    "share", "gain", "written share", "utility", "well-formed", "wrong way", "other concepts",
    "in cache", "seconds", "overhead", "parameters",
)  # fmt: skip
"""The criteria that a radar shows, where they were measured."""
AFTER = {
    "kept": "the cache kept",
    "recomputed": "the cache recomputed: the text alone",
    "in_cache": "the cache alone, on the same text",
}


@runtime_checkable
class Drawn(Compared, Judged, Protocol):
    """What the pictures are made of."""

    @property
    def budget(self) -> float: ...
    @property
    def multipliers(self) -> Float[Tensor, " multiplier"]: ...
    @property
    def gain_curve(self) -> Bounds: ...
    @property
    def kl_curve(self) -> Bounds: ...
    @property
    def utility_curve(self) -> Bounds: ...
    @property
    def criteria(self) -> tuple[Criterion, ...]: ...
    @property
    def ranking(self) -> list[int]: ...


def tradeoff(result: Drawn) -> go.Figure:
    """Gain and change of utility over KL, a line for each way."""
    gain, kl, utility = result.gain_curve, result.kl_curve[0], result.utility_curve
    return plots.way_curves(
        {
            way: (
                kl[i].tolist(),
                tuple(part[i].tolist() for part in gain),
                tuple(part[i].tolist() for part in utility),
            )
            for i, way in enumerate(result.ways)
            if bool(kl[i].isfinite().any())
        },
        budget=result.budget,
        title=f"What {len(result.ways)} ways gain, and what they do to utility, over their cost",
    )


def nearness(result: Drawn) -> go.Figure:
    """The share of the way to the ideal over each way's own multiplier."""
    found = crossed_interval(
        [_shares(one) for one in result.each],
        [stats.group_numbers(one.nearness.groups) for one in result.each],  # type: ignore[union-attr]
    )
    return plots.nearness_curves(
        _by_way(result.ways, found),
        multipliers=result.multipliers.tolist(),
        title="How near each way comes to the ideal, over its own multiplier",
    )


def _shares(one: ConceptNumbers) -> Tensor:
    """Numbers [way, multiplier, repeat, text] whose mean is the share at each own multiplier."""
    assert one.nearness is not None
    curve = one.nearness.curve.transpose(1, 2)
    return 1 - as_ratio(curve, one.nearness.unsteered.expand_as(curve))


def afterwards(result: Drawn) -> go.Figure:
    """KL by tokens since the switch-off, a panel for each state of the cache."""
    panels = {}
    for field, title in AFTER.items():
        parts = [getattr(one.afterwards, field).permute(0, 3, 1, 2) for one in result.each]
        panels[title] = _by_way(result.ways, crossed_interval(parts, [None for _ in parts]))
    return plots.fading_curves(
        panels, title="What each way leaves in a text, by tokens since it was switched off"
    )


def criteria(result: Drawn) -> go.Figure:
    """A panel for each criterion: every way with its interval."""
    order = result.ranking
    return plots.criteria_dots(
        {
            criterion.short: (
                tuple(_finite(part[order]).tolist() for part in result.criterion(criterion.name)),
                criterion.unit,
                criterion.log,
                criterion.better,
            )
            for criterion in result.criteria
        },
        rows=[result.ways[i] for i in order],
        title="Every way by every criterion",
    )


def spokes(result: Drawn) -> tuple[dict[str, plots.Spoke], list[str]]:
    """The spokes of a radar, and the names of criteria that are the same for every way."""
    found, same, order = {}, [], result.ranking
    for criterion in result.criteria:
        if criterion.name not in SPOKES:
            continue
        bounds = [_finite(part[order]).tolist() for part in result.criterion(criterion.name)]
        ends = plots.spoke_scale(bounds[0], log=criterion.log, better=criterion.better)
        if ends[0] == ends[1]:
            same.append(criterion.short)
            continue
        unit = f" {criterion.unit}" if criterion.unit in ("nats", "s") else ""
        scale = ", log" if criterion.log else ""
        words = criterion.written(ends[0]), f"{criterion.written(ends[1])}{unit}{scale}"
        found[criterion.short] = plots.Spoke(
            tuple(bounds), criterion.unit, criterion.log, criterion.better, words, ends
        )
    return found, same


def radar(result: Drawn) -> go.Figure:
    """A circle for each way, the best by `ranked_by` first."""
    found, same = spokes(result)
    note = f"Left out, the same for every way: {', '.join(same)}." if same else ""
    return plots.criteria_radar(
        found,
        rows=[result.ways[i] for i in result.ranking],
        title="Every way by the chief criteria, each on its own scale",
        note=note,
    )


def decisions(result: Drawn, asked: Constraints) -> go.Figure:
    """A row for each way, the best by `ranked_by` on top, and a column for each constraint."""
    order, words = result.ranking, in_words(asked)
    judged = verdicts(result, asked)
    return plots.decision_matrix(
        {
            words[field]: [(each[i].outcome, each[i].found, each[i].why) for i in order]
            for field, each in judged.items()
        },
        rows=[result.ways[i] for i in order],
        title="Which ways meet which constraints",
        note="Each constraint by itself, held against the estimate; the reason is on hover.",
    )


def _by_way(ways: Sequence[str], bounds: Bounds) -> dict[str, tuple[Any, Any, Any]]:
    value, low, high = bounds
    return {
        way: (value[i].tolist(), low[i].tolist(), high[i].tolist()) for i, way in enumerate(ways)
    }


def _finite(x: Tensor) -> Tensor:
    """The numbers, without those that no axis shows: tokens beyond what was read."""
    return x.masked_fill(x.isinf(), torch.nan)
