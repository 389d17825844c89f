"""Style transfer on the reference world: texts at the other pole of a concept, with all else kept."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analyses.comparison.exact_task import Score
from steerlens.analyses.writing.rewriting import rewritten
from steerlens.models.model import Model
from steerlens.protocols import Intervention
from steerlens.testbed.grammar import CONCEPTS, Document, require_concept
from steerlens.testbed.oracle import Oracle
from steerlens.testbed.review_grammar import review_grammar

THRESHOLDS = (1.5, 3.0, 5.0)
"""Nats by which a word must become less likely to be replaced; each way has the best of them."""
LONGEST = 48
"""Words of a document."""


@dataclass(frozen=True)
class StyleTransfer:
    """Documents of the negative pole, rewritten by a way, beside their minimal pair.

    Each document is rewritten where the way makes a word much less likely (`rewritten`); how much is
    chosen for each way on other documents, by the share of words that are those of the minimal pair.
    A way that changes nothing copies the document, so the scores of the model alone are those of
    copying.
    """

    concept: str = "register"
    n: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        require_concept(self.concept)
        if self.n < 1:
            raise ValueError(f"n={self.n} leaves no document. Use 1 or more.")

    @property
    def scores(self) -> tuple[Score, ...]:
        names = tuple(f"document {i}" for i in range(self.n))
        found = [
            Score(
                name="flipped",
                meaning="share of the clauses that told the pole which now show the wanted one, by "
                "the oracle",
                groups=names,
                unit="of clauses",
            ),
            Score(
                name="kept",
                meaning="share of clauses that are well-formed and whose other concepts and topic "
                "are what they were, by the oracle",
                groups=names,
                unit="of clauses",
            ),
        ]
        if importlib.util.find_spec("sacrebleu") is not None:
            found.append(
                Score(
                    name="BLEU",
                    meaning="BLEU of sacrebleu against the minimal pair, without tokenisation, with "
                    "jackknife values of each document; to be read beside that of copying",
                    groups=names,
                    share=False,
                    unit="of 100",
                )
            )
        return tuple(found)

    def __call__(
        self, model: Model, arm: Intervention, multiplier: float
    ) -> dict[str, Float[Tensor, " document"]]:
        """The scores of every document."""
        choosing, reported = self._pairs[: self.n], self._pairs[self.n :]
        tried = rewritten(model, arm, [s.text for s, _ in choosing], multiplier, THRESHOLDS)
        right = [
            np.mean(
                [_same(text, wanted) for text, (_, wanted) in zip(texts, choosing, strict=True)]
            )
            for texts in tried
        ]
        # The largest of several best ones changes least.
        best = max(range(len(THRESHOLDS)), key=lambda k: (right[k], THRESHOLDS[k]))
        limit = (THRESHOLDS[best],)
        (texts,) = rewritten(model, arm, [s.text for s, _ in reported], multiplier, limit)
        read = torch.tensor(
            [self._read(text, *pair) for text, pair in zip(texts, reported, strict=True)]
        )
        found = {"flipped": read[:, 0], "kept": read[:, 1]}
        if len(self.scores) > len(found):
            found["BLEU"] = bleu_values(texts, [wanted.text for _, wanted in reported])
        return found

    @cached_property
    def _oracle(self) -> Oracle:
        return Oracle()

    @cached_property
    def _pairs(self) -> list[tuple[Document, Document]]:
        """Documents of the negative pole, each with the one of the positive pole: twice n."""
        rng, grammar = np.random.default_rng([self.seed, 18]), review_grammar()
        found: dict[str, tuple[Document, Document]] = {}
        while len(found) < 2 * self.n:
            wanted, source = grammar.minimal_pair(self.concept, rng)
            if len(source.tokens) <= LONGEST + 2:
                found.setdefault(source.text, (source, wanted))
        return list(found.values())

    def _read(self, text: str, source: Document, wanted: Document) -> tuple[float, float]:
        """The share of telling clauses that are flipped, and of all clauses that are kept."""
        words = text.split()
        flipped, kept = [], []
        others = [*(name for name in CONCEPTS if name != self.concept), "topic"]
        for before, after in zip(source.clauses, wanted.clauses, strict=True):
            place = slice(before.start - 1, before.start - 1 + len(before.tokens))
            now, then = (self._oracle.read_clause(c) for c in (words[place], before.tokens))
            if before.tokens != after.tokens:
                flipped.append(now.pole(self.concept) is True)
            same = all(getattr(now, name) == getattr(then, name) for name in others)
            kept.append(now.well_formed and same)
        return float(np.mean(flipped)), float(np.mean(kept))


def _same(text: str, wanted: Document) -> float:
    """The share of words that are those of a document."""
    return float(np.mean([a == b for a, b in zip(text.split(), wanted.text.split(), strict=True)]))


def bleu_values(texts: list[str], references: list[str]) -> Float[Tensor, " text"]:
    """Numbers whose mean is the BLEU of all texts, and which vary as the jackknife says that it does.

    Raises:
        ImportError: If sacrebleu is not installed: ``pip install steerlens[bleu]``.

    Source: Post 2018, arXiv:1804.08771 (sacrebleu), with `tokenize="none"`, since words here are
    separated by spaces.
    """
    from sacrebleu import corpus_bleu

    def bleu(skipped: int | None) -> float:
        some = [i for i in range(len(texts)) if i != skipped]
        ours, theirs = [texts[i] for i in some], [references[i] for i in some]
        return corpus_bleu(ours, [theirs], tokenize="none").score

    whole, n = bleu(None), len(texts)
    without = torch.tensor([bleu(i) for i in range(n)], dtype=torch.float64)
    return (whole + (n - 1) * (without.mean() - without)).float()
