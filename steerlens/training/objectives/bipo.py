"""Bi-directional preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from steerlens.arguments import as_positive
from steerlens.training.objectives.objective import BOTH, NEGATIVE, POSITIVE, SteeredPairs


@dataclass(frozen=True)
class BiPO:
    """BiPO: DPO at +m and, with the answers exchanged, at -m.

    L = - log σ( d β [ (log p_dm(y_p) - log p_dm(y_n)) - (log p(y_p) - log p(y_n)) ] )

    Each batch draws d from {-1, +1}. Log-probabilities are sums over the answer's tokens. It starts
    at ln 2.

    Source: arXiv:2406.00045 and `CaoYuanpu/BiPO`: zero vector, all positions, β = .1, AdamW. Its
    learning rate of 5e-4 with 100 steps of warm-up and a cosine is not taken over: the trainer's
    schedule is, with the rate of the form. AxBench used β = 1.
    """

    beta: float = 0.1
    """β: how far the steered model may leave the unsteered one; smaller is farther."""
    strengths: tuple[float, ...] = (1.0,)
    """Sizes of the multiplier during training; the sign is drawn for each batch."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", as_positive("beta", self.beta))

    @property
    def sides(self) -> tuple[int, ...]:
        return BOTH

    def __call__(self, pairs: SteeredPairs) -> Float[Tensor, " pair"]:
        sign = pairs.signs()
        gained = pairs.log_probs(sign * pairs.strengths()) - pairs.unsteered()
        return -logsigmoid(sign * self.beta * (gained[:, POSITIVE] - gained[:, NEGATIVE]))
