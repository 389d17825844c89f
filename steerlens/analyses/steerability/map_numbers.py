"""The numbers of a steerability map: what was measured in every cell, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens import stats
from steerlens.analyses.confirmation.writing_verdict import WritingVerdict
from steerlens.analyses.probe.probe_map import ProbeMap
from steerlens.analyses.steerability.confirmation import Confirmation
from steerlens.analyses.steerability.gain_parts import GainParts
from steerlens.results import Cell, Column, RowResult
from steerlens.results.grid import find_multiplier
from steerlens.sites import Site
from steerlens.stats import Interval

CELLS = ("row", "multiplier")
"""The axes of a number of every cell."""


@dataclass(frozen=True, eq=False, repr=False)
class MapNumbers(RowResult):
    """Propensity and cost of every row, multiplier and example. Everything else is derived.

    A row is a named intervention. `SteerabilityMap` adds the choice of a cell, words and figures.
    """

    kind: ClassVar[str] = "map"

    rows: tuple[str, ...]
    """The name of each intervention: its site, where it has no other name."""
    sites: tuple[Site | None, ...]
    """Where each intervention acts; None where that is not one site."""
    multipliers: Float[Tensor, " multiplier"]
    propensities: Float[Tensor, "row multiplier example"]
    """Log-odds of the positive over the negative answer, in nats."""
    utilities: Float[Tensor, "row multiplier example"]
    """Log-odds of either answer over anything else, in nats."""
    kl: Float[Tensor, "row multiplier text"]
    """KL from the unsteered to the steered model on ordinary text, in nats per token."""
    shuffled: Float[Tensor, "null row multiplier"] | None
    """The label null: mean oriented gain of directions fitted to shuffled labels, on the same
    examples. None if there are no such maps."""
    random: Float[Tensor, "null row multiplier"] | None
    """The direction null: the same for random directions as long as the real ones."""
    budget: float
    """KL in nats per token that steering may cost."""
    groups: Int[Tensor, " example"] | None = None
    """The group of each example, the unit of every interval; None where each is a group."""
    text_groups: Int[Tensor, " text"] | None = None
    """The same for the ordinary texts."""
    planned: int | None = None
    """Null maps of each kind that would have been made if the answer had not been clear earlier;
    None where all that there are were made at once."""
    confirmation: Confirmation | None = None
    """The recommended cell on held-out examples."""
    direct: Float[Tensor, "row multiplier example"] | None = None
    """The part of each gain that the step itself makes, in nats (`steerlens.direct_gain`); NaN in
    rows whose intervention has no step. None in maps that were made without it."""
    written: tuple[WritingVerdict, ...] = ()
    """What is claimed of cells whose texts were read (`steerlens.confirm_in_writing`)."""
    answers: tuple[str, ...] = ()
    """The short answer (a letter, yes or no) that is the positive one of each example; () where
    answers are something else."""
    made_by: dict[str, Any] = field(default_factory=dict)

    @property
    def examples(self) -> str:
        """How many choosing examples there are, and in how many groups."""
        return stats.sizes_in_words(self.groups, self.gains.shape[-1], "choosing examples")

    @property
    def ordinary(self) -> str:
        """What the ordinary texts are on which the cost was measured."""
        return str(self.made_by.get("ordinary", "given texts"))

    # Rows and cells

    @property
    def lengths(self) -> tuple[float, ...] | None:
        """How long a vector multiplier 1 adds in each row, in the units of the stream.

        None if the rows are not vectors that were fitted for the map.
        """
        lengths = self.made_by.get("lengths")
        return None if lengths is None else tuple(lengths)

    def cell(self, row: int, multiplier: int) -> Cell:
        """The cell at these indices."""
        return Cell(self.rows[row], float(self.multipliers[multiplier]), self.sites[row])

    def index(self, cell: Cell) -> tuple[int, int]:
        """The indices of a cell."""
        return self.find(cell.row), find_multiplier(self.multipliers, cell.multiplier)

    def written_at(self, cell: Cell) -> WritingVerdict | None:
        """What is claimed of a cell's texts; None where they were not read."""
        return next((one for one in self.written if one.same_cell(cell)), None)

    # Effects

    @property
    def _zero(self) -> int:
        return int((self.multipliers == 0).nonzero()[0])

    @cached_property
    def gains(self) -> Float[Tensor, "row multiplier example"]:
        """Propensity minus the unsteered propensity, in nats."""
        return self.propensities - self.propensities[:, self._zero, None]

    @property
    def oriented(self) -> Float[Tensor, "row multiplier example"]:
        """Gains in the asked direction: a negative multiplier is meant to lower the propensity."""
        return self.gains * self.multipliers.sign()[:, None]

    @cached_property
    def gain_interval(
        self,
    ) -> tuple[
        Float[Tensor, "row multiplier"],
        Float[Tensor, "row multiplier"],
        Float[Tensor, "row multiplier"],
    ]:
        """Mean oriented gain of each cell with its 95% interval over groups of examples.

        At multiplier 0 it is 0 by definition.
        """
        return self._at_zero(stats.mean_interval(self.oriented, self.groups))

    def _at_zero(
        self, found: stats.Bounds
    ) -> tuple[
        Float[Tensor, "row multiplier"],
        Float[Tensor, "row multiplier"],
        Float[Tensor, "row multiplier"],
    ]:
        """The same, but 0 without an error where nothing is steered."""
        mean, low, high = (x.masked_fill(self.multipliers == 0, 0.0) for x in found)
        return mean, low, high

    @cached_property
    def slopes(self) -> Float[Tensor, "row example"]:
        """Steerability: nats of propensity per unit multiplier, for every example."""
        return stats.steerability_slope(self.multipliers, self.propensities.mT)

    @cached_property
    def slope_interval(
        self,
    ) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"], Float[Tensor, " row"]]:
        """Mean slope of each row with its 95% interval over groups of examples."""
        return stats.mean_interval(self.slopes, self.groups)

    @property
    def anti_steerable(self) -> Float[Tensor, " row"]:
        """Share of examples whose slope is below zero."""
        return (self.slopes < 0).float().mean(-1)

    @cached_property
    def monotonicity(self) -> Float[Tensor, "row example"]:
        """Spearman's correlation of propensity with multiplier, for every example."""
        return stats.monotonicity(self.multipliers, self.propensities.mT)

    @cached_property
    def parts(self) -> GainParts | None:
        """The direct and the mediated part of every gain; None if no row can be split."""
        if self.direct is None or bool(self.direct.isnan().all()):
            return None
        return GainParts(self.gains, self.direct, self.multipliers.sign(), self.groups)

    # Costs

    @property
    def cost(self) -> Float[Tensor, "row multiplier"]:
        """Mean KL of each cell, in nats per token."""
        return self.kl.mean(-1)

    @cached_property
    def cost_interval(
        self,
    ) -> tuple[
        Float[Tensor, "row multiplier"],
        Float[Tensor, "row multiplier"],
        Float[Tensor, "row multiplier"],
    ]:
        """Mean KL of each cell with its 95% interval over texts."""
        return self._at_zero(stats.mean_interval(self.kl, self.text_groups, least=0.0))

    @property
    def utility_change(self) -> Float[Tensor, "row multiplier"]:
        """Mean change of the utility log-odds of each cell, in nats."""
        return (self.utilities - self.utilities[:, self._zero, None]).mean(-1)

    @property
    def within_budget(self) -> Bool[Tensor, "row multiplier"]:
        """Cells whose KL is within the budget, as far as these texts tell: see `affordable`."""
        return self.affordable(self.budget)

    def affordable(self, budget: float) -> Bool[Tensor, "row multiplier"]:
        """Cells whose KL, by the upper end of its interval, is at most the budget.

        The mean itself is too low for the cheapest-looking of many cells. Where the texts are too
        few for an interval, it is the mean.
        """
        cost, _, high = self.cost_interval
        return torch.where(high.isnan(), cost, high) <= budget

    # Chance

    @cached_property
    def label_null(self) -> stats.NullTest | None:
        """Is it the labels? The map against maps of directions fitted to shuffled labels.

        It cannot reject a direction that steers this answer without being that of the labels: any
        readable contrast is longer than a mean difference of shuffled labels.
        """
        return self._tested(self.shuffled)

    @cached_property
    def direction_null(self) -> stats.NullTest | None:
        """Is it this direction? The map against maps of other directions of the same length.

        It cannot reject directions of shuffled labels: they lie where activations vary.
        """
        return self._tested(self.random)

    def _tested(self, maps: Tensor | None, sign: int = 1) -> stats.NullTest | None:
        if maps is None:
            return None
        return stats.max_statistic(sign * self.oriented.mean(-1), sign * maps, planned=self.planned)

    @property
    def nulls(self) -> dict[str, stats.NullTest]:
        """Each null that there is, by what its maps are made of."""
        name = str(self.made_by.get("direction_null", "random directions"))
        made = {"shuffled labels": self.label_null, name: self.direction_null}
        return {name: null for name, null in made.items() if null is not None}

    @property
    def p_value(self) -> float:
        """Probability that the best of all cells stands out as much by chance.

        The larger one of both nulls, which is a test against either (an intersection-union test,
        Berger 1982, doi:10.1080/00401706.1982.10487790): neither null alone rejects everything that
        is not this contrast. docs/trust.md has its measured type I error. NaN without null maps.
        """
        return max((null.p_value for null in self.nulls.values()), default=float("nan"))

    @property
    def p_values(self) -> Float[Tensor, "row multiplier"]:
        """The same for every cell: how often the best cell of a null map stands out as much."""
        found = torch.zeros_like(self.cost)
        for null in self.nulls.values():
            found = torch.maximum(found, null.p_values.to(found))
        return found if self.nulls else found.fill_(torch.nan)

    @cached_property
    def wrong_way_p_value(self) -> float:
        """The p-value of the opposite claim: that steering works against what is asked.

        1 where the null maps that were made are too few to say so, since one of them already stood
        out as much; NaN without null maps.
        """
        found = []
        for maps in (self.shuffled, self.random):
            try:
                test = self._tested(maps, -1)
            except ValueError:  # sampling stopped: some map stood out as much the wrong way
                return 1.0
            found += [] if test is None else [test.p_value]
        return max(found, default=float("nan"))

    @property
    def exceeds(self) -> Bool[Tensor, "row multiplier"]:
        """Cells with a mean oriented gain above 0 and, against null maps, p of at most 0.05."""
        found = self.oriented.mean(-1) > 0
        for null in self.nulls.values():
            found = found & null.above
        return found

    @property
    def above_null(self) -> Bool[Tensor, "row multiplier"] | None:
        """Cells that gain more than the best cell of null maps; None without null maps."""
        return self.exceeds if self.nulls else None

    # The best of each row

    @property
    def row_scores(self) -> Float[Tensor, " row"]:
        """Gain available within the budget: the best mean oriented gain of a row's allowed cells.

        Zero where steering within the budget gains nothing: leaving the model alone is allowed.
        """
        return self._within_budget_gains.amax(-1).clamp(min=0)

    @property
    def row_score_interval(
        self,
    ) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"], Float[Tensor, " row"]]:
        """`row_scores` with the 95% interval of the cell that each one comes from."""
        best = self._within_budget_gains.argmax(-1, keepdim=True)
        low, high = (x.gather(-1, best)[:, 0].clamp(min=0) for x in self.gain_interval[1:])
        return self.row_scores, low, high

    @property
    def _within_budget_gains(self) -> Float[Tensor, "row multiplier"]:
        return self.oriented.mean(-1).masked_fill(~self.within_budget, -torch.inf)

    def best_rows(self, count: int) -> list[int]:
        """The rows that gain most within the budget, by index, in the order of the map.

        Rows that gain nothing there are ordered by the most that any of their cells moves.
        """
        most = self.oriented.mean(-1).abs().amax(-1).tolist()
        scores = self.row_scores.tolist()
        order = sorted(range(len(self.rows)), key=lambda i: (-scores[i], -most[i]))
        return sorted(order[:count])

    # Against a probe

    def covered_by(self, probe: ProbeMap) -> bool:
        """Whether every row is at one site that the probe was read at."""
        return all(site is not None and site in probe.sites for site in self.sites)

    def auroc_of(
        self, probe: ProbeMap
    ) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"], Float[Tensor, " row"]]:
        """The probe's AUROC at the site of each row, with its 95% interval.

        Raises:
            ValueError: If a row is not at a site that was probed.
        """
        if not self.covered_by(probe):
            raise ValueError(
                f"The probe was read at {', '.join(map(str, probe.sites))}, and the map steers with "
                f"{', '.join(self.rows)}. Probe the sites of the map."
            )
        order = [probe.sites.index(site) for site in self.sites if site is not None]
        value, low, high = probe.auroc_interval
        return value[order], low[order], high[order]

    def probe_correlation(self, probe: ProbeMap) -> Interval:
        """Spearman's correlation over rows of AUROC with the gain available within the budget.

        A contrast that can be read at a layer need not be one that can be steered there: this says
        how well the one predicts the other. NaN where either is the same in every row.
        """
        return stats.rank_correlation(self.auroc_of(probe)[0], self.row_scores)

    # The table

    def columns(self) -> list[Column]:
        """The table: gain is steered minus unsteered, with the sign that the heatmap shows."""
        mean, low, high = self.gain_interval
        sign = self.multipliers.sign()
        gain = self.gains.mean(-1)
        columns = [
            Column("gain", CELLS, gain),
            Column("gain_low", CELLS, torch.where(sign < 0, -high, low)),
            Column("gain_high", CELLS, torch.where(sign < 0, -low, high)),
            Column("kl", CELLS, self.cost),
            Column("utility_change", CELLS, self.utility_change),
        ]
        if self.above_null is not None:
            columns.append(Column("above_null", CELLS, self.above_null))
        if self.parts is not None:
            columns += self.parts.columns()
        return columns
