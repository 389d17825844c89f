"""Examples as tokens: questions with two answers, and ordinary texts, ready to be run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import SupportsFloat, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.arguments import ArgumentError, as_float
from steerlens.data import ContrastPair
from steerlens.data.contrast_set import PairsLike, as_contrast_set
from steerlens.models.model import Model
from steerlens.sites import TokenBatch

E = TypeVar("E", bound="Examples")


@dataclass(frozen=True, eq=False)
class Examples:
    """Tokens of some examples, and which of their columns are read out."""

    batch: TokenBatch
    """[example * variants] rows: prompts left-padded, what continues them after that."""
    variants: int
    """Rows of one example: 2 where both answers are given to the model, else 1."""
    prompt_width: int
    """Columns of the prompts; the last of them is the first that is read."""
    read: int
    """How many of the last columns are read."""

    def __len__(self) -> int:
        return len(self.batch) // self.variants

    def rows(self: E, index: slice | Int[Tensor, " some"]) -> E:
        """Some of the examples, with the same columns."""
        device = self.batch.tokens.device
        chosen = torch.arange(len(self), device=device)[index]
        variants = torch.arange(self.variants, device=device)
        return replace(
            self, batch=self.batch.rows((chosen[:, None] * self.variants + variants).flatten())
        )

    @property
    def by_length(self) -> Int[Tensor, " example"]:
        """The examples in an order in which those of like length are neighbours."""
        real = self.batch.mask.unflatten(0, (-1, self.variants))
        columns = torch.arange(self.batch.width, device=real.device)
        ends = self.batch.prompt_end.unflatten(0, (-1, self.variants))[..., None]
        new = (real & (columns >= ends)).sum(-1).amax(-1)
        return (new * self.batch.width + real.sum(-1).amax(-1)).argsort(stable=True)

    def trimmed(self: E) -> E:
        """The same examples without the columns that are padding in all of them."""
        used = self.batch.mask.any(0).nonzero()[:, 0]
        first, stop = int(used[0]), int(used[-1]) + 1
        batch = self.batch.columns(first, stop)
        # The last column of a prompt is the first that is read.
        after = batch.width - int(batch.prompt_end.min()) + 1
        read = min(self.read - (self.batch.width - stop), after)
        return replace(self._reading(read), batch=batch, prompt_width=batch.width - read + 1)

    def _reading(self: E, read: int) -> E:
        """The same for fewer columns that are read: what is held for the others is dropped."""
        return replace(self, read=read)

    @property
    def digest(self) -> str:
        """A short hash of what is asked: equal for equal examples."""
        found = hashlib.sha256()
        for tensor in self._content():
            found.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
            found.update(tensor.cpu().numpy().tobytes())
        return found.hexdigest()[:16]

    def _content(self) -> list[Tensor]:
        return [self.batch.tokens, self.batch.mask, self.batch.prompt_end]


@dataclass(frozen=True, eq=False)
class Questions(Examples):
    """Prompts with two answers each, as `sweep` scores them.

    Where every answer is one token, both are read from the prompt's last column; else each row
    gives the model one answer (but for its last token).
    """

    targets: Int[Tensor, "example 2 read"]
    """Token ids of the positive and negative answers, padded with 0."""
    counted: Bool[Tensor, "example 2 read"]
    """Which of the targets are real."""

    def rows(self, index: slice | Int[Tensor, " some"]) -> Questions:
        """Some of the questions, with the same columns."""
        some = super().rows(index)
        return replace(some, targets=self.targets[index], counted=self.counted[index])

    def _reading(self, read: int) -> Questions:
        targets, counted = self.targets[..., :read], self.counted[..., :read]
        return replace(self, read=read, targets=targets, counted=counted)

    def _content(self) -> list[Tensor]:
        return [*super()._content(), self.targets, self.counted]


def questions(model: Model, pairs: PairsLike) -> Questions:
    """Tokenises prompts and answers for scoring.

    Raises:
        ValueError: If a prompt is empty, too long, merges with its answer, or two answers are the
            same or one is the start of the other.
    """
    pairs = as_contrast_set(pairs).pairs
    for i, pair in enumerate(pairs):
        if not pair.prompt:
            raise ValueError(
                f"Pair {i} has no prompt, so there is no question whose answers could be scored "
                f"({pair.positive!r} / {pair.negative!r}). Such pairs can fit a direction; score "
                "pairs with a prompt and two answers."
            )
    split = [
        [model.split(pair.prompt, text) for text in (pair.positive, pair.negative)]
        for pair in pairs
    ]
    for pair, ((_, one), (_, other)) in zip(pairs, split, strict=True):
        short = min(len(one), len(other))
        if one[:short] == other[:short]:
            raise ValueError(
                f"The answers {pair.positive!r} and {pair.negative!r} have the same tokens as far "
                "as the shorter one goes, so no token tells them apart. Give answers that differ "
                "at some token before the shorter one ends."
            )
    read = max(len(answer) for sides in split for _, answer in sides)
    variants = 1 if read == 1 else 2
    prompts = [sides[0][0] for sides in split]
    width = max(map(len, prompts))
    if width + read - 1 > model.n_ctx:
        raise ValueError(
            f"The longest prompt has {width} tokens and the longest answer {read}, and the context "
            f"of {model.name!r} is {model.n_ctx}. Shorten the prompts."
        )
    batch = model.tokens([pair.prompt for pair in pairs], padding_side="left")
    targets = torch.zeros(len(pairs), 2, read, dtype=torch.long)
    counted = torch.zeros(len(pairs), 2, read, dtype=torch.bool)
    for i, sides in enumerate(split):
        for side, (_, answer) in enumerate(sides):
            targets[i, side, : len(answer)] = torch.tensor(answer)
            counted[i, side, : len(answer)] = True
    targets, counted = targets.to(model.device), counted.to(model.device)
    if variants == 2:
        given, real = targets[..., :-1].flatten(0, 1), counted[..., 1:].flatten(0, 1)
        batch = batch.repeated(2).extended(given, torch.zeros_like(real), real)
    return Questions(batch, variants, width, read, targets, counted)


def before_answers(
    batch: TokenBatch, states: Float[Tensor, "row pos d_model"]
) -> tuple[Float[Tensor, "token d_model"], Bool[Tensor, "row pos"]]:
    """The states from which every answer token is predicted, row by row, and which tokens these are.

    The token in column c is predicted in column c - 1.
    """
    columns = torch.arange(batch.width, device=states.device)
    asked = (columns >= batch.prompt_end[:, None]) & batch.mask
    return states[:, :-1][asked[:, 1:]], asked


def halved(model: Model, texts: Sequence[str], share: SupportsFloat = 0.5) -> TokenBatch:
    """Texts whose first part is the prompt and whose rest continues it.

    Raises:
        ValueError: If a text has fewer than 4 tokens, or more than the context.
        ArgumentError: If the share is no number from 0 to 1.
    """
    part = as_float("prompt_share", share)
    if not 0 <= part <= 1:
        raise ArgumentError(
            f"prompt_share={part:g} is no part of a text. Use a number from 0 to 1, e.g. 0.5 for half."
        )
    batch = model.tokens(list(texts), padding_side="left")
    lengths = batch.mask.sum(-1)
    if int(lengths.min()) < 4:
        raise ValueError("A text for measuring cost has fewer than 4 tokens. Use longer texts.")
    kept = (lengths * part).long().clamp(min=2)
    return replace(batch, prompt_end=batch.width - lengths + kept)


def neutral_texts_of(pairs: Iterable[ContrastPair]) -> list[str]:
    """The ordinary texts on which steering costs something, where none are given.

    Each prompt with its positive answer.
    """
    return [pair.prompt + pair.positive for pair in pairs]
