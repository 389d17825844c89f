"""Pairs as tokens for training: both answers of each prompt, cut to what a batch needs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from steerlens.data import ContrastSet
from steerlens.measures.tokenised import questions
from steerlens.models.model import Model
from steerlens.sites import TokenBatch


@dataclass(frozen=True, eq=False)
class TrainingPairs:
    """Tokens of some pairs: prompts padded on the left, both answers on the right.

    Columns 0 to `prompt_width` - 1 are the prompt; the last token of an answer is only a target.
    """

    batch: TokenBatch
    """[pair * 2] rows: pair 0 positive, pair 0 negative, pair 1 positive, …"""
    prompt_width: int
    targets: Int[Tensor, "pair side=2 read"]
    counted: Bool[Tensor, "pair side=2 read"]
    """Which of the targets are real. Target j is predicted from column prompt_width - 1 + j."""

    @classmethod
    def of(cls, model: Model, pairs: ContrastSet) -> TrainingPairs:
        """Tokenises pairs.

        Raises:
            ValueError: As `questions`: for pairs whose answers cannot be scored.
        """
        asked = questions(model, pairs)
        batch = asked.batch if asked.variants == 2 else asked.batch.repeated(2)
        return cls(batch, asked.prompt_width, asked.targets, asked.counted)

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def read(self) -> int:
        """Columns that are read out: the longest answer."""
        return self.targets.shape[-1]

    @property
    def lengths(self) -> Int[Tensor, "pair side=2"]:
        """Tokens of each answer."""
        return self.counted.sum(-1)

    def start(self, index: Int[Tensor, " n"]) -> int:
        """The first column that is not padding in all of some pairs."""
        real = self.batch.mask[2 * index]
        return int(real.any(0).int().argmax())

    def part(self, index: Int[Tensor, " n"]) -> TrainingPairs:
        """Some pairs, without the columns that all of them pad."""
        start, read = self.start(index), int(self.lengths[index].max())
        rows = torch.stack([2 * index, 2 * index + 1], 1).flatten()
        columns = slice(start, self.prompt_width + read - 1)
        batch = self.batch.rows(rows)
        batch = replace(
            batch,
            tokens=batch.tokens[:, columns],
            mask=batch.mask[:, columns],
            special=batch.special[:, columns],
            prompt_end=batch.prompt_end - start,
        )
        return TrainingPairs(
            batch,
            self.prompt_width - start,
            self.targets[index, :, :read],
            self.counted[index, :, :read],
        )

    @property
    def digest(self) -> str:
        """A short hash of the tokens."""
        found = hashlib.sha256()
        for tensor in (self.batch.tokens, self.batch.mask, self.targets, self.counted):
            found.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
            found.update(tensor.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]
