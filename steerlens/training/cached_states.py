"""What training does not change, computed once: the stream that enters the first changed block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.models.kernel import Columns, Kernel, KeysValues
from steerlens.sites import TokenBatch
from steerlens.training.training_pairs import TrainingPairs

CHUNK = 4096
"""Columns that are computed at once; a bound that depends on nothing but the work."""
MOST = 2**31
"""Bytes that are kept. Where the states of all pairs are more, each batch computes its own."""


@dataclass(frozen=True, eq=False)
class EnteringStates:
    """What enters the first changed block, for the pairs of one batch."""

    prompt: Float[Tensor, "pair 1 prompt d_model"]
    """Of the prompt's columns; those of both answers are the same."""
    answers: Float[Tensor, "pair side answer d_model"]
    """Of the columns of the answers' tokens (but the last)."""
    shared: tuple[KeysValues, ...]
    """Keys and values of the first columns that no edit touches, for each block from the first
    changed one on; () where there are none."""

    @property
    def shared_columns(self) -> int:
        """How many columns no edit touches."""
        return self.shared[0][0].shape[2] if self.shared else 0

    def take(self, index: Int[Tensor, " n"], start: int, answer: int) -> EnteringStates:
        """Some of the pairs, without their first `start` columns and with `answer` answer columns."""
        return EnteringStates(
            self.prompt[index, :, start:],
            self.answers[index, :, :answer],
            tuple((k[index, :, start:], v[index, :, start:]) for k, v in self.shared),
        )


class CachedStates:
    """The unchanged part of the forward pass of all training pairs, kept or computed by the batch.

    Below the first changed block nothing depends on what is trained. Above it, the columns before
    the first edited one have keys and values that do not either.
    """

    def __init__(
        self, kernel: Kernel, pairs: TrainingPairs, first: int, untouched: int, most: int = MOST
    ) -> None:
        """
        Args:
            kernel: The unchanged weights of all blocks.
            first: The first changed block.
            untouched: Columns at the start of the prompts that no edit touches; 0 where weights
                are changed, which change every column.
        """
        self.kernel, self.pairs, self.first, self.untouched = kernel, pairs, first, untouched
        self._kept = self._everything() if self.bytes <= most else None

    @property
    def bytes(self) -> int:
        """What the states of all pairs take."""
        cfg, pairs = self.kernel.cfg, self.pairs
        streams = (pairs.prompt_width + 2 * (pairs.read - 1)) * cfg.d_model
        keys = 2 * self.untouched * self.kernel.kv_heads * cfg.d_head
        numbers = streams + keys * (self.kernel.n_layers - self.first)
        return len(pairs) * numbers * self.kernel.embedding.element_size()

    def of(self, index: Int[Tensor, " n"]) -> EnteringStates:
        """The states of some pairs, cut as `TrainingPairs.part` cuts them."""
        start, answer = self.pairs.start(index), int(self.pairs.lengths[index].max()) - 1
        if self._kept is not None:
            return self._kept.take(index, start, answer)
        return self._compute(self.pairs.part(index), max(0, self.untouched - start))

    def _everything(self) -> EnteringStates:
        count = max(1, CHUNK // (self.pairs.prompt_width + 2 * self.pairs.read))
        whole = torch.arange(len(self.pairs))
        parts = [self._compute(self._rows(some), self.untouched) for some in whole.split(count)]
        layers = range(len(parts[0].shared))
        return EnteringStates(
            torch.cat([part.prompt for part in parts]),
            torch.cat([part.answers for part in parts]),
            tuple(
                (
                    torch.cat([part.shared[layer][0] for part in parts]),
                    torch.cat([part.shared[layer][1] for part in parts]),
                )
                for layer in layers
            ),
        )

    def _rows(self, index: Int[Tensor, " n"]) -> TrainingPairs:
        """Some pairs with all columns."""
        rows = torch.stack([2 * index, 2 * index + 1], 1).flatten()
        pairs = self.pairs
        return TrainingPairs(
            pairs.batch.rows(rows), pairs.prompt_width, pairs.targets[index], pairs.counted[index]
        )

    @torch.no_grad()
    def _compute(self, part: TrainingPairs, untouched: int) -> EnteringStates:
        kernel, width = self.kernel, part.prompt_width
        prompts = part.batch.rows(slice(None, None, 2))
        columns = Columns.of(prompts, 0, width)
        below: list[KeysValues] = []
        prompt = kernel.climb(
            kernel.embed(prompts.tokens[:, None, :width], columns.positions),
            columns,
            top=self.first,
            into=below,
        )
        answers = answer_columns(part.batch, width)
        tokens = part.batch.tokens[:, width:].unflatten(0, (-1, 2))
        entering = kernel.embed(tokens, answers.positions)
        if tokens.shape[2]:
            entering = kernel.climb(entering, answers, shared=of_prompts(below), top=self.first)
        above: list[KeysValues] = []
        if untouched and self.first < kernel.n_layers:
            kernel.climb(
                prompt[:, :, :untouched],
                Columns.of(prompts, 0, untouched),
                first=self.first,
                tail=1,
                into=above,
            )
        return EnteringStates(prompt, entering, tuple(of_prompts(above)))


def of_prompts(found: list[KeysValues]) -> list[KeysValues]:
    """Keys and values of prompts without their axis of rows, as `Kernel.block` shares them."""
    return [(keys[:, 0], values[:, 0]) for keys, values in found]


def answer_columns(batch: TokenBatch, start: int, sides: int = 2) -> Columns:
    """The columns from `start` on of rows [pair, side], which see those before as shared ones."""
    index = torch.arange(start, batch.width, device=batch.tokens.device)
    return Columns(
        positions=batch.positions[:, start:].unflatten(0, (-1, sides)),
        index=index,
        own_keys=batch.mask[:, start:].unflatten(0, (-1, sides)),
        own_index=index,
        shared_keys=batch.mask[::sides, :start] if start else None,
    )
