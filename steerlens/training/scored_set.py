"""Pairs that are ready to be scored under training: tokens, cached states, references, targets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.data import ContrastSet
from steerlens.interventions.changes import Composed
from steerlens.models.model import Model
from steerlens.training.objectives.match_distribution import (
    MatchDistribution,
    TargetDistribution,
    digest_of,
)
from steerlens.training.objectives.objective import BOTH, POSITIVE, Objective
from steerlens.training.steered_batch import SteeredBatch
from steerlens.training.steered_pass import SteeredPass
from steerlens.training.training_errors import TrainingError
from steerlens.training.training_pairs import TrainingPairs

AT_ONCE = 16
"""Pairs that are scored at once without gradients; a bound that depends on nothing."""


class ScoredSet:
    """One set of pairs, for training or for validation."""

    def __init__(
        self, model: Model, pairs: ContrastSet, objective: Objective, begun: Sequence[Composed]
    ) -> None:
        """
        Args:
            begun: The interventions at the start of training: what is trained, and what suppresses.

        Raises:
            ValueError: If a pair cannot be scored, or an edit chooses no token of it.
            TrainingError: If a target distribution is not one of this model's words.
        """
        self.name = pairs.name
        self.groups = pairs.groups
        self.tokens = TrainingPairs.of(model, pairs)
        self.run = SteeredPass(model, self.tokens, begun)
        self.wanted = None
        if isinstance(objective, MatchDistribution):
            self.wanted = wanted_along(model, pairs, self.tokens, objective.target)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def reference(self) -> Float[Tensor, "pair side=2"]:
        """Log-probability of every answer without the intervention."""
        with torch.no_grad():
            parts = []
            for index in self.chunks:
                zeros = torch.zeros(len(index), len(BOTH), device=self.run.model.device)
                parts.append(self.run.log_probs(None, index, zeros, BOTH))
        return torch.cat(parts)

    @property
    def chunks(self) -> Sequence[Int[Tensor, " pair"]]:
        """All pairs in their order, a few at a time."""
        return torch.arange(len(self)).split(AT_ONCE)

    @property
    def digest(self) -> str:
        """A hash of what is asked: the tokens, and the target's numbers where there are some."""
        if self.wanted is None:
            return self.tokens.digest
        return f"{self.tokens.digest}-{digest_of(torch.cat(self.wanted))}"

    def batch(
        self,
        index: Int[Tensor, " pair"],
        intervention: Composed,
        null: Composed | None,
        choices: tuple[float, ...],
        generator: torch.Generator,
    ) -> SteeredBatch:
        """Some of the pairs under one state of the parameters."""
        return SteeredBatch(
            self.run, index, intervention, null, lambda: self.reference, self.wanted, choices,
            generator,
        )  # fmt: skip


def wanted_along(
    model: Model, pairs: ContrastSet, tokens: TrainingPairs, target: TargetDistribution
) -> list[Float[Tensor, "_token d_vocab"]]:
    """The target distribution along the positive answer of every pair.

    Raises:
        TrainingError: If it is not one of this model's words.
    """
    found = []
    for i, pair in enumerate(pairs):
        wanted = torch.as_tensor(target(pair.prompt, pair.positive)).float().cpu()
        shape = (int(tokens.lengths[i, POSITIVE]), model.cfg.d_vocab)
        sums = wanted.sum(-1)
        if tuple(wanted.shape) != shape or not bool((sums - 1).abs().max() < 1e-3):
            raise TrainingError(
                f"{target!r:.80} gave {tuple(wanted.shape)} probabilities with sums "
                f"{float(sums.min()):.4g} to {float(sums.max()):.4g} for pair {i}, whose positive "
                f"answer {pair.positive!r:.60} needs {shape[0]} rows over {shape[1]} words that sum "
                "to 1. Give a distribution for each token of the answer."
            )
        found.append(wanted)
    return found
