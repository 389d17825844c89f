"""Which token is written: the likeliest one, or a draw from a random stream of the row's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


class RandomDraws:
    """Random numbers for each row; rows of one stream have the same, drawn once."""

    def __init__(self, generators: Sequence[torch.Generator], of_row: Int[Tensor, " row"]) -> None:
        self.generators, self.of_row = generators, of_row

    @classmethod
    def of(cls, seed: int, streams: Sequence[int]) -> RandomDraws:
        """Those of the stream of each row, from its start."""
        own = sorted(set(streams))
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + s) for s in own]
        return cls(generators, torch.tensor([own.index(s) for s in streams]))

    def rows(self, index: Int[Tensor, " row"]) -> RandomDraws:
        """Those of some rows, which go on with their streams."""
        used, of_row = self.of_row[index.cpu()].unique(return_inverse=True)
        return RandomDraws([self.generators[k] for k in used.tolist()], of_row)

    def skip(self, tokens: int, width: int) -> None:
        """Leaves out the numbers of some tokens that are written already.

        Args:
            width: Tokens in the vocabulary.
        """
        for generator in self.generators:
            for _ in range(tokens):
                self._uniform(width, generator)

    @staticmethod
    def _uniform(width: int, generator: torch.Generator) -> Float[Tensor, " d_vocab"]:
        return torch.rand(width, generator=generator, dtype=torch.float32)

    def gumbel(self, logits: Float[Tensor, "row d_vocab"]) -> Float[Tensor, "row d_vocab"]:
        """-log(-log u) of uniform numbers, drawn on the CPU, where every machine draws the same."""
        width = logits.shape[-1]
        drawn = torch.stack([self._uniform(width, g) for g in self.generators])
        uniform = drawn.to(logits.device).clamp(1e-20, 1 - 1e-7)
        return -torch.log(-torch.log(uniform)).to(logits)[self.of_row.to(logits.device)]


def sampled(
    logits: Float[Tensor, "row d_vocab"], temperature: float, draws: RandomDraws
) -> Int[Tensor, " row"]:
    """The next token of each row; at temperature 0 the likeliest one, without a draw."""
    if temperature == 0:
        return logits.argmax(-1)
    # Gumbel's trick: the argmax of logits plus this noise is a draw from the softmax.
    return (logits / temperature + draws.gumbel(logits)).argmax(-1)


def require_finite(logits: Float[Tensor, "row d_vocab"]) -> None:
    """Raises ValueError if no token can be chosen from some logits."""
    if not bool(torch.isfinite(logits.sum(-1)).all()):  # any NaN or infinity is in the sum
        raise ValueError(
            "The logits of the next token are NaN or infinite, so no token can be chosen "
            "from them. Use float32 or bfloat16, and smaller multipliers."
        )
