"""Log-probabilities of the answers of questions, from the final states that predict their tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.measures.tokenised import Questions
from steerlens.models.model import Model


@dataclass(frozen=True, eq=False)
class AnswerScores:
    """Scores both answers of questions in some cells."""

    model: Model
    odds: bool
    """Whether only the log-odds are wanted: the normaliser over the vocabulary is then left out
    where both answers are read from one state."""
    memory: int
    """Bytes of working memory for logits."""

    def __call__(
        self, states: Float[Tensor, "example cell variant read d_model"], asked: Questions
    ) -> Float[Tensor, "example cell 2"]:
        """Summed log-probabilities of the positive and the negative answer, in nats.

        With `odds` they are the log-odds and zero.

        Args:
            states: What the unembedding reads: the last `asked.read` columns, after the final norm.
        """
        self.model.readout.require_known()
        both = asked.targets.expand(-1, 2, -1)
        if asked.variants == 1:
            states = states.expand(-1, -1, 2, -1, -1)
        # In float32: a difference of two large half-precision logits is mostly rounding.
        states = states.float()
        unembed = self.model.wrapped.unembed
        weight = unembed.W_U.T[both].float()  # [example, 2, read, d_model]
        logits = torch.einsum("pcvrd,pvrd->pcvr", states, weight) + unembed.b_U[both][:, None]
        log_probs = self.model.readout.finish(logits.float())
        if asked.variants == 2 or not self.odds:
            distinct = states[:, :, : asked.variants]
            normaliser = self.model.readout.log_normaliser(distinct, self.memory)
            log_probs = (log_probs - normaliser).float()
        sums = (log_probs * asked.counted[:, None]).sum(-1)
        if self.odds:
            return torch.stack([sums[..., 0] - sums[..., 1], torch.zeros_like(sums[..., 0])], -1)
        return sums
