"""The result of comparing ways of adapting a model at equal cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.comparison import way_pictures
from steerlens.analyses.comparison.concept_numbers import ConceptNumbers
from steerlens.analyses.comparison.criteria import CRITERIA, ranks_by
from steerlens.analyses.comparison.criterion import Criterion
from steerlens.analyses.comparison.crossed import as_ratios, crossed_interval
from steerlens.analyses.comparison.recommending import Recommendation, recommend
from steerlens.analyses.comparison.verdicts import Constraints, Verdict, usual, verdicts
from steerlens.analyses.comparison.way_section import way_section
from steerlens.report.numbers import format_interval
from steerlens.report.section import Section
from steerlens.results import Column, Result, ResultError, labelled
from steerlens.stats import Bounds, Interval

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class WayComparison(Result):
    """Ways of adapting a model, measured on the same examples at the same cost.

    Every number has an interval over groups of examples and over repetitions (`crossed_interval`);
    seconds have the range of the trainings.
    """

    kind: ClassVar[str] = "ways"

    ways: tuple[str, ...]
    settings: tuple[str, ...]
    """How each way was made."""
    concepts: tuple[str, ...]
    budget: float
    """Nats of KL per token of ordinary text that every way costs."""
    factors: Float[Tensor, " factor"]
    """Multiples of the multiplier that costs the budget; 0 and 1 among them."""
    multipliers: Float[Tensor, " multiplier"]
    """The ways' own multipliers along which nearness to the ideal was measured."""
    numbers: Mapping[str, ConceptNumbers]
    """By concept."""
    parameters: Int[Tensor, " way"]
    """Numbers that were trained or fitted."""
    stored: Int[Tensor, " way"]
    """Bytes that they take in float32, or a prompt's text in UTF-8."""
    changes_weights: Bool[Tensor, " way"]
    trained: Bool[Tensor, " way"]
    """Whether gradients made it."""
    pairs: int
    """Pairs that each way was made of."""
    samples: Mapping[str, tuple[str, ...]]
    """Texts of the first concept and repetition by what wrote them: a way, "unsteered", "in context"
    (after contexts of the positive side)."""
    sample_prompts: tuple[str, ...]
    made_by: dict[str, Any]

    # Places

    def find(self, way: str) -> int:
        """The index of a way.

        Raises:
            ValueError: If it was not compared.
        """
        if way not in self.ways:
            raise ValueError(f"{way!r} was not compared. Use one of {', '.join(self.ways)}.")
        return self.ways.index(way)

    def on(self, concept: str) -> WayComparison:
        """The comparison on one of its concepts alone.

        Raises:
            ValueError: If it was not compared on.
        """
        if concept not in self.numbers:
            raise ValueError(
                f"{concept!r} was not compared on. Use one of {', '.join(self.concepts)}."
            )
        return replace(self, concepts=(concept,), numbers={concept: self.numbers[concept]})

    @property
    def each(self) -> tuple[ConceptNumbers, ...]:
        """The numbers of every concept, in their order."""
        return tuple(self.numbers[concept] for concept in self.concepts)

    @property
    def repeats(self) -> int:
        """How often each way was made for each concept."""
        return self.each[0].seconds.shape[1]

    @property
    def at_budget(self) -> int:
        """The index of the factor 1."""
        return int((self.factors == 1).nonzero()[0])

    @property
    def readers(self) -> tuple[str, ...]:
        """What read the written texts, by name."""
        first = self.each[0].writings
        return () if first is None else tuple(first.steered)

    # Over all concepts

    def over(
        self, value: Callable[[ConceptNumbers], Tensor], groups: Callable[[ConceptNumbers], Any]
    ) -> Bounds:
        """The mean over concepts of a quantity [..., repeat, example], with its interval."""
        return crossed_interval(
            [value(one) for one in self.each],
            [
                None if groups(one) is None else stats.group_numbers(groups(one))
                for one in self.each
            ],
        )

    @property
    def gain_curve(self) -> Bounds:
        """Gain [way, factor] in nats."""
        return self.over(lambda one: one.gain.transpose(1, 2), lambda one: one.question_groups)

    @property
    def kl_curve(self) -> Bounds:
        """Nats of KL per token [way, factor], on texts that did not set the strength."""
        return self.over(lambda one: one.kl.transpose(1, 2), lambda one: None)

    @property
    def utility_curve(self) -> Bounds:
        """Change of utility [way, factor] in nats."""
        return self.over(lambda one: one.utility.transpose(1, 2), lambda one: one.question_groups)

    @property
    def has_ideal(self) -> bool:
        """Whether the exact distribution that is wanted was known."""
        return all(one.nearness is not None for one in self.each)

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """The criteria that were measured."""
        return tuple(one for one in CRITERIA if one.there(self))

    def criterion(self, name: str) -> Bounds:
        """A criterion of every way: value, low and high, each [way].

        Raises:
            ValueError: If it was not measured.
        """
        if name not in self._bounds:
            self._bounds[name] = self._named(name).bounds(self)
        return self._bounds[name]

    @cached_property
    def _bounds(self) -> dict[str, Bounds]:
        """What was asked before: a page asks for each criterion ten times."""
        return {}

    def interval(self, name: str, way: str) -> Interval:
        """A criterion of one way."""
        i = self.find(way)
        value, low, high = (float(part[i]) for part in self.criterion(name))
        return Interval(value, low, high)

    def _named(self, name: str) -> Criterion:
        for one in self.criteria:
            if one.name == name:
                return one
        raise ValueError(
            f"{name!r} was not measured. Use one of {', '.join(one.name for one in self.criteria)}."
        )

    def relative(self, name: str, to: str) -> Bounds:
        """A criterion as a share of another way's, with an interval over paired examples.

        Of several concepts it is the mean over them that is a share of the other's mean.

        Args:
            name: One whose numbers are of examples: "share", "gain" or "written".
            to: The way that counts as 1.

        Raises:
            ValueError: If the criterion has no number for each example.
        """
        criterion, k = self._of_examples(name), self.find(to)
        parts, groups = criterion(self)
        return crossed_interval(as_ratios(parts, [x[k].expand_as(x) for x in parts]), groups)

    def difference(self, name: str, way: str, than: str) -> Interval:
        """A criterion of one way less that of another, on the same examples.

        Raises:
            ValueError: If the criterion has no number for each example.
        """
        criterion, i, k = self._of_examples(name), self.find(way), self.find(than)
        parts, groups = criterion(self)
        found = crossed_interval([part[i] - part[k] for part in parts], groups)
        return Interval(*map(float, found))

    def _of_examples(self, name: str) -> Callable[[Any], Any]:
        """How a criterion's numbers of examples are made."""
        found = self._named(name).examples
        if found is None:
            raise ValueError(
                f"{name!r} has no number for each example, so it has no paired interval. Use "
                f"{', '.join(one.name for one in self.criteria if one.examples)}."
            )
        return found

    @property
    def best(self) -> str:
        """The way that ranks first."""
        return self.ways[self.ranking[0]]

    @property
    def headline(self) -> Mapping[str, str]:
        """The best way, with its gain and the cost at which all are compared."""
        return {
            "cell": self.best,
            "gain": f"{self.interval('gain', self.best)} nats",
            "cost": f"{self.budget:g} nats of KL",
        }

    @property
    def headline_numbers(self) -> Mapping[str, float]:
        """The gain of the best way, and the cost at which all are compared."""
        value, low, high = self.interval("gain", self.best)
        return {"gain": value, "gain_low": low, "gain_high": high, "cost": self.budget}

    # Deciding

    @property
    def ranked_by(self) -> str:
        """The criterion that ranks ways: nearness to the ideal where it is known, else the gain."""
        return ranks_by(self)

    @property
    def ranking(self) -> list[int]:
        """Indices of the ways by `ranked_by`, best first; those without it last."""
        values = self.criterion(self.ranked_by)[0].nan_to_num(-torch.inf)
        return values.argsort(descending=True, stable=True).tolist()

    def recommend(self, constraints: Constraints | None = None, /, **given: Any) -> Recommendation:
        """The ways that meet some constraints, best first, and why each other one does not.

        Args:
            constraints: Or its fields by name: ``recommend(weights=False, pairs=16)``.

        Raises:
            ValueError: If a constraint is on something that was not measured.
        """
        return recommend(self, constraints or Constraints(**given))

    def verdicts(
        self, constraints: Constraints | None = None, /, **given: Any
    ) -> dict[str, list[Verdict]]:
        """The verdict on every way by each constraint alone, by the constraint's field.

        Args:
            constraints: Or its fields by name; `steerlens.analyses.comparison.verdicts.USUAL` if none.

        Raises:
            ValueError: If a constraint is on something that was not measured.
        """
        return verdicts(self, self._asked(constraints, given))

    def _asked(self, constraints: Constraints | None, given: dict[str, Any]) -> Constraints:
        if constraints is None and not given:
            return usual({one.name for one in self.criteria})
        return constraints or Constraints(**given)

    # Tables

    def columns(self) -> Sequence[Column]:
        """Every criterion of every way with its interval."""
        found = []
        for criterion in self.criteria:
            for end, part in zip(
                ("", "_low", "_high"), self.criterion(criterion.name), strict=True
            ):
                found.append(Column(criterion.name.replace(" ", "_") + end, ("way",), part))
        found.append(Column("changes_weights", ("way",), self.changes_weights))
        return [*found, Column("trained", ("way",), self.trained)]

    # Words and pictures

    def summary(self) -> str:
        """Every way by `ranked_by`, with what it costs."""
        best = self.ranked_by
        lines = [
            f"Ways of adapting {self.made_by.get('model', 'the model')} to "
            f"{', '.join(self.concepts)} ({self.repeats} "
            f"{'repetitions' if self.repeats > 1 else 'repetition'}, {self.pairs} pairs, "
            f"{self.budget:g} nats of KL per token)"
        ]
        for i in self.ranking:
            words = []
            for name in dict.fromkeys((best, "gain", "seconds")):
                criterion = self._named(name)
                found = format_interval(self.interval(name, self.ways[i]), criterion.written)
                words.append(f"{criterion.short} {found}")
            lines.append(labelled(self.ways[i], ", ".join(words)))
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """What every way gains and comes near to, over what it costs."""
        return self.plot_tradeoff()

    def plot_tradeoff(self) -> go.Figure:
        """Gain and change of utility over KL, a line for each way."""
        return way_pictures.tradeoff(self)

    def plot_nearness(self) -> go.Figure:
        """The share of the way to the ideal over each way's own multiplier.

        Raises:
            ResultError: If the ideal is not known.
        """
        if not self.has_ideal:
            raise ResultError("The exact distribution that is wanted is not known on this model.")
        return way_pictures.nearness(self)

    def plot_afterwards(self) -> go.Figure:
        """KL from a run that was never steered by tokens since each way was switched off.

        Raises:
            ResultError: If it was not measured.
        """
        if any(one.afterwards is None for one in self.each):
            raise ResultError(
                "Nothing was written, or the context has no room for twice as many tokens, so no way "
                "was switched off within a text. Compare with written=24 and fewer new_tokens."
            )
        return way_pictures.afterwards(self)

    def plot_criteria(self) -> go.Figure:
        """A panel for each criterion: every way with its interval, the best by `ranked_by` on top."""
        return way_pictures.criteria(self)

    @property
    def has_radar(self) -> bool:
        """Whether there are several ways, and enough criteria tell them apart for a radar."""
        return len(self.ways) > 1 and len(way_pictures.spokes(self)[0]) >= plots.FEWEST_SPOKES

    def plot_radar(self) -> go.Figure:
        """A circle for each way with a spoke for each of the chief criteria, on a stated scale.

        Raises:
            ValueError: If fewer than three criteria tell the ways apart.
        """
        return way_pictures.radar(self)

    def plot_decisions(self, constraints: Constraints | None = None, /, **given: Any) -> go.Figure:
        """Which ways meet which constraints, each by itself, with the number that decides it.

        Args:
            constraints: As for `verdicts`.
        """
        return way_pictures.decisions(self, self._asked(constraints, given))

    def section(self, beside: Mapping[str, Result]) -> Section:
        """The answer, the table, the figures and the limits."""
        return way_section(self)
