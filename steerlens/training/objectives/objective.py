"""The shape of a training objective: steered answers in, a loss for every pair out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

POSITIVE, NEGATIVE = 0, 1
"""The two sides of a pair, as indices of the axis `side`."""
BOTH = (POSITIVE, NEGATIVE)


@dataclass(frozen=True, eq=False)
class Distributions:
    """Next-token distributions at every token of some answers, with those that are wanted."""

    log_probs: Float[Tensor, "token d_vocab"]
    """Of the steered model, in nats."""
    wanted: Float[Tensor, "token d_vocab"]
    """Probabilities of the target distribution."""
    pair: Int[Tensor, " token"]
    """The pair that each token belongs to."""


@runtime_checkable
class SteeredPairs(Protocol):
    """A batch of pairs under the intervention that is trained: all that an objective sees.

    Log-probabilities are of whole answers: sums over the answer's tokens, in nats. What depends on
    the parameters carries gradients.
    """

    def lengths(self) -> Int[Tensor, "pair side=2"]:
        """How many tokens each answer has."""
        ...

    def unsteered(self) -> Float[Tensor, "pair side=2"]:
        """Log-probability of each answer without the intervention; no gradient."""
        ...

    def strengths(self) -> Float[Tensor, " pair"]:
        """Multipliers drawn from the trainer's strengths.

        One for each pair where the intervention takes one per row, else one for all.
        """
        ...

    def signs(self) -> Float[Tensor, " pair"]:
        """-1 or +1, the same for all pairs of the batch, with equal chances."""
        ...

    def normal(self) -> Float[Tensor, " pair"]:
        """Standard normal numbers, one for each pair where the strengths are, else one for all."""
        ...

    def log_probs(
        self,
        strengths: Float[Tensor, " pair"] | Sequence[Float[Tensor, " pair"]],
        sides: Sequence[int] = BOTH,
        *,
        null: bool = False,
    ) -> Float[Tensor, "pair side"]:
        """Log-probability of the answers of the asked sides under the intervention.

        Args:
            strengths: Multipliers for all sides, or for each side its own.
            null: Under the form's suppression instead: what its `null` gives, where it has one, else
                the intervention at the opposite multiplier.
        """
        ...

    def distributions(self, strengths: Float[Tensor, " pair"], side: int) -> Distributions:
        """Next-token distributions along the answers of one side, and the target's."""
        ...


@runtime_checkable
class Objective(Protocol):
    """What is minimised. Its repr states it with all settings, as results and files print it."""

    @property
    def strengths(self) -> tuple[float, ...]:
        """Multipliers during training, where the trainer is given none."""
        ...

    @property
    def sides(self) -> tuple[int, ...]:
        """The sides of a pair that it reads: (0,) for the positive answers alone, else (0, 1)."""
        ...

    def __call__(self, pairs: SteeredPairs) -> Float[Tensor, " pair"]:
        """A loss for each pair, in nats; the loss of a batch is their mean."""
        ...


def by_tokens(
    log_probs: Float[Tensor, " pair"], lengths: Int[Tensor, " pair"]
) -> Float[Tensor, " pair"]:
    """Negative log-likelihoods whose mean over pairs is the mean over all tokens of the batch.

    That is the loss of a language model on a batch as Hugging Face takes it: longer answers count
    more.
    """
    return -log_probs * len(lengths) / lengths.sum()
