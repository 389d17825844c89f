"""What ways of adapting a model are measured on, for one concept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from steerlens.data import ContrastSet
from steerlens.protocols import Scorer
from steerlens.training.objectives.match_distribution import TargetDistribution


@dataclass(frozen=True, kw_only=True)
class WayTask:
    """The data of one concept. The parts share no question.

    `texts`, `fit` and `validation` have an entry for each repetition; everything else is the same
    for all, so that ways and repetitions are compared question by question.
    """

    concept: str
    texts: tuple[ContrastSet, ...]
    """Pairs of texts for directions and prompts."""
    fit: tuple[ContrastSet, ...]
    """Pairs of answers to train on."""
    validation: tuple[ContrastSet | None, ...]
    """Pairs by which training is stopped."""
    report: ContrastSet
    """Questions for the gain and the utility."""
    others: Mapping[str, ContrastSet] = field(default_factory=dict)
    """Questions about other concepts, by name, which should not be moved."""
    calibrating: tuple[str, ...]
    """Ordinary texts that set the strength at which a way costs the budget."""
    neutral: tuple[str, ...]
    """Others, on which the cost is reported."""
    target: TargetDistribution | None = None
    """The exact distribution that is wanted, where it is known."""
    choosing: ContrastSet | None = None
    """Texts of the target, to choose the strength that comes nearest to it."""
    reached: ContrastSet | None = None
    """Others, to report how near that is."""
    prompts: tuple[str, ...] = ()
    """What is continued; none for no texts."""
    readers: Mapping[str, Scorer] = field(default_factory=dict)
    """What reads the texts, by name; the first one's numbers grow with the concept."""
    contexts: tuple[str, ...] = ()
    """What stands before the prompts, in turn, for the texts that give a scale; none for no scale."""
    new_tokens: int = 16
    """Tokens of each text."""
    temperature: float = 0.0
    """0 takes the likeliest token."""

    @property
    def repeats(self) -> int:
        """How often each way is made."""
        return len(self.fit)
