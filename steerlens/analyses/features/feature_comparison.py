"""The result of comparing SAE features with DiffMean and with random controls, at equal cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens import plots
from steerlens.analyses.features.comparison_arms import (
    DIFFMEAN,
    RANDOM_DIRECTION,
    RANDOM_FEATURE,
    SEARCHED,
    Cost,
)
from steerlens.analyses.features.comparison_section import comparison_section
from steerlens.analyses.features.paired_comparison import (
    NOT_MEASURED,
    ComparedArm,
    PairedComparison,
)
from steerlens.report.section import Section
from steerlens.results import Column, Result
from steerlens.results.grid import layers_of
from steerlens.sites import Site
from steerlens.stats import Interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

COSTS: tuple[Cost, ...] = ("kl", "utility")
OF_SITES = ("saes", "hashes", "d_sae", "effects_explained")
"""What `made_by` states for each site; the rest is the same for all that can be joined."""
BEST = "best"
"""The place in the table of an arm at the layer where it did best on the choosing questions."""
_INTERVALS = ("gain", "kl", "utility", "over_diffmean", "over_random_feature", "over_searched")
_NUMBERS = ("length", "p_random_feature", "p_random_direction")


@dataclass(frozen=True, eq=False, repr=False)
class FeatureComparison(Result):
    """Which features were found and chosen, and what they gain at equal cost on held-out data."""

    kind: ClassVar[str] = "comparison"

    sites: tuple[Site, ...]
    norms: Float[Tensor, " site"]
    """Median norm of the stream: the unit of `ComparedArm.length`."""
    at_equal_kl: PairedComparison
    at_equal_utility: PairedComparison
    """The same choices, each as long as costs `utility_drop` on the choosing questions."""
    candidates: Int[Tensor, "site rank"]
    """Features by contrast, best first; -1 where there were fewer."""
    candidate_gains: Float[Tensor, "site rank"]
    """Gain of each with its better sign at equal KL, on the choosing questions: too large on
    average, since these questions choose among them."""
    found_p: Float[Tensor, " site"]
    """The probability that the best of all features separates the sides as well with shuffled
    labels."""
    budget: float
    """Nats of KL per token that every arm costs on the texts that set its length."""
    utility_drop: float
    """Nats of utility that every arm costs in the second comparison."""
    made_by: dict[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(site.layer for site in self.sites)

    @property
    def arms(self) -> tuple[str, ...]:
        return self.at_equal_kl.arms

    @property
    def controls(self) -> tuple[str, ...]:
        return self.at_equal_kl.controls

    @classmethod
    def joined(cls, parts: Sequence[FeatureComparison]) -> FeatureComparison:
        """Comparisons of the same arms on the same questions at different sites, as one.

        Raises:
            ValueError: If they are not of the same arms, questions and costs.
        """
        first = parts[0]
        for part in parts:
            if differing := first.differs_from(part):
                raise ValueError(
                    f"Comparisons at {first.sites[0]} and {part.sites[0]} differ in {differing}, "
                    "so they cannot be joined. Make them with the same settings."
                )
        made_by = dict(first.made_by)
        for name in OF_SITES:
            made_by[name] = [one for part in parts for one in part.made_by.get(name, [])]

        def together(name: str) -> Tensor:
            return torch.cat([getattr(part, name) for part in parts])

        return cls(
            sites=tuple(site for part in parts for site in part.sites),
            norms=together("norms"),
            at_equal_kl=PairedComparison.joined([part.at_equal_kl for part in parts]),
            at_equal_utility=PairedComparison.joined([part.at_equal_utility for part in parts]),
            candidates=together("candidates"),
            candidate_gains=together("candidate_gains"),
            found_p=together("found_p"),
            budget=first.budget,
            utility_drop=first.utility_drop,
            made_by=made_by,
        )

    def differs_from(self, other: FeatureComparison) -> str:
        """The names of what keeps another site's comparison from being joined; "" if nothing."""
        names = ("budget", "utility_drop", "arms")
        found = [n for n in names if getattr(self, n) != getattr(other, n)]
        asked = dict.fromkeys([*self.made_by, *other.made_by])
        found += [
            name
            for name in asked
            if name not in OF_SITES and self.made_by.get(name) != other.made_by.get(name)
        ]
        return ", ".join(found)

    # Arms

    def at_equal(self, cost: Cost) -> PairedComparison:
        """The numbers at equal KL, or at equal loss of utility."""
        if cost not in COSTS:
            raise ValueError(f"cost={cost!r} is not a cost. Use 'kl' or 'utility'.")
        return self.at_equal_kl if cost == "kl" else self.at_equal_utility

    def compared(self, cost: Cost = "kl", site: int | None = None) -> list[ComparedArm]:
        """Every arm at a site (its index), or each at the site where it did best when choosing."""
        return [self._compared(cost, arm, site) for arm in self.arms]

    def compared_controls(self, cost: Cost = "kl", site: int | None = None) -> list[ComparedArm]:
        """The controls, each the mean over its repetitions that have a length."""
        return [self._compared(cost, control, site) for control in self.controls]

    def _compared(self, cost: Cost, name: str, site: int | None) -> ComparedArm:
        numbers = self.at_equal(cost)
        control, feature = name in self.controls, ""
        at = site if control or site is not None else numbers.site(name)
        if not control and at is not None:
            a = numbers.arms.index(name)
            number, sign = int(numbers.features[a, at]), int(numbers.signs[a, at])
            feature = f"{'+' if sign > 0 else '−'}{number}" if number >= 0 else ""

        def over(other: str) -> Interval:
            same = name == other or (control and other == RANDOM_FEATURE)
            return NOT_MEASURED if same else numbers.difference(name, other, site)

        def p_value(other: str) -> float:
            return math.nan if control else numbers.p_value(name, other, site)

        return ComparedArm(
            arm=name,
            site=None if at is None else self.sites[at],
            feature=feature,
            length=numbers.length(name, site, self.norms),
            gain=numbers.gain(name, site),
            kl=numbers.cost(name, site),
            utility=numbers.utility(name, site),
            over_diffmean=over(DIFFMEAN),
            over_random_feature=over(RANDOM_FEATURE),
            over_searched=over(SEARCHED),
            p_random_feature=p_value(RANDOM_FEATURE),
            p_random_direction=p_value(RANDOM_DIRECTION),
        )

    # Tables

    def columns(self) -> Sequence[Column]:
        """Every arm and control at its best layer and at every layer, at both costs."""
        places = (None, *range(len(self.sites)))
        found = [
            [[self._compared(cost, name, place) for place in places] for name in self._names]
            for cost in COSTS
        ]
        axes = ("cost", "arm", "place")

        def table(value: Any) -> Tensor:
            return torch.tensor([[[value(one) for one in row] for row in rows] for rows in found])

        columns = [
            Column("feature", axes, table(lambda one: int(one.feature[1:] or -1))),
            Column("sign", axes, table(lambda one: _sign(one.feature))),
            *(Column(n, axes, table(lambda one, n=n: getattr(one, n))) for n in _NUMBERS),
        ]
        for name in _INTERVALS:
            for i, end in enumerate(("", "_low", "_high")):
                values = table(lambda one, name=name, i=i: getattr(one, name)[i])
                columns.append(Column(f"{name}{end}", axes, values))
        return columns

    def coordinates(self, axis: str, size: int) -> Mapping[str, Sequence[Any]]:
        """The costs; the arms and the controls; and the layers, after the best one of each arm."""
        if axis == "place":
            streams = [site.stream for site in self.sites]
            return {"layer": [BEST, *self.layers], "stream": ["", *streams]}
        if axis == "cost":
            return {"cost": list(COSTS)}
        if axis == "arm" and size == len(self._names):
            return {"arm": list(self._names)}
        return super().coordinates(axis, size)

    @property
    def _names(self) -> tuple[str, ...]:
        return (*self.arms, *self.controls)

    # Words

    def price(self, cost: Cost) -> str:
        """What every arm costs, in words."""
        if cost == "kl":
            return f"{self.budget:g} nats of KL per token"
        return f"{self.utility_drop:g} nats of utility"

    @property
    def headline_numbers(self) -> Mapping[str, float]:
        """The gain of every arm at its best layer, at equal KL."""
        out: dict[str, float] = {}
        for row in self.compared("kl"):
            ends = {"": row.gain.value, "_low": row.gain.low, "_high": row.gain.high}
            out |= {f"gain of {row.arm}{end}": value for end, value in ends.items()}
        return out

    def summary(self, cost: Cost = "kl") -> str:
        """A few lines: every arm at its best layer, with its differences and its p-value."""
        numbers = self.at_equal(cost)
        head = self.made_by.get("question", "SAE features against DiffMean at equal cost")
        lines = [f"{head} ({self.made_by.get('model', '')}; every arm costs {self.price(cost)})"]
        for row in self.compared(cost):
            words = [f"{row.arm} ({row.site}{row.feature and ', ' + row.feature})"]
            if math.isnan(row.length):
                lines.append(f"  {words[0]}: no length that was tried costs that")
                continue
            words += [f"gain {row.gain}", f"KL {row.kl}", f"utility {row.utility}"]
            for name, other in (
                ("DiffMean", row.over_diffmean),
                ("random features", row.over_random_feature),
                ("searched random directions", row.over_searched),
            ):
                if not math.isnan(other.value):
                    words.append(f"over {name} {other}")
            if numbers.nulls:
                words.append(f"p {row.p_random_feature:.2g} against random features")
            lines.append("  " + ", ".join(words))
        if why := self.made_by.get("not_written"):
            lines.append(f"  what is written was not looked at: {why}")
        if not numbers.nulls:
            lines.append("  no random searches were made (nulls=0), so there are no p-values")
            return "\n".join(lines)
        for control in numbers.controls:
            found = numbers.null_gains(control)
            found = found[torch.isfinite(found)]
            most = f", at most {float(found.max()):.3g}" if len(found) else ""
            lines.append(
                f"  {control}: gain {numbers.gain(control)} (mean of {len(found)} searches{most})"
            )
        return "\n".join(lines)

    def run_summary(self, beside: Mapping[str, Result]) -> str:
        """The summaries at both costs."""
        return "\n".join(self.summary(cost) for cost in COSTS)

    def section(self, beside: Mapping[str, Result]) -> Section:
        """Which features steer, beside DiffMean and the controls, on the report page."""
        return comparison_section(
            self.compared("kl"),
            self.compared("utility"),
            random_feature=self.at_equal_kl.gain(RANDOM_FEATURE),
            figures=(self.plot, lambda: self.plot("utility"), self.plot_candidates),
            budget=self.budget,
            utility_drop=self.utility_drop,
            nulls=self.at_equal_kl.nulls,
            examples=self.at_equal_kl.gains.shape[-1],
            data_name=str(self.made_by.get("data_name", "the contrast")),
        )

    # Figures

    def plot(self, cost: Cost = "kl") -> go.Figure:
        """Held-out gain of every arm and control over the layers, at equal cost."""
        numbers = self.at_equal(cost)
        shown = numbers.arms + (numbers.controls if numbers.nulls else ())
        series: dict[str, Any] = {}
        for name in shown:
            bands = [numbers.gain(name, s) for s in range(len(self.sites))]
            series[name] = tuple([band[i] for band in bands] for i in range(3))
        return plots.layer_curve(
            series,
            rows=self._rows,
            unit="nats",
            quantity="held-out gain",
            title=f"SAE features against DiffMean at equal cost ({self.price(cost)}), "
            f"{self.made_by.get('data_name', '')}",
            controls=[name for name in numbers.controls if name in series],
            band_label="95% interval over questions; controls: mean over the random searches "
            "that have a length",
        )

    def plot_candidates(self) -> go.Figure:
        """Layers x best features by contrast: gain of each at equal KL, when choosing."""
        named = [[str(f) if f >= 0 else "none" for f in row] for row in self.candidates.tolist()]
        return plots.layer_heatmap(
            self.candidate_gains.tolist(),
            rows=self._rows,
            columns=list(range(1, self.candidates.shape[1] + 1)),
            column_title="rank by contrast",
            unit="nats",
            quantity="gain",
            title=f"Features and their gains, the best of each layer at {self.budget:g} nats of KL, "
            f"{self.made_by.get('data_name', '')}",
            hover=[[f"feature {name}" for name in row] for row in named],
            cell_names=named,
        )

    @property
    def _rows(self) -> list[Any]:
        names = tuple(map(str, self.sites))
        return list(layers_of(names, self.sites) or names)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        bundle = super()._repr_mimebundle_(include, exclude)
        return {**bundle, "text/plain": self.summary()} if isinstance(bundle, dict) else bundle


def _sign(feature: str) -> int:
    return 0 if not feature else 1 if feature.startswith("+") else -1
