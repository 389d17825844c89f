"""Texts read in several runs whose keys and values are kept, while what is attached may change."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.models.attached import SteeringError
from steerlens.models.kernel import Kept
from steerlens.models.model import Model
from steerlens.models.prompts import AttachedPrompt
from steerlens.models.stepping import Stepping
from steerlens.sites import TokenBatch


class KeptRun:
    """Columns of some texts in order: each is read under what is attached then, and stays so.

    Texts are read without the prompts that are attached, which have keys and values of their own:
    what is kept is that of the texts alone.
    """

    def __init__(self, model: Model, width: int, *, stepped: bool = False) -> None:
        """
        Args:
            width: Columns of the longest text that will come.
            stepped: Read without the model's hooks, which nudges need; all runs must be so.
        """
        self.model, self.width, self.stepped = model, width, stepped
        self._past: Any = None
        """The cache of a bridge, or of a HookedTransformer."""
        self._kept: dict[tuple[AttachedPrompt, ...], list[Kept]] = {}
        """What is kept where texts are read without hooks."""

    @torch.no_grad()
    def logits(
        self, batch: TokenBatch, start: int, last: int
    ) -> Float[Tensor, "batch last d_vocab"]:
        """Logits of the last columns, of which those from `start` on are new.

        Raises:
            SteeringError: If something attached edits none of the new columns.
        """
        model = self.model
        with model.attached.running(batch):
            model.attached.computing(batch, start)
            if self.stepped:
                return model.unembed(self._steps(batch, start)[:, -last:])
            if model.is_bridge:
                return self._bridge(batch, start, last)
            return model.unembed(self._hooked(batch, start)[:, -last:])

    def _steps(self, batch: TokenBatch, start: int) -> Float[Tensor, "batch some d_model"]:
        kernel = self.model.kernel()  # of the weights that there are now
        if kernel is None:
            raise SteeringError(
                "A hook was put on the model, and what nudges have read is kept without hooks. Take "
                "it off."
            )
        stepping = Stepping(self.model.attached, kernel, self.width)
        stepping.kept = self._kept
        return stepping.run(batch, start, ())

    def _hooked(self, batch: TokenBatch, start: int) -> Float[Tensor, "batch some d_model"]:
        model = self.model
        if self._past is None:
            self._past = model.forward.new_cache(len(batch))
        if start == 0 and (cut := model.attached.cut(batch)) is not None:
            model.forward.prefill(batch, self._past, cut, model.n_layers)
            start = cut.column
        resid = model.wrapped(
            batch.tokens[:, start:],
            attention_mask=batch.mask[:, start:].long(),
            past_kv_cache=self._past,
            stop_at_layer=model.n_layers,
        )
        return model.readout.norm(resid)

    def _bridge(
        self, batch: TokenBatch, start: int, last: int
    ) -> Float[Tensor, "batch last d_vocab"]:
        past = {} if self._past is None else {"past_key_values": self._past}
        logits, self._past = self.model.wrapped(
            batch.tokens[:, start:],
            attention_mask=batch.mask.long(),
            return_type="logits_and_cache",
            use_cache=True,
            logits_to_keep=last,
            **past,
        )
        return logits
