"""A batch of pairs as an objective sees it: scored under the intervention that is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.interventions.changes import Composed
from steerlens.training.objectives.objective import BOTH, Distributions
from steerlens.training.steered_pass import SteeredPass


@dataclass(frozen=True, eq=False)
class SteeredBatch:
    """Some pairs under one state of the parameters. It fills the protocol `SteeredPairs`."""

    run: SteeredPass
    index: Int[Tensor, " pair"]
    """Which of the training pairs these are."""
    intervention: Composed
    null: Composed | None
    """What suppresses instead; None where the opposite multiplier does."""
    reference: Callable[[], Float[Tensor, "all side=2"]]
    """Unsteered log-probabilities of all pairs, computed when they are first asked for."""
    wanted: Sequence[Float[Tensor, "_token d_vocab"]] | None
    """The target distribution along the positive answer of every pair."""
    choices: tuple[float, ...]
    """The multipliers that are drawn from."""
    generator: torch.Generator
    """Draws multipliers and signs; on the CPU, whatever the device of the model."""

    def lengths(self) -> Int[Tensor, "pair side=2"]:
        return self.run.pairs.lengths[self.index]

    def unsteered(self) -> Float[Tensor, "pair side=2"]:
        return self.reference()[self.index]

    def strengths(self) -> Float[Tensor, " pair"]:
        count = len(self.index) if self.intervention.per_row else 1
        drawn = torch.randint(len(self.choices), (count,), generator=self.generator)
        found = torch.tensor(self.choices)[drawn].expand(len(self.index))
        return found.to(self.run.model.device)

    def signs(self) -> Float[Tensor, " pair"]:
        drawn = 2.0 * torch.randint(2, (1,), generator=self.generator) - 1.0
        return drawn.expand(len(self.index)).to(self.run.model.device)

    def normal(self) -> Float[Tensor, " pair"]:
        count = len(self.index) if self.intervention.per_row else 1
        drawn = torch.randn(count, generator=self.generator, dtype=torch.float32).expand(
            len(self.index)
        )
        return drawn.to(self.run.model.device)

    def log_probs(
        self,
        strengths: Float[Tensor, " pair"] | Sequence[Float[Tensor, " pair"]],
        sides: Sequence[int] = BOTH,
        *,
        null: bool = False,
    ) -> Float[Tensor, "pair side"]:
        each = [strengths] * len(sides) if isinstance(strengths, Tensor) else list(strengths)
        given = torch.stack(each, 1)
        intervention = self.intervention
        if null and self.null is not None:
            intervention, given = self.null, torch.ones_like(given)
        elif null:
            given = -given
        return self.run.log_probs(intervention, self.index, given, sides)

    def distributions(self, strengths: Float[Tensor, " pair"], side: int) -> Distributions:
        assert self.wanted is not None
        log_probs = self.run.distributions(self.intervention, self.index, strengths, side)
        wanted = [self.wanted[i] for i in self.index.tolist()]
        lengths = torch.tensor([len(rows) for rows in wanted])
        pair = torch.arange(len(wanted)).repeat_interleave(lengths)
        return Distributions(log_probs, torch.cat(wanted).to(log_probs), pair.to(log_probs.device))
