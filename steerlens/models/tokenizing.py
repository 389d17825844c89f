"""Texts as a model's tokens: what a text starts with, which tokens are special, padded batches."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from steerlens.data import ContrastPair
from steerlens.models import checkpoints
from steerlens.sites import TokenBatch

PaddingSide = Literal["left", "right"]

MOST_CHARACTERS, MOST_PER_TOKEN = 100_000, 50
"""Texts above both bounds (the second for each token of the context) are refused untokenised."""


@dataclass(frozen=True, eq=False)
class Texts:
    """How one model reads texts. Padding, masks and BOS are explicit in every batch."""

    tokenizer: Any
    prepend_bos: bool
    """Whether texts start with BOS."""
    n_ctx: int
    """Longest text in tokens."""
    name: str
    """The model's name, for messages."""
    device: torch.device
    """Where batches are put."""

    @property
    def lead(self) -> list[int]:
        """Ids that every text starts with: those that the tokenizer itself adds, else BOS.

        Raises:
            ValueError: If texts are to start with a BOS that the tokenizer does not have.
        """
        if not self.prepend_bos:
            return []
        if added := checkpoints.leading_ids(self.tokenizer):
            return list(added)
        if self.tokenizer.bos_token_id is None:
            raise ValueError(
                f"prepend_bos=True, but the tokenizer of {self.name!r} has no BOS token, and no "
                "other token can stand in for it. Use prepend_bos=False."
            )
        return [self.tokenizer.bos_token_id]

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, with `lead` in front unless the text starts with it.

        Raises:
            ValueError: If the text has so many characters that it cannot fit the context.
        """
        if len(text) > max(MOST_CHARACTERS, MOST_PER_TOKEN * self.n_ctx):
            raise ValueError(
                f"A text has {len(text):,} characters, far more than the context of {self.name!r} "
                f"holds, which is {self.n_ctx} tokens. Shorten it: {_short(text)!r}."
            )
        ids, lead = self.tokenizer(text, add_special_tokens=False)["input_ids"], self.lead
        return ids if ids[: len(lead)] == lead else [*lead, *ids]

    def continuation(self, prompt: Sequence[int], new: Sequence[int]) -> str:
        """Generated tokens as the text that follows a prompt; special tokens are left out.

        Prompt and continuation join to the text of all tokens. Some tokenizers drop the blank
        before the first token that they decode, so all tokens are decoded and the prompt is cut.
        """

        def decode(ids: Sequence[int]) -> str:
            return self.tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )

        before, whole = decode(prompt), decode([*prompt, *new])
        return whole[len(before) :] if whole.startswith(before) else decode(new)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What each token adds to the text of those before it; joined, they are the text.

        A token that is only part of a character is its own text, as the tokenizer writes it.
        """

        def decode(some: Sequence[int]) -> str:
            return self.tokenizer.decode(list(some), clean_up_tokenization_spaces=False)

        found, before = [], ""
        for i, one in enumerate(ids):
            whole = decode(ids[: i + 1])
            joins = whole.startswith(before) and not before.endswith("\ufffd")
            found.append(whole[len(before) :] if joins else decode([one]))
            before = whole
        return found

    def split(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Token ids of a prompt and of the answer that follows it.

        Raises:
            ValueError: If the tokenizer merges the end of the prompt with the answer's start.
        """
        before, whole = self.ids(prompt), self.ids(prompt + answer)
        if whole[: len(before)] != before or len(whole) == len(before):
            raise ValueError(
                f"The tokens of prompt {_short(prompt)!r} change when the answer {answer!r} is "
                "appended, so it is not plain where the answer starts. End the prompt without a "
                "space and start the answer with one."
            )
        return before, whole[len(before) :]

    def is_special(self, tokens: Tensor) -> Tensor:
        """Which tokens are BOS, EOS, padding or a chat template's markers."""
        special = checkpoints.special_ids(self.tokenizer)
        return torch.isin(tokens, torch.tensor(special, dtype=torch.long, device=tokens.device))

    def prompts(self, texts: str | Sequence[str], padding_side: PaddingSide) -> TokenBatch:
        """A batch in which all of each text is prompt."""
        rows = [self.ids(text) for text in ([texts] if isinstance(texts, str) else texts)]
        return self._batch(rows, [len(row) for row in rows], padding_side=padding_side)

    def answered(
        self, prompts: Sequence[str], answers: Sequence[str], padding_side: PaddingSide
    ) -> TokenBatch:
        """A batch of prompts with an answer after each."""
        split = [self.split(p, a) for p, a in zip(prompts, answers, strict=True)]
        return self._batch(
            [p + a for p, a in split], [len(p) for p, _ in split], padding_side=padding_side
        )

    def pairs(
        self, pairs: Sequence[ContrastPair], *, padding_side: PaddingSide = "left"
    ) -> tuple[TokenBatch, TokenBatch]:
        """Both sides of pairs, for reading activations.

        With a prompt, a row is prompt and answer, and `answer` marks the first token in which the
        two answers differ. Without one, the two sides are texts by themselves: all prompt.

        Raises:
            ValueError: If the two answers of a pair have no token in which they differ.
        """
        if all(pair.prompt == "" for pair in pairs):
            positive = self.prompts([p.positive for p in pairs], padding_side)
            negative = self.prompts([p.negative for p in pairs], padding_side)
            return positive, negative
        rows: tuple[list[list[int]], list[list[int]]] = ([], [])
        ends: tuple[list[int], list[int]] = ([], [])
        reads: list[int] = []
        for pair in pairs:
            sides = [self.split(pair.prompt, text) for text in (pair.positive, pair.negative)]
            reads.append(len(sides[0][0]) + _first_difference(pair, sides[0][1], sides[1][1]))
            for side, (prompt, answer) in enumerate(sides):
                rows[side].append(prompt + answer)
                ends[side].append(len(prompt))
        return (
            self._batch(rows[0], ends[0], reads, padding_side=padding_side),
            self._batch(rows[1], ends[1], reads, padding_side=padding_side),
        )

    def _batch(
        self,
        rows: list[list[int]],
        prompt_ends: list[int],
        answers: list[int] | None = None,
        *,
        padding_side: PaddingSide,
    ) -> TokenBatch:
        if padding_side not in get_args(PaddingSide):
            raise ValueError(f"padding_side={padding_side!r} is not a side. Use 'left' or 'right'.")
        if not rows:
            raise ValueError("There are no texts. Pass at least one.")
        for i, row in enumerate(rows):
            if not row:
                raise ValueError(
                    f"Text {i} is empty: it has no tokens. Drop it or write something."
                )
            if len(row) > self.n_ctx:
                raise ValueError(
                    f"Text {i} has {len(row)} tokens and the context of {self.name!r} is "
                    f"{self.n_ctx}. Shorten it: {_short(self.tokenizer.decode(row))!r}."
                )
        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id or 0
        tokens = torch.full((len(rows), width), pad, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        offsets = []
        for i, row in enumerate(rows):
            offset = width - len(row) if padding_side == "left" else 0
            tokens[i, offset : offset + len(row)] = torch.tensor(row)
            mask[i, offset : offset + len(row)] = True
            offsets.append(offset)
        self._warn_of_unknown(tokens, mask)
        shift = torch.tensor(offsets)
        device = self.device
        return TokenBatch(
            tokens=tokens.to(device),
            mask=mask.to(device),
            special=(self.is_special(tokens) & mask).to(device),
            prompt_end=(torch.tensor(prompt_ends) + shift).to(device),
            answer=None if answers is None else (torch.tensor(answers) + shift).to(device),
        )

    def _warn_of_unknown(self, tokens: Tensor, mask: Tensor) -> None:
        unknown = self.tokenizer.unk_token_id
        if unknown is None or unknown in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            return
        count = int(((tokens == unknown) & mask).sum())
        if count:
            warnings.warn(
                f"{count} of {int(mask.sum())} tokens are unknown to the tokenizer of "
                f"{self.name!r}; the model cannot distinguish such words.",
                stacklevel=5,
            )


def _first_difference(pair: ContrastPair, one: list[int], other: list[int]) -> int:
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i
    raise ValueError(
        f"The answers {pair.positive!r} and {pair.negative!r} have no token in which they "
        "differ (one is the start of the other). Give answers that differ at some token."
    )


def _short(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
