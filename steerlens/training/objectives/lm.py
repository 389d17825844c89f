"""The likelihood of the wanted answers."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from steerlens.training.objectives.objective import POSITIVE, SteeredPairs, by_tokens


@dataclass(frozen=True)
class LM:
    """Negative log-likelihood of the positive answers, in nats per token of the batch.

    L = - sum_i log p_m(y_i | x_i) / sum_i |y_i|

    Source: "Lang." of AxBench and RePS, arXiv:2501.17148 and 2505.20809; "SFT" of arXiv:2602.02343.
    """

    strengths: tuple[float, ...] = (1.0,)
    """Multipliers during training; one is drawn for each pair."""

    @property
    def sides(self) -> tuple[int, ...]:
        return (POSITIVE,)

    def __call__(self, pairs: SteeredPairs) -> Float[Tensor, " pair"]:
        log_probs = pairs.log_probs(pairs.strengths(), (POSITIVE,))[:, 0]
        return by_tokens(log_probs, pairs.lengths()[:, POSITIVE])
