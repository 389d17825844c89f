"""How far each cell of layer x multiplier moves behaviour, at what cost, and which to use."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.probe.probe_map import ProbeMap
from steerlens.analyses.validity.validity_fit import ValidityFit, enough_to_fit, fit_validity
from steerlens.sites import Site
from steerlens.stats import Interval
from steerlens.store import result_files as files
from steerlens.store.files import write_text

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Cell(NamedTuple):
    """One cell of a map."""

    site: Site
    multiplier: float

    def __str__(self) -> str:
        return f"{self.site} at multiplier {self.multiplier:+g}"


@dataclass(frozen=True, eq=False)
class Recommendation:
    """The cell to use, what it gains and costs, and why the others lost."""

    cell: Cell | None
    """None when no cell is both above the null and within the budget."""
    gain: Interval | None
    """On the choosing split, with a 95% interval that accounts for having searched all cells; the
    value itself flatters: see `Confirmation` for a number that does not."""
    cost: float | None
    """KL to the unsteered model on ordinary text, nats per token."""
    budget: float
    reasons: tuple[tuple[Cell, str], ...]
    """The best cell of every other layer, and why it lost."""

    def __str__(self) -> str:
        if self.cell is None:
            head = f"No cell is above the null within {self.budget:g} nats of KL per token."
        else:
            head = (
                f"Steer at {self.cell}: gains {self.gain} nats, costs {self.cost:.3g} nats of KL "
                f"per token (budget {self.budget:g})."
            )
        return "\n".join([head, *(f"  not {cell}: {why}" for cell, why in self.reasons)])


@dataclass(frozen=True, eq=False)
class Confirmation:
    """The chosen cell on examples that neither made the direction nor chose the cell."""

    cell: Cell
    gains: Float[Tensor, " example"]
    """Propensity steered minus unsteered, oriented so that more of what was asked is positive."""
    utilities: Float[Tensor, " example"]
    """Utility log-odds, steered minus unsteered."""
    kl: Float[Tensor, " text"]
    """Nats per token, on texts that did not choose the cell."""

    @cached_property
    def gain(self) -> Interval:
        """Mean gain with its 95% interval, in nats."""
        return stats.interval_of_mean(self.gains)

    @cached_property
    def utility(self) -> Interval:
        """Mean change of the utility log-odds with its 95% interval, in nats."""
        return stats.interval_of_mean(self.utilities)

    @cached_property
    def cost(self) -> Interval:
        """Mean KL with its 95% interval (percentiles of resampled means: KL cannot be negative)."""
        return stats.percentile_interval(self.kl)

    @cached_property
    def wrong_way(self) -> Interval:
        """Share of examples that the cell moves the wrong way, with Wilson's interval."""
        return stats.proportion_interval(int((self.gains < 0).sum()), len(self.gains))

    def __str__(self) -> str:
        return (
            f"{self.cell}: gain {self.gain} nats, utility change {self.utility} nats, "
            f"KL {self.cost} nats per token, {self.wrong_way} of examples the wrong way "
            f"({len(self.gains)} held-out examples)"
        )


