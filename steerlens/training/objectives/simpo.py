"""Simple preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from steerlens.arguments import ArgumentError, as_float, as_positive
from steerlens.training.objectives.objective import BOTH, NEGATIVE, POSITIVE, SteeredPairs


@dataclass(frozen=True)
class SimPO:
    """SimPO: the positive answer is likelier per token than the negative one, by a margin.

    L = - log σ( β [ log p_m(y_p) / |y_p| - log p_m(y_n) / |y_n| - μ ] )

    There is no reference: what the unsteered model makes of the answers counts as well.

    Source: arXiv:2405.14734, with β and μ = γ/β of FSRL (arXiv:2509.12934).
    """

    beta: float = 10.0
    """β: how sharply the margin is held."""
    margin: float = 0.5
    """μ, in nats per token."""
    strengths: tuple[float, ...] = (1.0,)
    """Multipliers during training; both answers of a pair are run with the same one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", as_positive("beta", self.beta))
        object.__setattr__(self, "margin", as_float("margin", self.margin))
        if self.margin < 0:
            raise ArgumentError(f"margin={self.margin:g} is below 0. Give 0 or more.")

    @property
    def sides(self) -> tuple[int, ...]:
        return BOTH

    def __call__(self, pairs: SteeredPairs) -> Float[Tensor, " pair"]:
        per_token = pairs.log_probs(pairs.strengths()) / pairs.lengths()
        gap = per_token[:, POSITIVE] - per_token[:, NEGATIVE]
        return -logsigmoid(self.beta * (gap - self.margin))
