"""Direct preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from steerlens.arguments import as_positive
from steerlens.training.objectives.objective import BOTH, NEGATIVE, POSITIVE, SteeredPairs


@dataclass(frozen=True)
class DPO:
    """DPO: the log-odds of the positive answer rise over those of the unsteered model.

    L = - log σ( β [ (log p_m(y_p) - log p_m(y_n)) - (log p(y_p) - log p(y_n)) ] )

    Log-probabilities are sums over the answer's tokens. It starts at ln 2.

    Source: arXiv:2305.18290, with the unsteered model as the reference.
    """

    beta: float = 0.1
    """β: how far the steered model may leave the unsteered one; smaller is farther."""
    strengths: tuple[float, ...] = (1.0,)
    """Multipliers during training; both answers of a pair are run with the same one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", as_positive("beta", self.beta))

    @property
    def sides(self) -> tuple[int, ...]:
        return BOTH

    def __call__(self, pairs: SteeredPairs) -> Float[Tensor, " pair"]:
        gained = pairs.log_probs(pairs.strengths()) - pairs.unsteered()
        return -logsigmoid(self.beta * (gained[:, POSITIVE] - gained[:, NEGATIVE]))
