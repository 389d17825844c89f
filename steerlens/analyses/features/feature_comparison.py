"""SAE features against DiffMean and against chance, per layer, at equal cost."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens import plots
from steerlens.analyses.features.contest import NOTHING, Contest
from steerlens.sites import Site
from steerlens.stats import Interval
from steerlens.store import result_files as files
from steerlens.store.files import write_text

if TYPE_CHECKING:
    import plotly.graph_objects as go

Cost = Literal["kl", "utility"]
BY_CONTRAST, TOGETHER, BY_EFFECT = "feature by contrast", "features together", "feature by effect"
SEARCHED, DIFFMEAN, TARGETED = "random direction by effect", "DiffMean", "SAE-TS"
ARMS = (BY_CONTRAST, TOGETHER, BY_EFFECT, SEARCHED, DIFFMEAN, TARGETED)
FEATURE, DIRECTION = "random feature", "random direction"
CONTROLS = (FEATURE, DIRECTION)
OF_SITES = ("saes", "hashes", "d_sae", "effects_explained")
"""What `made_by` tells of each site; the rest is the same for all that can be joined."""


class Row(NamedTuple):
    """One line of the table: an arm at one site."""

    arm: str
    site: Site
    feature: str
    length: float
    """In median norms of the stream."""
    gain: Interval
    kl: Interval
    utility: Interval
    over_diffmean: Interval
    """Paired difference of the gain; NaN for DiffMean itself."""
    over_random_feature: Interval
    """Paired difference from the mean over random features."""
    over_searched: Interval
    """Paired difference from the best of as many random directions as there are features."""
    p_random_feature: float
    p_random_direction: float


@dataclass(frozen=True, eq=False)
class FeatureComparison:
    """Which features were found and chosen, and what they gain at equal cost on held-out data."""

    sites: tuple[Site, ...]
    norms: Float[Tensor, " site"]
    """Median norm of the stream: the unit in which lengths are told."""
    at_equal_kl: Contest
    at_equal_utility: Contest
    """The same picks, each as long as costs `utility_drop` on the choosing questions."""
    candidates: Int[Tensor, "site rank"]
    """Features by contrast, best first; -1 where there were fewer."""
    candidate_gains: Float[Tensor, "site rank"]
    """Gain of each in its better sense at equal KL, on the choosing questions: flattering."""
    found_p: Float[Tensor, " site"]
    """Chance that the best of all features tells the sides apart as well on shuffled labels."""
    budget: float
    utility_drop: float
    made_by: dict[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(site.layer for site in self.sites)

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
            at_equal_kl=Contest.joined([part.at_equal_kl for part in parts]),
            at_equal_utility=Contest.joined([part.at_equal_utility for part in parts]),
            candidates=together("candidates"),
            candidate_gains=together("candidate_gains"),
            found_p=together("found_p"),
            budget=first.budget,
            utility_drop=first.utility_drop,
            made_by=made_by,
        )

    def differs_from(self, other: FeatureComparison) -> str:
        """What keeps another site's comparison from being joined to this one; "" if nothing."""
        names = ("budget", "utility_drop")
        found = [n for n in names if getattr(self, n) != getattr(other, n)]
        if self.at_equal_kl.arms != other.at_equal_kl.arms:
            found.append("arms")
        asked = dict.fromkeys([*self.made_by, *other.made_by])
        found += [
            name
            for name in asked
            if name not in OF_SITES and self.made_by.get(name) != other.made_by.get(name)
        ]
        return ", ".join(found)

    def contest(self, cost: Cost = "kl") -> Contest:
        """The numbers at equal KL, or at equal loss of utility."""
        if cost not in ("kl", "utility"):
            raise ValueError(f"cost={cost!r} is no cost. Use 'kl' or 'utility'.")
        return self.at_equal_kl if cost == "kl" else self.at_equal_utility

    def rows(self, cost: Cost = "kl", site: int | None = None) -> list[Row]:
        """Every arm at a site (its index), or each at the site where it did best when choosing."""
        contest = self.contest(cost)
        out = []
        for a, arm in enumerate(contest.arms):
            at = contest.site(arm) if site is None else site
            feature, sense = int(contest.features[a, at]), int(contest.senses[a, at])
            out.append(
                Row(
                    arm=arm,
                    site=self.sites[at],
                    feature=f"{'+' if sense > 0 else '−'}{feature}" if feature >= 0 else "",
                    length=float(contest.lengths[a, at] / self.norms[at]),
                    gain=contest.gain(arm, at),
                    kl=contest.cost(arm, at),
                    utility=contest.utility(arm, at),
                    over_diffmean=(
                        NOTHING if arm == DIFFMEAN else contest.difference(arm, DIFFMEAN, site)
                    ),
                    over_random_feature=contest.difference(arm, FEATURE, site),
                    over_searched=(
                        NOTHING if arm == SEARCHED else contest.difference(arm, SEARCHED, site)
                    ),
                    p_random_feature=contest.p_value(arm, FEATURE, site),
                    p_random_direction=contest.p_value(arm, DIRECTION, site),
                )
            )
        return out

    def control_rows(self, cost: Cost, site: int) -> list[Row]:
        """The controls at a site, each the mean over its repetitions that have a length."""
        contest, no_p = self.contest(cost), float("nan")
        return [
            Row(
                arm=control,
                site=self.sites[site],
                feature="",
                length=float(contest.control_lengths[c, :, site].nanmean() / self.norms[site]),
                gain=contest.gain(control, site),
                kl=contest.cost(control, site),
                utility=contest.utility(control, site),
                over_diffmean=contest.difference(control, DIFFMEAN, site),
                over_random_feature=NOTHING,
                over_searched=contest.difference(control, SEARCHED, site),
                p_random_feature=no_p,
                p_random_direction=no_p,
            )
            for c, control in enumerate(contest.controls)
        ]

    # Words

    def _price(self, cost: Cost) -> str:
        if cost == "kl":
            return f"{self.budget:g} nats of KL per token"
        return f"{self.utility_drop:g} nats of utility"

    def summary(self, cost: Cost = "kl") -> str:
        """A few lines: every arm at its best layer, against DiffMean and against chance."""
        contest = self.contest(cost)
        head = self.made_by.get("question", "SAE features against DiffMean at equal cost")
        lines = [f"{head} ({self.made_by.get('model', '')}; every arm costs {self._price(cost)})"]
        for row in self.rows(cost):
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
            words.append(f"p {row.p_random_feature:.2g} against random features")
            lines.append("  " + ", ".join(words))
        for control in contest.controls:
            found = contest.null_gains(control)
            found = found[torch.isfinite(found)]
            most = f", at most {float(found.max()):.3g}" if len(found) else ""
            lines.append(
                f"  {control}: gain {contest.gain(control)} (mean of {len(found)} searches{most})"
            )
        return "\n".join(lines)

    def table(self, cost: Cost = "kl", *, by_layer: bool = False) -> str:
        """Every arm where it did best when choosing, or all and the controls at every layer, as CSV.

        Every interval has three columns.
        """
        rows = self.rows(cost)
        if by_layer:
            sites = range(len(self.sites))
            rows = [r for s in sites for r in (*self.rows(cost, s), *self.control_rows(cost, s))]
        names = [name for name in Row._fields if name not in _INTERVALS]
        head = [*names, *(f"{n}{end}" for n in _INTERVALS for end in ("", "_low", "_high"))]
        lines = [",".join(head)]
        for row in rows:
            plain = [getattr(row, name) for name in names]
            ends = [x for name in _INTERVALS for x in getattr(row, name)]
            lines.append(",".join(_cell(value) for value in (*plain, *ends)))
        return "\n".join(lines) + "\n"

    def _repr_html_(self) -> str:
        return "".join(self._html(cost) for cost in ("kl", "utility"))

    def _html(self, cost: Cost) -> str:
        columns = (
            "arm", "site", "feature", "length", "gain", "KL", "utility", "over DiffMean",
            "over random feature", "over searched directions", "p (random feature)",
            "p (random direction)",
        )  # fmt: skip
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in columns)
        body = ""
        for row in self.rows(cost):
            cells = "".join(f"<td>{html.escape(_shown(value))}</td>" for value in row)
            body += f"<tr>{cells}</tr>"
        asked = (
            f"{self.budget:g} nats of KL per token of ordinary text"
            if cost == "kl"
            else f"{self.utility_drop:g} nats of the utility log-odds"
        )
        title = html.escape(
            f"{self.made_by.get('data_name', '')}: each arm at the layer where it did best when "
            f"choosing, on held-out questions, as long as costs {asked}"
        )
        return (
            f"<b>{title}</b><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            "<p>Gains and utility in nats with 95% intervals over questions; length in median "
            "norms of the stream. Searched directions: as many random directions as there are "
            "features, the best by effect when choosing, which is what a feature found by effect "
            "must beat. p: against repeated choices of the best of a few random features or "
            "directions.</p>"
        )

    # Pictures

    def plot(self, cost: Cost = "kl") -> go.Figure:
        """Held-out gain of every arm and control over the layers, at equal cost."""
        contest = self.contest(cost)
        series: dict[str, Any] = {}
        for name in (*contest.arms, *contest.controls):
            bands = [contest.gain(name, s) for s in range(len(self.sites))]
            series[name] = tuple([band[i] for band in bands] for i in range(3))
        return plots.layer_curve(
            series,
            rows=list(self.layers),
            unit="nats",
            quantity="held-out gain",
            title=f"SAE features against DiffMean at equal cost ({self._price(cost)}), "
            f"{self.made_by.get('data_name', '')}",
            controls=contest.controls,
            band_label="95% interval over questions; controls: mean over the random searches "
            "that have a length",
        )

    def plot_candidates(self) -> go.Figure:
        """Layers x best features by contrast: gain of each at equal KL, when choosing."""
        named = [[str(f) if f >= 0 else "none" for f in row] for row in self.candidates.tolist()]
        return plots.layer_heatmap(
            self.candidate_gains.tolist(),
            rows=list(self.layers),
            columns=list(range(1, self.candidates.shape[1] + 1)),
            column_title="rank by contrast",
            unit="nats",
            quantity="gain",
            title=f"Features and their gains, the best of each layer at {self.budget:g} nats of KL, "
            f"{self.made_by.get('data_name', '')}",
            hover=[[f"feature {name}" for name in row] for row in named],
            cell_names=named,
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        bundle = self.plot()._repr_mimebundle_(include, exclude)
        return {**bundle, "text/plain": self.summary()} if isinstance(bundle, dict) else bundle

    # Files

    def save(self, directory: Path | str) -> Path:
        """Writes comparison.safetensors, comparison.json and CSV tables into a folder."""
        names = ("norms", "candidates", "candidate_gains", "found_p")
        tensors = {name: getattr(self, name) for name in names}
        tensors |= self.at_equal_kl.tensors("kl.") | self.at_equal_utility.tensors("utility.")
        out = files.save(
            Path(directory), "comparison", tensors, self.sites, self.made_by, budget=self.budget,
            utility_drop=self.utility_drop, arms=list(self.at_equal_kl.arms),
            controls=list(self.at_equal_kl.controls),
        )  # fmt: skip
        for cost in ("kl", "utility"):
            name = f"comparison_at_equal_{cost}"
            write_text(out / f"{name}.csv", self.table(cost))
            write_text(out / f"{name}_by_layer.csv", self.table(cost, by_layer=True))
        return out

    @classmethod
    def load(cls, directory: Path | str) -> FeatureComparison:
        """Reads what `save` wrote."""
        tensors, sites, made_by = files.load(Path(directory), "comparison")
        extra = made_by.pop("_extra")
        contests = {
            cost: Contest(
                tuple(extra["arms"]),
                tuple(extra["controls"]),
                **{n.removeprefix(f"{cost}."): tensors.pop(n) for n in list(tensors)
                   if n.startswith(f"{cost}.")},
            )
            for cost in ("kl", "utility")
        }  # fmt: skip
        return cls(
            sites=sites,
            at_equal_kl=contests["kl"],
            at_equal_utility=contests["utility"],
            budget=extra["budget"],
            utility_drop=extra["utility_drop"],
            made_by=made_by,
            **tensors,
        )

    def __repr__(self) -> str:
        return self.summary()


_INTERVALS = ("gain", "kl", "utility", "over_diffmean", "over_random_feature", "over_searched")


def _shown(value: Any) -> str:
    if isinstance(value, Interval) and value.value != value.value:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
