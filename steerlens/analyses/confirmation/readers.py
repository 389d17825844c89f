"""Readers of written texts: how far a text shows the positive side rather than the negative one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.analyses.confirmation.contexts import SIDES, Contexts
from steerlens.arguments import as_texts
from steerlens.measures.surprisal import require_unsteered, surprisal
from steerlens.models.model import Model


@dataclass(frozen=True, eq=False)
class LikelihoodReader:
    """How much better the positive context predicts a text than the negative one, unsteered.

    The number of a text is the mean over its tokens of
    log p(token | positive context, prompt, text so far) minus the same with the negative context,
    in nats per token, under the unsteered model. It needs no word list and no other model, and two
    forward passes for each text and context. It sees what the contexts change in the model's own
    expectations, and is no better than those: a reader is only used where it tells texts apart that
    were written under the two contexts (`WrittenEffect.reader_auroc`).

    It is a `Scorer`, so it can also be the judge of `steerlens.writing`.

    Source: a likelihood ratio of class-conditional language models, as in GeDi (arXiv:2009.06367)
    and DExperts (arXiv:2105.03023), which steer by it; here it reads.
    """

    model: Model
    contexts: Contexts
    per_text: int = 1
    """Contexts that read each text; their numbers are averaged. The prompts take turns."""
    unit = "nats per token"

    def read(
        self,
        prompts: Sequence[str],
        tokens: Int[Tensor, "prompt text new"],
        *,
        rows: int = 256,
    ) -> Float[Tensor, "prompt text"]:
        """The numbers of written tokens after each prompt; -1 marks the end of a text.

        Args:
            rows: Texts run at once.

        Raises:
            SteeringError: If steering is attached to the model.
            ContextError: If a context cannot be put before a prompt.
        """
        count = min(self.per_text, len(self.contexts))
        total = torch.zeros(tokens.shape[:2])
        for j in range(count):
            for side, sign in zip(SIDES, (-1, 1), strict=True):
                placed = [
                    self.contexts.place(prompt, side, i * count + j)
                    for i, prompt in enumerate(prompts)
                ]
                total += sign * surprisal(self.model, placed, tokens, rows=rows) / count
        return total

    def __call__(self, prompts: list[str], continuations: list[str]) -> list[float]:
        """One number per text; 0 for an empty one."""
        require_unsteered(self.model)
        found = [0.0] * len(prompts)
        for i, (prompt, text) in enumerate(zip(prompts, continuations, strict=True)):
            if ids := _continuation(self.model, prompt, text):
                found[i] = float(self.read([prompt], torch.tensor([[ids]])))
        return found


@dataclass(frozen=True)
class WordReader:
    """Words of the positive list in a text, minus words of the negative one, as -1, 0 or 1.

    A `Scorer` for contrasts that words tell apart. It counts which list has more words in the text;
    words are whole and case does not count.

    >>> WordReader(("she", "her"), ("he", "his"))(["So", "So"], [" she sat", " he saw her cat"])
    [1.0, 0.0]
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()
    unit = "texts"

    def __post_init__(self) -> None:
        for side in SIDES:
            object.__setattr__(self, side, as_texts(side, getattr(self, side)))
        if not self.positive:
            raise ValueError(
                "WordReader has no positive words, so no text could show the positive side. Give "
                "some: WordReader(('she', 'her'), ('he', 'his'))."
            )
        if both := {w.lower() for w in self.positive} & {w.lower() for w in self.negative}:
            raise ValueError(
                f"{', '.join(sorted(both))} is a word of both sides, so it counts for neither. "
                "Leave it out."
            )

    def __call__(self, prompts: list[str], continuations: list[str]) -> list[float]:
        """1 for more positive words, -1 for more negative ones, 0 for as many of both."""
        found = []
        for text in continuations:
            more = _count(self.positive, text) - _count(self.negative, text)
            found.append(float((more > 0) - (more < 0)))
        return found


def _count(words: Iterable[str], text: str) -> int:
    return sum(
        len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)) for word in words
    )


def _continuation(model: Model, prompt: str, text: str) -> list[int]:
    """The tokens of a text after its prompt, also where the tokenizer would merge the two."""
    before, whole = model.ids(prompt), model.ids(prompt + text)
    if whole[: len(before)] == before:
        return whole[len(before) :]
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])
