"""How far each row and multiplier moves behaviour, at what cost, and which cell to use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from steerlens import stats
from steerlens.analyses.confirmation.writing_verdict import NOT_LOOKED, WritingVerdict
from steerlens.analyses.confirmation.written_effect import WrittenEffect
from steerlens.analyses.probe.probe_map import ProbeMap
from steerlens.analyses.steerability import map_figures
from steerlens.analyses.steerability.confirmation import Confirmation
from steerlens.analyses.steerability.gain_words import mostly_direct
from steerlens.analyses.steerability.map_headline import headline_numbers
from steerlens.analyses.steerability.map_numbers import MapNumbers
from steerlens.analyses.steerability.recommendation import (
    UNTESTED,
    Quantity,
    Recommendation,
    recommend,
)
from steerlens.analyses.steerability.steerability_section import steerability_section
from steerlens.results import Cell, Result, labelled
from steerlens.sites import Site

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from steerlens.report.section import Section


@dataclass(frozen=True, eq=False, repr=False)
class SteerabilityMap(MapNumbers):
    """Propensity and cost of every row, multiplier and example, and the cell to use.

    The fields are those of `MapNumbers`; everything else is derived from them.
    """

    def recommend(
        self, *, towards: int = 1, budget: float | None = None, by: Quantity = "gain"
    ) -> Recommendation:
        """The cell with the largest gain within the budget and above the null, and why not others.

        Without null maps a cell only has to gain more than 0, and the recommendation says so.

        Args:
            towards: 1 to have more of the behaviour (positive multipliers), -1 to have less.
            budget: KL in nats per token; by default the map's own.
            by: "gain", or "mediated" for the largest part of a gain that later blocks make of the
                step: a gain that is mostly direct raises the asked answer and may write nothing.

        Raises:
            ValueError: If there is no multiplier of the asked sign, or by="mediated" and no gain
                has parts.
        """
        asked = repr((towards, budget, by))
        if asked not in self._recommended:
            self._recommended[asked] = recommend(self, towards=towards, budget=budget, by=by)
        return self._recommended[asked]

    @cached_property
    def _recommended(self) -> dict[str, Recommendation]:
        """What was asked before: a page asks twenty times."""
        return {}

    @property
    def chosen(self) -> Cell | None:
        """The cell that `recommend` chooses."""
        return self.recommend().cell

    @property
    def headline(self) -> Mapping[str, str]:
        """The chosen cell with its gain and cost, held out where they were measured so."""
        found, held = self.recommend(), self.confirmation
        if found.cell is None:
            return {"cell": "none"}
        gain = found.gain if held is None else held.gain
        cost = f"{found.cost:.3g}" if held is None else str(held.cost)
        return {"cell": str(found.cell), "gain": f"{gain} nats", "cost": f"{cost} nats of KL"}

    @property
    def headline_numbers(self) -> Mapping[str, float]:
        """Gain and cost of the chosen cell, or of the strongest one where none was chosen."""
        return headline_numbers(self, self.recommend())

    def with_confirmation(self, confirmation: Confirmation) -> SteerabilityMap:
        """The same map with the held-out numbers of its chosen cell."""
        return replace(self, confirmation=confirmation)

    def with_writing(self, found: WrittenEffect | Sequence[WritingVerdict]) -> SteerabilityMap:
        """The same map with what is claimed of the cells whose texts were read."""
        return replace(
            self, written=found.verdicts if isinstance(found, WrittenEffect) else tuple(found)
        )

    # Words

    def summary(self) -> str:
        """A few lines: best cell, effect with interval, cost, null."""
        found = self.recommend()
        question = self.made_by.get("question", "Steerability")
        lines = [f"{question} ({self.made_by.get('model', '')})"]
        if found.cell is None:
            lines.append(str(found).splitlines()[0])
        else:
            unit = self.made_by.get("unit")
            change = float(self.utility_change[self.index(found.cell)])
            lines += [
                labelled("best cell", f"{found.cell} ({unit})" if unit else str(found.cell)),
                labelled(
                    "gain",
                    f"{found.gain} nats on {self.examples}",
                ),
                labelled(
                    "cost",
                    f"{found.cost:.3g} nats of KL per token (budget {self.budget:g}), "
                    f"utility {change:+.3g} nats",
                ),
            ]
            lines.append(labelled("in writing", str(found.written or NOT_LOOKED)))
            if note := mostly_direct(self, found):
                lines.append(labelled("direct", note))
        if found.backwards:
            lines.append(labelled("wrong way", found.backwards))
        if found.outside:
            lines.append(labelled("too costly", found.outside))
        lines.append(labelled("chance", self._null_in_words()))
        if few := stats.too_few(self.groups, self.gains.shape[-1], "examples"):
            lines.append(labelled("few", few))
        if self.confirmation is not None:
            lines.append(labelled("held out", str(self.confirmation)))
        return "\n".join(lines)

    def _null_in_words(self) -> str:
        if not self.nulls:
            return UNTESTED
        parts = ", ".join(
            f"{n.p_value:.3g} against {n.maps} maps of {name}" for name, n in self.nulls.items()
        )
        larger = "the larger of " if len(self.nulls) > 1 else ""
        return f"p = {self.p_value:.3g} (best of all {self.cost.numel()} cells; {larger}{parts})"

    def section(self, beside: Mapping[str, Result]) -> Section:
        """What the map says on the report page, together with a probe of the same sites."""
        probe = beside.get(ProbeMap.kind)
        return steerability_section(self, probe if isinstance(probe, ProbeMap) else None)

    # Figures

    def plot(self) -> go.Figure:
        """Row x multiplier: mean gain, with the null and the budget marked and the score beside."""
        return map_figures.map_figure(self)

    def plot_mediated(self) -> go.Figure:
        """Row x multiplier: the part of each gain that later blocks make of the step.

        Raises:
            ValueError: If no gain of the map has parts.
        """
        return map_figures.mediated_figure(self)

    def plot_dose_response(self, rows: Sequence[str | int | Site] | None = None) -> go.Figure:
        """Propensity over multipliers in some rows, with the cost below.

        Args:
            rows: Rows by name, site or layer; by default the four that gain most within the budget.
        """
        return map_figures.dose_response_figure(self, rows)

    def plot_slopes(self) -> go.Figure:
        """The steerability slope of every example in every row."""
        return map_figures.slopes_figure(self)

    def plot_tradeoff(self) -> go.Figure:
        """Gain against cost for every cell, with the efficient frontier and the budget."""
        return map_figures.tradeoff_figure(self)

    def plot_against_probe(self, probe: ProbeMap) -> go.Figure:
        """How readable the contrast is, and how steerable, row by row.

        Raises:
            ValueError: If a row is not at a site that was probed.
        """
        return map_figures.against_probe_figure(self, probe)
