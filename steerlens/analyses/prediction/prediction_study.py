"""Predictors held against what steering did, over many layers, concepts and models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.arguments import ArgumentError
from steerlens.report.numbers import format_interval, format_signed
from steerlens.report.section import Figure, Heading, Printed, Section, Table
from steerlens.results import Column, Result
from steerlens.stats import Interval, group_numbers

if TYPE_CHECKING:
    import plotly.graph_objects as go

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Parts of the sites that a search maps, of which the regret is shown."""
ORACLE = "by chance"


@dataclass(frozen=True, eq=False, repr=False)
class PredictionStudy(Result):
    """For every case (a model and a contrast): predictors, and what steering did at each site.

    Cases of one concept are a group: intervals over cases resample concepts. Sites that a case does
    not have are NaN.
    """

    kind: ClassVar[str] = "prediction"
    cases: tuple[str, ...]
    concepts: tuple[str, ...]
    """The group of each case."""
    predictors: tuple[str, ...]
    values: Float[Tensor, "case predictor site"]
    outcomes: tuple[str, ...]
    """"gain" (at the budget, on held-out questions), "mediated", "direct", and "written" (the share of
    what the contrast's contexts write); NaN in cases whose texts were not read."""
    effects: Float[Tensor, "case outcome site"]
    by_choosing: Float[Tensor, "case site"]
    """Gain on the questions by which a search would choose; `effects` are on others."""
    seconds: Float[Tensor, "case part=2"]
    """Processor seconds: of all predictors, and of the map of all sites."""
    made_by: dict[str, Any]

    def coordinates(self, axis: str, size: int) -> Mapping[str, Sequence[Any]]:
        """Names of cases, predictors and outcomes."""
        named: dict[str, Mapping[str, Sequence[Any]]] = {
            "case": {"case": list(self.cases), "concept": list(self.concepts)},
            "predictor": {"predictor": list(self.predictors)},
            "outcome": {"outcome": list(self.outcomes)},
        }
        return named[axis] if axis in named else super().coordinates(axis, size)

    def columns(self) -> list[Column]:
        """Predictors and effects, site by site."""
        return [
            Column("value", ("case", "predictor", "site"), self.values),
            Column("effect", ("case", "outcome", "site"), self.effects),
        ]

    def by_case(self, predictor: str, outcome: str) -> Float[Tensor, " case"]:
        """Spearman's correlation over the sites of each case; NaN where one side is constant."""
        x = self.values[:, self._index(predictor, self.predictors)]
        y = self.effects[:, self._index(outcome, self.outcomes)]
        found = []
        for a, b in zip(x, y, strict=True):
            known = a.isfinite() & b.isfinite()
            found.append(stats.rank_correlation(a[known], b[known]).value)
        return torch.tensor(found)

    def correlation(self, predictor: str, outcome: str) -> Interval:
        """The mean of `by_case`, with its interval over concepts."""
        each = self.by_case(predictor, outcome)
        known = each.isfinite()
        groups = [name for name, k in zip(self.concepts, known.tolist(), strict=True) if k]
        if not groups:
            return Interval(*3 * (float("nan"),))
        return _within_one(stats.mean_interval(each[known], group_numbers(groups)))

    def left_out(self, outcome: str, names: Sequence[str] | None = None) -> Interval:
        """Mean correlation of a linear rule of ranks, fitted to all concepts but the one it orders.

        Args:
            names: The predictors of the rule; all that every case has, by default.
        """
        asked = list(names) if names is not None else self._complete()
        effects = self.effects[:, self._index(outcome, self.outcomes)]
        rows = [self.values[:, self._index(name, self.predictors)] for name in asked]
        found, groups = [], []
        measured = [i for i in range(len(self.cases)) if bool(effects[i].isfinite().any())]
        for concept in dict.fromkeys(self.concepts[i] for i in measured):
            own = [i for i in measured if self.concepts[i] == concept]
            others = [i for i in measured if i not in own]
            if not others:
                return Interval(*3 * (float("nan"),))
            x = torch.cat([_ranks([row[i] for row in rows], effects[i])[0] for i in others])
            y = torch.cat([_ranks([row[i] for row in rows], effects[i])[1] for i in others])
            weights = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
            for i in own:
                ranks, truth = _ranks([row[i] for row in rows], effects[i])
                found.append(stats.rank_correlation(ranks @ weights, truth).value)
                groups.append(concept)
        each = torch.tensor(found)
        known = each.isfinite()
        kept = [name for name, k in zip(groups, known.tolist(), strict=True) if k]
        return Interval(*(float(x) for x in stats.mean_interval(each[known], group_numbers(kept))))

    def regret(self, predictor: str, share: float) -> Interval:
        """How much of the best gain is lost where only the first sites by a predictor are mapped.

        The site is chosen on one half of the questions among those on the shortlist, and among all
        sites; the loss is the difference of their gains on the other half, as a share of the latter.
        "by chance" is the mean over all shortlists.
        """
        found = []
        for i in range(len(self.cases)):
            known = self.by_choosing[i].isfinite()
            chosen, gains = self.by_choosing[i][known], self.effects[i, 0][known]
            count = max(1, round(share * len(gains)))
            best = gains[chosen.argmax()]
            if predictor == ORACLE:
                generator = torch.Generator().manual_seed(i)
                lists = [
                    torch.randperm(len(gains), generator=generator)[:count] for _ in range(200)
                ]
            else:
                order = self.values[i, self._index(predictor, self.predictors)][known]
                lists = [order.nan_to_num(-torch.inf).argsort(descending=True)[:count]]
            got = torch.stack([gains[one[chosen[one].argmax()]] for one in lists]).mean()
            found.append(float((best - got) / best.clamp(min=1e-3)))
        bounds = stats.mean_interval(torch.tensor(found), group_numbers(self.concepts))
        return Interval(*(float(x) for x in bounds))

    def time_share(self, share: float) -> float:
        """Median over cases of the processor time of a search over that of the whole map."""
        predicting, mapping = self.seconds.unbind(-1)
        return float(((predicting + share * mapping) / mapping).median())

    def summary(self) -> str:
        """Spearman's correlation of every predictor with every outcome, and what a search loses."""
        n, concepts = len(self.cases), len(set(self.concepts))
        lines = [f"{n} cases, {concepts} concepts; mean Spearman over the sites of a case"]
        for name in self.predictors:
            found = [
                f"{outcome} {format_interval(self.correlation(name, outcome), format_signed)}"
                for outcome in self.outcomes
            ]
            lines.append(f"  {name}: {', '.join(found)}")
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """How well each predictor orders the sites by each outcome, with intervals."""
        panels = {}
        for outcome in self.outcomes:
            found = [self.correlation(name, outcome) for name in self.predictors]
            bounds = tuple(
                torch.tensor([getattr(one, side) for one in found]).numpy()
                for side in ("value", "low", "high")
            )
            panels[outcome] = (bounds, "Spearman", False, "more")
        return plots.criteria_dots(
            panels, rows=self.predictors, title="What orders the layers before they are steered",
            whiskers_are="95% intervals over concepts",
        )  # fmt: skip

    def plot_regret(self, predictors: Sequence[str] | None = None) -> go.Figure:
        """What part of the best gain a search loses over the part of the sites that it maps."""
        asked = [*(predictors or self._in_nats()), ORACLE]
        series = {}
        for name in asked:
            found = [self.regret(name, share) for share in SHARES]
            series[name] = tuple(
                torch.tensor([getattr(one, side) for one in found]).numpy()
                for side in ("value", "low", "high")
            )
        return plots.regret_curve(series, shares=SHARES, title="What a short search loses")

    def section(self, beside: Mapping[str, Result]) -> Section:
        """Both figures and the table."""
        head = (Heading("predictor", number=False), *map(Heading, self.outcomes))
        rows = tuple(
            (
                name,
                *(
                    format_interval(self.correlation(name, outcome), format_signed)
                    for outcome in self.outcomes
                ),
            )
            for name in self.predictors
        )
        blocks = (
            Printed(self.summary()),
            Figure(self.plot, "Each dot is a mean over cases; intervals are over concepts."),
            Table(head, rows, "Spearman's correlation over the sites of a case."),
            Figure(self.plot_regret, "Share of the best gain on held-out questions that is lost."),
        )
        return Section("Where will steering work?", blocks, short="Prediction")

    def _in_nats(self) -> list[str]:
        return [name for name in self.predictors if name.endswith("at budget")]

    def _complete(self) -> list[str]:
        known = self.effects[:, :1].isfinite()
        return [
            name
            for k, name in enumerate(self.predictors)
            if bool((self.values[:, k : k + 1].isfinite() | ~known).all())
        ]

    @staticmethod
    def _index(name: str, names: tuple[str, ...]) -> int:
        if name not in names:
            raise ArgumentError(f"{name!r} is not one of {', '.join(names)}. Use one of them.")
        return names.index(name)


def _within_one(bounds: stats.Bounds) -> Interval:
    """The interval of a mean correlation, which cannot be beyond 1."""
    return Interval(*(float(x.clamp(-1, 1)) for x in bounds))


def _ranks(
    rows: Sequence[Float[Tensor, " site"]], effect: Float[Tensor, " site"]
) -> tuple[Float[Tensor, "known predictor"], Float[Tensor, " known"]]:
    """Standardised ranks of predictors and effect over the sites where all are known."""
    known = torch.stack([*rows, effect]).isfinite().all(0)

    def ranked(values: Tensor) -> Tensor:
        ranks = values[known].argsort().argsort().float()
        return (ranks - ranks.mean()) / ranks.std().clamp(min=1e-9)

    return torch.stack([ranked(row) for row in rows], -1), ranked(effect)
