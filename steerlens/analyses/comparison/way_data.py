"""What a way of adapting a model is made of: the data of one concept, and how long it may train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from steerlens.data import ContrastSet
from steerlens.models.model import Model
from steerlens.protocols import Intervention
from steerlens.sites import Positions, Site
from steerlens.training.objectives.match_distribution import TargetDistribution


@dataclass(frozen=True, kw_only=True)
class WayData:
    """The data of one concept and one repetition, the same for every way."""

    model: Model
    texts: ContrastSet
    """Pairs of texts for directions and prompts."""
    fit: ContrastSet
    """Pairs of answers to train on; they show the concept's positive side."""
    validation: ContrastSet | None
    """Pairs by which training is stopped; they share no group with `fit`."""
    site: Site
    """Where ways that act at one site do so."""
    target: TargetDistribution | None = None
    """The exact distribution that is wanted, where it is known."""
    positions: Positions = Positions.all()
    """Which tokens edits of the stream are applied to."""
    steps: int = 60
    """The most steps of training."""
    batch: int = 16
    """Pairs in each step."""
    rates: tuple[float, ...] = (1.0,)
    """Learning rates that are tried, as multiples of each form's own."""
    seed: int = 0
    progress: bool = True


@runtime_checkable
class Way(Protocol):
    """A way of adapting a model: the data of a concept in, an intervention out. Its repr says how."""

    def __call__(self, data: WayData) -> Intervention: ...


class WayError(ValueError):
    """A way that there is not, or that its data do not allow."""
