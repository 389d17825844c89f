"""Where to read and where to steer: one language for capture, scoring, steering and decoding.

A `Site` is a layer and a stream. `Positions` is a rule for which tokens. A `TokenBatch` is what the
rule is asked about: padded tokens, and for every row where its prompt ends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Stream = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"]
Rule = Literal["all", "last", "from_prompt_end", "generated", "answer", "span"]

_HOOK = re.compile(r"blocks\.(\d+)\.hook_(\w+)")


@dataclass(frozen=True, order=True)
class Site:
    """One layer and one stream of the residual highway, named as TransformerLens prints it.

    >>> Site(8).hook
    'blocks.8.hook_resid_post'
    >>> Site.from_hook("blocks.3.hook_attn_out")
    Site(layer=3, stream='attn_out')
    """

    layer: int
    """Counted from 0; negative numbers are refused, so that a stored site means one thing."""
    stream: Stream = "resid_post"

    def __post_init__(self) -> None:
        if self.stream not in get_args(Stream):
            raise ValueError(
                f"stream={self.stream!r} is not a stream that can be steered. "
                f"Use one of {', '.join(get_args(Stream))}."
            )
        if self.layer < 0:
            raise ValueError(
                f"layer={self.layer}: layers count from 0 upwards. "
                "For the last layer write Site(model.n_layers - 1)."
            )

    @property
    def hook(self) -> str:
        """The hook point's name in TransformerLens."""
        return f"blocks.{self.layer}.hook_{self.stream}"

    @classmethod
    def from_hook(cls, name: str) -> Site:
        """The site of a hook name such as ``blocks.8.hook_resid_post``."""
        found = _HOOK.fullmatch(name)
        if found is None or found[2] not in get_args(Stream):
            raise ValueError(
                f"{name!r} is not a site with a d_model-wide stream. "
                f"Write blocks.<layer>.hook_<stream>, stream one of {', '.join(get_args(Stream))}."
            )
        return cls(int(found[1]), found[2])  # type: ignore[arg-type]

    @property
    def entry(self) -> int | None:
        """The block that reads this stream first, or None where it is inside a block.

        `resid_post[l]` is `resid_pre[l + 1]`: both enter block l + 1.
        """
        return {"resid_pre": self.layer, "resid_post": self.layer + 1}.get(self.stream)

    def __str__(self) -> str:
        return f"L{self.layer} {self.stream}"


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Padded tokens and what must be known about them; never inferred from the ids again."""

    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    """True at real tokens, False at padding, whatever side the padding is on."""
    special: Bool[Tensor, "batch pos"]
    """True at real BOS/EOS-like tokens, which are not steered unless asked for."""
    prompt_end: Int[Tensor, " batch"]
    """Column after the last token of the prompt: where an answer or a continuation starts."""
    answer: Int[Tensor, " batch"] | None = None
    """Column of the answer token to read, where there is an answer."""

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def width(self) -> int:
        """Number of columns, padding included."""
        return self.tokens.shape[1]

    @property
    def positions(self) -> Int[Tensor, "batch pos"]:
        """Index of every token in its own text (BOS is 0), as the model's positions count."""
        return (self.mask.long().cumsum(-1) - 1).clamp(min=0)

    def rows(self, index: slice | Tensor) -> TokenBatch:
        """The chosen rows, with the same columns."""
        return replace(
            self,
            tokens=self.tokens[index],
            mask=self.mask[index],
            special=self.special[index],
            prompt_end=self.prompt_end[index],
            answer=None if self.answer is None else self.answer[index],
        )

    def repeated(self, times: int) -> TokenBatch:
        """Every row `times` times in a row (row 0, row 0, …, row 1, …)."""
        return self.rows(torch.arange(len(self)).repeat_interleave(times))

    def extended(
        self, tokens: Int[Tensor, "batch new"], special: Tensor, real: Tensor
    ) -> TokenBatch:
        """The batch after `new` more columns were generated."""
        return replace(
            self,
            tokens=torch.cat([self.tokens, tokens], 1),
            mask=torch.cat([self.mask, real], 1),
            special=torch.cat([self.special, special], 1),
        )