@dataclass(frozen=True, eq=False)
class SteerabilityMap:
    """Propensity and cost at every site, multiplier and example. Everything else is derived."""

    sites: tuple[Site, ...]
    multipliers: Float[Tensor, " multiplier"]
    propensities: Float[Tensor, "site multiplier example"]
    """Log-odds of the positive over the negative answer, in nats."""
    utilities: Float[Tensor, "site multiplier example"]
    """Log-odds of either answer over anything else, in nats."""
    kl: Float[Tensor, "site multiplier text"]
    """KL from the unsteered to the steered model on ordinary text, in nats per token."""
    shuffled: Float[Tensor, "null site multiplier"]
    """Mean oriented gain of directions fitted to shuffled labels, on the same examples."""
    random: Float[Tensor, "null site multiplier"]
    """The same of random directions as long as the real one."""
    budget: float
    """KL in nats per token that steering may cost."""
    confirmation: Confirmation | None = None
    made_by: dict[str, Any] = field(default_factory=dict)

    # Views

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(site.layer for site in self.sites)

    @property
    def lengths(self) -> tuple[float, ...]:
        """How long a vector multiplier 1 adds at each site, in the units of the stream."""
        return tuple(self.made_by["lengths"])

    @property
    def _zero(self) -> int:
        return int((self.multipliers == 0).nonzero()[0])

    @cached_property
    def gains(self) -> Float[Tensor, "site multiplier example"]:
        """Propensity minus the unsteered propensity, in nats."""
        return self.propensities - self.propensities[:, self._zero, None]

    @property
    def oriented(self) -> Float[Tensor, "site multiplier example"]:
        """Gains in the asked direction: a negative multiplier is meant to lower the propensity."""
        return self.gains * self.multipliers.sign()[:, None]

    @cached_property
    def slopes(self) -> Float[Tensor, "site example"]:
        """Steerability: nats of propensity per unit multiplier, for every example."""
        return stats.steerability_slope(self.multipliers, self.propensities.mT)

    @cached_property
    def slope_interval(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean slope per site with its 95% interval over examples."""
        return stats.mean_interval(self.slopes)

    @property
    def anti_steerable(self) -> Float[Tensor, " site"]:
        """Share of examples whose slope is below zero."""
        return (self.slopes < 0).float().mean(-1)

    @cached_property
    def monotonicity(self) -> Float[Tensor, "site example"]:
        """Spearman's correlation of propensity with multiplier, for every example."""
        return stats.monotonicity(self.multipliers, self.propensities.mT)

    @cached_property
    def gain_interval(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean oriented gain per cell with its 95% interval over examples."""
        return stats.mean_interval(self.oriented)

    @property
    def cost(self) -> Float[Tensor, "site multiplier"]:
        """Mean KL per cell, in nats per token."""
        return self.kl.mean(-1)

    @property
    def utility_change(self) -> Float[Tensor, "site multiplier"]:
        """Mean change of the utility log-odds per cell, in nats."""
        return (self.utilities - self.utilities[:, self._zero, None]).mean(-1)

    @cached_property
    def null_shuffled(self) -> stats.NullThreshold:
        """Is it the labels? Against the best cell of maps made from shuffled labels."""
        return stats.max_statistic(self.oriented.mean(-1), self.shuffled)

    @cached_property
    def null_random(self) -> stats.NullThreshold:
        """Is it the direction, or any push? Against random directions of the same length."""
        return stats.max_statistic(self.oriented.mean(-1), self.random)

    @property
    def p_value(self) -> float:
        """Chance that the best of all cells would be as outstanding by chance: the worse of both."""
        return max(self.null_shuffled.p_value, self.null_random.p_value)

    @property
    def threshold(self) -> Float[Tensor, "site multiplier"]:
        """Mean oriented gain that a cell must exceed to be told from both nulls, in nats."""
        return torch.maximum(self.null_shuffled.threshold, self.null_random.threshold)

    @property
    def above_null(self) -> Bool[Tensor, "site multiplier"]:
        """Cells whose gain is more than the best cell of maps of nothing."""
        return self.oriented.mean(-1) > self.threshold

    @property
    def within_budget(self) -> Bool[Tensor, "site multiplier"]:
        """Cells whose KL is within the budget."""
        return self.cost <= self.budget

    @property
    def layer_scores(self) -> Float[Tensor, " site"]:
        """Gain available within the budget: the best mean oriented gain of a site's allowed cells.

        Zero where steering within the budget gains nothing: leaving the model alone is allowed.
        """
        gain = self.oriented.mean(-1).masked_fill(~self.within_budget, -torch.inf)
        return gain.amax(-1).clamp(min=0)

    def recommend(self, *, towards: int = 1, budget: float | None = None) -> Recommendation:
        """The cell with the largest gain within the budget and above the null, and why not others.

        Args:
            towards: 1 to have more of the behaviour (positive multipliers), -1 to have less.
            budget: KL in nats per token; by default the map's own.
        """
        budget = self.budget if budget is None else budget
        mean = self.oriented.mean(-1)
        asked = self.multipliers.sign() == towards
        if not bool(asked.any()):
            raise ValueError(
                f"No multiplier of {self.multipliers.tolist()} goes in direction {towards:+d}. "
                "Sweep multipliers of both signs."
            )
        allowed = (self.cost <= budget) & self.above_null & asked
        if not bool(allowed.any()):
            return Recommendation(None, None, None, budget, self._losers(None, asked, budget))
        i, j = divmod(int(mean.masked_fill(~allowed, -torch.inf).argmax()), mean.shape[1])
        searched = stats.simultaneous_interval(self.oriented[:, asked])
        k = int(asked[:j].sum())
        return Recommendation(
            cell=self.cell(i, j),
            gain=Interval(*(float(x[i, k]) for x in searched)),
            cost=float(self.cost[i, j]),
            budget=budget,
            reasons=self._losers((i, j), asked, budget),
        )

    def _losers(
        self, won: tuple[int, int] | None, asked: Tensor, budget: float
    ) -> tuple[tuple[Cell, str], ...]:
        mean = self.oriented.mean(-1)
        reasons = []
        for i in range(len(self.sites)):
            if won is not None and won[0] == i:
                continue
            j = int(mean[i].masked_fill(~asked, -torch.inf).argmax())
            allowed = (self.cost[i] <= budget) & self.above_null[i] & asked
            if bool(allowed.any()):
                k = int(mean[i].masked_fill(~allowed, -torch.inf).argmax())
                why = self._gap(won, (i, k))
                j = k
            elif float(self.cost[i, j]) > budget and bool(self.above_null[i, j]):
                why = (
                    f"gains {float(mean[i, j]):.3g} nats but costs {float(self.cost[i, j]):.3g} "
                    "nats of KL per token, and cheaper cells there are not above the null"
                )
            else:
                why = f"gains {float(mean[i, j]):.3g} nats, no more than directions of nothing do"
            reasons.append((self.cell(i, j), why))
        return tuple(reasons)

    def _gap(self, won: tuple[int, int] | None, lost: tuple[int, int]) -> str:
        """How far an allowed cell is behind the chosen one, example by example."""
        gain = f"gains {float(self.oriented[lost].mean()):.3g} nats within the budget"
        if won is None:
            return gain
        gap = stats.interval_of_mean(self.oriented[won] - self.oriented[lost])
        told = "" if gap.low > 0 else ": the two cannot be told apart"
        return f"{gain}, {gap} less{told}"

    def cell(self, site: int, multiplier: int) -> Cell:
        """The cell at these indices."""
        return Cell(self.sites[site], float(self.multipliers[multiplier]))

    def index(self, cell: Cell) -> tuple[int, int]:
        """The indices of a cell."""
        return self.sites.index(cell.site), int((self.multipliers == cell.multiplier).nonzero()[0])

    def summary(self) -> str:
        """A few lines: best cell, effect with interval, cost, null."""
        found = self.recommend()
        lines = [
            f"{self.made_by.get('question', 'Steerability')} ({self.made_by.get('model', '')})"
        ]
        if found.cell is None:
            lines.append(str(found).splitlines()[0])
        else:
            i, j = self.index(found.cell)
            lines += [
                f"  best cell       {found.cell} ({self.made_by.get('unit', '')})",
                f"  gain            {found.gain} nats on the {self.gains.shape[-1]} choosing examples",
                f"  cost            {found.cost:.3g} nats of KL per token (budget {self.budget:g}), "
                f"utility {float(self.utility_change[i, j]):+.3g} nats",
            ]
        lines.append(
            f"  null            p = {self.null_shuffled.p_value:.3g} against shuffled labels, "
            f"p = {self.null_random.p_value:.3g} against random directions "
            f"(best of all {self.cost.numel()} cells, {len(self.shuffled)} null maps each)"
        )
        if self.confirmation is not None:
            lines.append(f"  held out        {self.confirmation}")
        return "\n".join(lines)

    def validity(self, layer: int) -> ValidityFit:
        """Validity-decay curves through the map's own strengths at a layer (at least 9 of them).

        Raises:
            ValueError: If there are too few multipliers; `decay` sweeps more at one layer.
        """
        i = self.layers.index(layer)
        return fit_validity(self.multipliers, self.propensities[i], self.utilities[i])

    # Pictures

    def plot(self) -> go.Figure:
        """Layer x multiplier: mean gain, with the null, the budget and the layer's score beside."""
        found = self.recommend().cell
        mean, low, high = self.gain_interval
        sign = self.multipliers.sign()
        score_low, score_high = self._score_interval()
        return plots.steerability_figure(
            self.gains.mean(-1).tolist(),
            rows=list(self.layers),
            columns=self.multipliers.tolist(),
            unit="nats",
            quantity="gain",
            title=f"Gain in log-odds by layer and multiplier, {self.made_by.get('data_name', '')}",
            column_title=f"multiplier ({self.made_by.get('unit', 'unit')})",
            best=None if found is None else (found.site.layer, found.multiplier),
            below_null=(~self.above_null & (sign != 0)).tolist(),
            over_budget=(~self.within_budget).tolist(),
            hover=self._hover(mean, low, high),
            score=self.layer_scores.tolist(),
            score_unit="nats",
            score_low=score_low.tolist(),
            score_high=score_high.tolist(),
            score_title=f"gain within {self.budget:g} nats of KL",
        )

    def _score_interval(self) -> tuple[Tensor, Tensor]:
        mean, low, high = self.gain_interval
        gain = mean.masked_fill(~self.within_budget, -torch.inf)
        j = gain.argmax(-1, keepdim=True)
        return low.gather(-1, j)[:, 0].clamp(min=0), high.gather(-1, j)[:, 0].clamp(min=0)

    def _hover(self, mean: Tensor, low: Tensor, high: Tensor) -> list[list[str]]:
        return [
            [
                f"{self.cell(i, j)}<br>oriented gain {mean[i, j]:.3g} "
                f"[{low[i, j]:.3g}, {high[i, j]:.3g}] nats<br>KL {self.cost[i, j]:.3g} nats per token"
                f"<br>utility {self.utility_change[i, j]:+.3g} nats"
                for j in range(len(self.multipliers))
            ]
            for i in range(len(self.sites))
        ]

    def plot_dose_response(self, layers: list[int] | None = None) -> go.Figure:
        """Propensity over multipliers at some layers (by default the four best), with the cost."""
        if layers is None:
            layers = sorted(self.layers[i] for i in self.layer_scores.argsort(descending=True)[:4])
        chosen = [self.layers.index(layer) for layer in layers]
        mean, low, high = stats.mean_interval(self.propensities)
        series = {
            f"layer {self.layers[i]}": tuple(x[i].tolist() for x in (mean, low, high))
            for i in chosen
        }
        cost = {f"layer {self.layers[i]}": self.cost[i].tolist() for i in chosen}
        return plots.dose_response(
            series,
            multipliers=self.multipliers.tolist(),
            unit="nats",
            quantity="propensity",
            title="Propensity against steering strength",
            cost=cost,
            cost_unit="nats per token",
            cost_quantity="KL",
            budget=self.budget,
            multiplier_unit=self.made_by.get("unit", ""),
        )

    def plot_slopes(self) -> go.Figure:
        """Per-example steerability slopes at every layer."""
        return plots.example_slopes(
            self.slopes.tolist(),
            rows=list(self.layers),
            unit="nats per unit multiplier",
            title="Steerability of every example",
        )

    def plot_tradeoff(self) -> go.Figure:
        """Gain against cost for every cell, with the efficient frontier and the budget."""
        found = self.recommend().cell
        cells = [(i, j) for i in range(len(self.sites)) for j in range(len(self.multipliers))]
        cells = [(i, j) for i, j in cells if self.multipliers[j] > 0]
        mean = self.oriented.mean(-1)
        return plots.tradeoff(
            [float(mean[c]) for c in cells],
            [float(self.cost[c]) for c in cells],
            labels=[str(self.cell(*c)) for c in cells],
            rows=[self.sites[i].layer for i, _ in cells],
            gain_unit="nats",
            cost_unit="nats per token",
            cost_quantity="KL",
            title="What each cell gains and costs",
            budget=self.budget,
            best=None if found is None else str(found),
        )

    def plot_preference_utility(self, layers: list[int] | None = None) -> go.Figure:
        """Preference against utility at every strength of some layers (the four best by default).

        With the efficient frontier, and fitted curves where there are strengths enough for them.
        """
        if layers is None:
            layers = sorted(self.layers[i] for i in self.layer_scores.argsort(descending=True)[:4])
        chosen = {f"layer {layer}": self.layers.index(layer) for layer in layers}
        mean = {
            name: (self.propensities[i].mean(-1).tolist(), self.utilities[i].mean(-1).tolist())
            for name, i in chosen.items()
        }
        curves = {}
        if enough_to_fit(self.multipliers):
            fits = {name: self.validity(self.layers[i]) for name, i in chosen.items()}
            curves = {
                name: (fit.preference_at(fit.fine).tolist(), fit.utility_at(fit.fine).tolist())
                for name, fit in fits.items()
            }
        return plots.preference_against_utility(
            mean,
            multipliers=self.multipliers.tolist(),
            unit="nats",
            title="Preference against utility",
            curves=curves,
        )

    def probe_correlation(self, probe: ProbeMap) -> Interval:
        """Spearman's correlation over sites of AUROC with the gain available within the budget.

        Decodable is not steerable: this says how far the one predicts the other here. NaN where
        either is the same at every site.
        """
        return stats.rank_correlation(self._auroc_of(probe)[0], self.layer_scores)

    def plot_against_probe(self, probe: ProbeMap) -> go.Figure:
        """How readable the contrast is, and how steerable, layer by layer."""
        r = self.probe_correlation(probe)
        low, high = self._score_interval()
        return plots.probe_against_steering(
            tuple(x.tolist() for x in self._auroc_of(probe)),
            tuple(x.tolist() for x in (self.layer_scores, low, high)),
            rows=list(self.layers),
            probe_unit="AUROC",
            steering_unit="nats",
            probe_quantity="probe",
            steering_quantity="gain within the budget",
            title="Readable is not steerable",
            correlation=None if r.value != r.value else (r.value, r.low, r.high),
        )

    def _auroc_of(self, probe: ProbeMap) -> tuple[Tensor, Tensor, Tensor]:
        if set(self.sites) - set(probe.sites):
            raise ValueError(
                f"The probe was read at {', '.join(map(str, probe.sites))}, and the map steers at "
                f"{', '.join(map(str, self.sites))}. Probe the sites of the map."
            )
        order = [probe.sites.index(site) for site in self.sites]
        value, low, high = probe.auroc_interval
        return value[order], low[order], high[order]

    # Files

    def save(self, directory: Path | str) -> Path:
        """Writes map.safetensors, map.json and a tidy map.csv into a folder."""
        names = ("multipliers", "propensities", "utilities", "kl", "shuffled", "random")
        tensors = {name: getattr(self, name) for name in names}
        extra: dict[str, Any] = {"budget": self.budget}
        if self.confirmation is not None:
            c = self.confirmation
            tensors |= {"held_gains": c.gains, "held_utilities": c.utilities, "held_kl": c.kl}
            extra["cell"] = [c.cell.site.hook, c.cell.multiplier]
        out = files.save(Path(directory), "map", tensors, self.sites, self.made_by, **extra)
        write_text(out / "map.csv", self._tidy())
        return out

    @classmethod
    def load(cls, directory: Path | str) -> SteerabilityMap:
        """Reads what `save` wrote."""
        tensors, sites, made_by = files.load(Path(directory), "map")
        extra = made_by.pop("_extra")
        confirmation = None
        if "cell" in extra:
            hook, multiplier = extra["cell"]
            held = [tensors.pop(f"held_{name}") for name in ("gains", "utilities", "kl")]
            confirmation = Confirmation(Cell(Site.from_hook(hook), multiplier), *held)
        return cls(
            sites=sites,
            budget=extra["budget"],
            confirmation=confirmation,
            made_by=made_by,
            **tensors,
        )

    def _tidy(self) -> str:
        mean, low, high = self.gain_interval
        lines = ["layer,stream,multiplier,gain,gain_low,gain_high,kl,utility_change,above_null"]
        for i, site in enumerate(self.sites):
            for j, m in enumerate(self.multipliers.tolist()):
                numbers = (mean[i, j], low[i, j], high[i, j], self.cost[i, j])
                row = ",".join(f"{float(x):.6g}" for x in (*numbers, self.utility_change[i, j]))
                lines.append(
                    f"{site.layer},{site.stream},{m:g},{row},{bool(self.above_null[i, j])}"
                )
        return "\n".join(lines) + "\n"

    def with_confirmation(self, confirmation: Confirmation) -> SteerabilityMap:
        """The same map with the held-out numbers of its chosen cell."""
        return replace(self, confirmation=confirmation)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        return self.plot()._repr_mimebundle_(include, exclude)

    def __repr__(self) -> str:
        return self.summary()
