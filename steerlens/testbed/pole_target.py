"""The ideal of steering on the reference world: the exact distribution of documents at one pole."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.models.model import Model
from steerlens.testbed.grammar import BOS
from steerlens.testbed.oracle import Oracle


@dataclass(frozen=True)
class PoleTarget:
    """p*: the next token given the text so far, and that the document has a pole of a concept.

    It is exact: the grammar's belief about the document starts restricted to that pole. A clause
    may still show the other pole, as often as the grammar slips. It is a `TargetDistribution` for
    `MatchDistribution` and `target_share`.
    """

    model: Model = field(repr=False)
    """The reference model, whose vocabulary has the grammar's words."""
    concept: str
    pole: bool = True

    @cached_property
    def _oracle(self) -> Oracle:
        return Oracle(given={self.concept: self.pole})

    def __call__(self, prompt: str, answer: str) -> Float[Tensor, "token d_vocab"]:
        """The wanted probabilities at the place of each token of the answer.

        Raises:
            ValueError: If no document starts like this, or the model does not have its words.
        """
        ids = self._ids
        before, own = self.model.split(prompt, answer)
        words = [BOS, *prompt.split(), *answer.split()]
        if len(words) != len(before) + len(own):
            raise ValueError(
                f"{self.model.name!r} has {len(before) + len(own)} tokens for the {len(words)} words "
                f"of {prompt + answer!r:.80}. The ideal is known for the reference model alone."
            )
        given = self._oracle.next_token_probs_after(words[:-1], len(before))
        found = torch.zeros(len(own), self.model.cfg.d_vocab)
        for row, following in zip(found, given, strict=True):
            for word, probability in following.items():
                row[ids[word]] += probability
        return found

    @cached_property
    def _ids(self) -> dict[str, int]:
        vocabulary = self.model.tokenizer.get_vocab()
        words = (*self._oracle.grammar.vocabulary, BOS, "<eos>")
        if missing := [word for word in words if word not in vocabulary]:
            raise ValueError(
                f"{self.model.name!r} does not have the word {missing[0]!r} of the reference world. "
                "Use Model.load('reviews')."
            )
        return {word: vocabulary[word] for word in words}