@dataclass(frozen=True)
class Positions:
    """A rule for which tokens of a text are read or edited.

    The same rule gives the same tokens in a full forward pass, with teacher forcing, and token by
    token with a KV cache. Padding is never chosen; special tokens (BOS and the like) only with
    `special=True`, since an edited attention sink breaks most models.

    >>> Positions.from_prompt_end()
    Positions.from_prompt_end()
    """

    rule: Rule
    start: int = 0
    stop: int | None = None
    special: bool = False

    @classmethod
    def all(cls, *, special: bool = False) -> Positions:
        """Every token of the text."""
        return cls("all", special=special)

    @classmethod
    def last(cls) -> Positions:
        """The last token of the prompt, only."""
        return cls("last", special=True)

    @classmethod
    def from_prompt_end(cls) -> Positions:
        """The last token of the prompt and everything after it.

        The first edited token is the one from which the first answer token is predicted. CAA
        (arXiv:2312.06681) steers like this.
        """
        return cls("from_prompt_end", special=True)

    @classmethod
    def generated(cls) -> Positions:
        """Only tokens after the prompt. A one-token answer is predicted before any such token."""
        return cls("generated", special=True)

    @classmethod
    def answer(cls) -> Positions:
        """The answer's token: the first one in which a pair's two answers differ.

        For ``(A)`` and ``(B)`` this is the letter, wherever the tokenizer puts it.
        """
        return cls("answer", special=True)

    @classmethod
    def span(cls, start: int, stop: int | None = None, *, special: bool = False) -> Positions:
        """Tokens start, …, stop - 1 of each text, counted as `to_tokens` prints them (BOS is 0).

        Negative numbers count back from the end of the prompt: span(-3, None) is the last three
        prompt tokens and what follows.
        """
        return cls("span", start=start, stop=stop, special=special)

    def mask(self, batch: TokenBatch) -> Bool[Tensor, "batch pos"]:
        """True at the chosen tokens of the batch.

        Raises:
            ValueError: If the rule is `answer` and the batch holds no answers.
        """
        columns = torch.arange(batch.width, device=batch.tokens.device)
        end = batch.prompt_end[:, None]
        if self.rule == "all":
            chosen = torch.ones_like(batch.mask)
        elif self.rule == "last":
            chosen = columns == end - 1
        elif self.rule == "from_prompt_end":
            chosen = columns >= end - 1
        elif self.rule == "generated":
            chosen = columns >= end
        elif self.rule == "answer":
            if batch.answer is None:
                raise ValueError(
                    "Positions.answer() needs answers, and these texts have none. "
                    "Use Positions.last() to read prompts at their last token."
                )
            chosen = columns == batch.answer[:, None]
        else:
            first = batch.mask.int().argmax(-1, keepdim=True)
            chosen = columns >= self._column(self.start, first, end)
            if self.stop is not None:
                chosen = chosen & (columns < self._column(self.stop, first, end))
        chosen = chosen & batch.mask
        return chosen if self.special else chosen & ~batch.special

    def columns(self, batch: TokenBatch) -> Int[Tensor, " batch"]:
        """The one chosen column of every row, for reading one vector per text.

        Raises:
            ValueError: If some row has no chosen token, or more than one.
        """
        chosen = self.mask(batch)
        counts = chosen.sum(-1)
        if not bool((counts == 1).all()):
            row = int((counts != 1).nonzero()[0])
            raise ValueError(
                f"{self} chooses {int(counts[row])} tokens in row {row}; reading takes one token "
                "per text. Use Positions.last() or Positions.answer()."
            )
        return chosen.int().argmax(-1)

    @staticmethod
    def _column(index: int, first: Tensor, end: Tensor) -> Tensor:
        return first + index if index >= 0 else end + index

    def __repr__(self) -> str:
        arguments = []
        if self.rule == "span":
            arguments = [str(self.start), str(self.stop)]
        if self.special and self.rule in ("all", "span"):
            arguments.append("special=True")
        return f"Positions.{self.rule}({', '.join(arguments)})"
