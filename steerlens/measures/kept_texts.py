"""Texts that are read on after what steered their first part is gone, with keys and values kept."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.measures.kept_run import KeptRun
from steerlens.models.model import Model
from steerlens.sites import TokenBatch


class KeptTexts:
    """Texts of which a first part is read at once, under what is attached now, and the rest later.

    Rows that need other runs, such as those without a condition, are kept apart.
    """

    def __init__(self, model: Model, first: TokenBatch, width: int, *, stepped: bool) -> None:
        """
        Args:
            first: The part that is read now.
            width: Columns of the longest text that will come.
            stepped: As of `KeptRun`.

        Raises:
            ValueError: If the model would read the texts otherwise than at once.
        """
        model.forward.require_readable(first, width - first.width)
        self.read = first.width
        every = [torch.arange(len(first), device=first.tokens.device)]
        self.runs: list[tuple[Tensor, KeptRun]] = []
        for rows in model.attached.parts(first, idle=True) or every:
            run = KeptRun(model, width, stepped=stepped)
            with model.attached.of_rows(rows):
                run.logits(first.rows(rows), 0, 1)
            self.runs.append((rows, run))
        self.order = torch.cat([rows for rows, _ in self.runs]).argsort()

    def logits(self, texts: TokenBatch, last: int) -> Float[Tensor, "text last d_vocab"]:
        """Logits after the last columns of the texts, of which those not read before are read now.

        Raises:
            SteeringError: If something attached edits none of the new columns.
        """
        found = [run.logits(texts.rows(rows), self.read, last) for rows, run in self.runs]
        self.read = texts.width
        return torch.cat(found)[self.order]
