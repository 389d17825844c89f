"""Tasks whose score is exact: what ways are made of, and what is right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.data import ContrastSet
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.protocols import Intervention
from steerlens.training.objectives.match_distribution import TargetDistribution


@dataclass(frozen=True, kw_only=True)
class Score:
    """One exact score of a task."""

    name: str
    meaning: str
    groups: tuple[str, ...]
    """The group of each example, the unit of the interval."""
    share: bool = True
    """Whether every example's number lies between 0 and 1."""
    unit: str = ""


@runtime_checkable
class ExactMeasure(Protocol):
    """What takes exact scores of a model under a way."""

    @property
    def scores(self) -> tuple[Score, ...]: ...

    def __call__(
        self, model: Model, arm: Intervention, multiplier: float
    ) -> Mapping[str, Float[Tensor, " _example"]]:
        """A number for each example, by the name of the score. Multiplier 0 is the model alone."""
        ...


@dataclass(frozen=True, kw_only=True)
class ExactTask:
    """What ways are made of for a task, and how they are scored.

    `texts`, `fit` and `validation` have an entry for each repetition, as those of a `WayTask`.
    """

    concept: str
    """The name of the task."""
    texts: tuple[ContrastSet, ...]
    fit: tuple[ContrastSet, ...]
    """Pairs of a right and a wrong answer to train on."""
    validation: tuple[ContrastSet | None, ...]
    calibrating: tuple[str, ...]
    """Ordinary texts that set the strength at which a way costs the budget."""
    neutral: tuple[str, ...]
    """Others, on which the cost is reported."""
    measures: tuple[ExactMeasure, ...]
    target: TargetDistribution | None = None

    @property
    def scores(self) -> tuple[Score, ...]:
        """Everything that is scored."""
        return tuple(score for measure in self.measures for score in measure.scores)

    @property
    def repeats(self) -> int:
        """How often each way is made."""
        return len(self.fit)


@dataclass(frozen=True)
class Accuracy:
    """The share of questions whose right answer is likelier than every wrong one.

    A question is the pairs that share a prompt and a positive answer, which is the right one; there
    is a pair for each wrong answer. The probability of an answer is that of all its tokens.
    """

    questions: ContrastSet
    name: str = "accuracy"
    meaning: str = "share of questions whose right answer is likelier than every wrong one"

    def _index(self) -> tuple[Tensor, list[str]]:
        known: dict[tuple[str, str], int] = {}
        groups: list[str] = []
        index = []
        for pair, group in zip(self.questions, self.questions.groups, strict=True):
            key = (pair.prompt, pair.positive)
            if key not in known:
                known[key] = len(known)
                groups.append(str(group))
            index.append(known[key])
        return torch.tensor(index), groups

    @property
    def scores(self) -> tuple[Score, ...]:
        groups = tuple(self._index()[1])
        return (Score(name=self.name, meaning=self.meaning, groups=groups, unit="of questions"),)

    def __call__(
        self, model: Model, arm: Intervention, multiplier: float
    ) -> dict[str, Float[Tensor, " question"]]:
        """1 for each question that is answered, else 0."""
        index, groups = self._index()
        odds = sweep(
            model, self.questions, [arm], (multiplier,), log_odds_only=True, progress=False
        ).log_odds[0, 0]
        least = torch.full((len(groups),), torch.inf).scatter_reduce(0, index, odds, "amin")
        return {self.name: (least > 0).float()}
