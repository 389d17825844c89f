"""What users of TransformerLens call a model by: the same names, with the Model's own BOS."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.models.attached import AttachedEdits, SteeringError
from steerlens.models.forward import Forward
from steerlens.models.readout import Readout
from steerlens.models.tokenizing import PaddingSide, Texts
from steerlens.sites import TokenBatch

TextsLike = TokenBatch | str | Sequence[str] | Int[Tensor, "..."]
"""Texts, their tokens with the facts about them, or bare tokens of texts of one length."""
NamesFilter = str | Sequence[str] | Callable[[str], bool] | None
"""Which hook points are kept, as in TransformerLens; None for all."""


class LensNames(ABC):
    """Names of TransformerLens that a `Model` answers to. It says what each needs of the Model."""

    wrapped: Any
    attached: AttachedEdits
    forward: Forward
    readout: Readout

    @property
    def texts(self) -> Texts:
        """How the model reads texts."""
        raise NotImplementedError

    # Sizes and matrices

    @property
    def d_vocab(self) -> int:
        """How many tokens the model knows."""
        return self.wrapped.cfg.d_vocab

    @property
    def n_heads(self) -> int:
        return self.wrapped.cfg.n_heads

    @property
    def d_head(self) -> int:
        return self.wrapped.cfg.d_head

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """The embedding of each token."""
        return self.wrapped.W_E

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The unembedding, which reads the final stream after its norm."""
        return self.wrapped.W_U

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"]:
        """What the unembedding adds to each logit."""
        return self.wrapped.unembed.b_U

    # Tokens

    def to_tokens(
        self,
        texts: str | Sequence[str],
        prepend_bos: bool | None = None,
        padding_side: PaddingSide = "right",
    ) -> Int[Tensor, "batch pos"]:
        """Token ids of texts, padded to one length.

        `tokens` gives the same with all that padding hides: which columns are real, and where each
        prompt ends.

        Args:
            prepend_bos: Whether each text starts with BOS; by default as the model's texts do.

        Raises:
            ValueError: If a text has no token or is longer than the context. Nothing is truncated.
        """
        return self._reading(prepend_bos).prompts(texts, padding_side).tokens

    def to_string(self, tokens: Sequence[int] | Int[Tensor, "..."] | np.ndarray) -> str | list[str]:
        """The text of tokens, special ones included; a list of texts for several rows."""
        ids = torch.as_tensor(np.asarray(tokens) if isinstance(tokens, list | tuple) else tokens)
        if ids.ndim > 2:
            raise ValueError(
                f"Tokens of shape {tuple(ids.shape)} are not rows of a batch. Give one axis (pos) "
                "or two (batch, pos)."
            )
        decode = self.wrapped.tokenizer.decode
        if ids.ndim < 2:
            return decode(ids.reshape(-1).tolist(), clean_up_tokenization_spaces=False)
        return [decode(row, clean_up_tokenization_spaces=False) for row in ids.tolist()]

    def to_str_tokens(
        self,
        texts: str | Sequence[str] | Int[Tensor, " pos"] | Int[Tensor, "1 pos"],
        prepend_bos: bool | None = None,
    ) -> list[str] | list[list[str]]:
        """The pieces of a text, one string per token; a list of them for several texts.

        Args:
            prepend_bos: Whether a text starts with BOS; by default as the model's texts do.
        """
        if isinstance(texts, str):
            return self._pieces(self._reading(prepend_bos).ids(texts))
        if isinstance(texts, Tensor):
            if texts.ndim == 2 and len(texts) != 1 or texts.ndim > 2:
                raise ValueError(
                    f"Tokens of shape {tuple(texts.shape)} are of several texts. Give one row: "
                    "[model.to_str_tokens(row) for row in tokens]."
                )
            return self._pieces(texts.reshape(-1).tolist())
        return [self._pieces(self._reading(prepend_bos).ids(text)) for text in texts]

    def to_single_token(self, text: str) -> int:
        """The id of a text that is one token.

        Raises:
            ValueError: If it is none or several.
        """
        ids = self._reading(False).ids(text)
        if len(ids) != 1:
            raise ValueError(
                f"{text!r} is {len(ids)} tokens, {self._pieces(ids)}, and not one. Many tokenizers "
                "have a token for a word with the blank before it: ' word'."
            )
        return ids[0]

    def batch(self, texts: TextsLike) -> TokenBatch:
        """Texts as a batch: a batch as it is, texts as prompts, and bare tokens as whole prompts.

        Raises:
            ValueError: If tokens of several rows are padded: which of them are text is not known.
        """
        if isinstance(texts, TokenBatch):
            return texts
        if not isinstance(texts, Tensor):
            return self.texts.prompts(texts, "left")
        rows = texts.reshape(1, -1) if texts.ndim < 2 else texts
        if rows.ndim != 2 or rows.is_floating_point() or not rows.numel():
            raise ValueError(
                f"A tensor of {texts.dtype} with shape {tuple(texts.shape)} holds no tokens of "
                "texts. Give ids of shape (batch, pos), e.g. model.to_tokens(…)."
            )
        if len(rows) > 1 and _uneven(rows, self.wrapped.tokenizer.pad_token_id):
            raise ValueError(
                "These rows of tokens are padded, and the ids do not say which columns are text. "
                "Give the texts themselves, or model.tokens(texts), which knows."
            )
        rows = rows.to(self.texts.device)
        real = torch.ones_like(rows, dtype=torch.bool)
        end = torch.full((len(rows),), rows.shape[1], device=rows.device)
        return TokenBatch(rows, real, self.texts.is_special(rows) & real, end)

    def _reading(self, prepend_bos: bool | None) -> Texts:
        return self.texts if prepend_bos is None else replace(self.texts, prepend_bos=prepend_bos)

    def _pieces(self, ids: Sequence[int]) -> list[str]:
        decode = self.wrapped.tokenizer.decode
        return [decode([i], clean_up_tokenization_spaces=False) for i in ids]

    # Running

    @torch.no_grad()
    def run_with_cache(
        self, texts: TextsLike, names_filter: NamesFilter = None, **options: Any
    ) -> tuple[Float[Tensor, "batch pos d_vocab"], Any]:
        """Logits, and TransformerLens's own cache of activations, with whatever is attached.

        The cache holds every stream after the edits of it. Padding is on the left and masked.

        Args:
            texts: Texts, a batch, or tokens of texts of one length.
            names_filter: Which hook points are kept; by default all.
            options: `remove_batch_dim`, `device` and `pos_slice`, as in TransformerLens.

        Raises:
            SteeringError: If a prompt is attached (its two passes have no common cache), or an edit
                edited no token.
            TypeError: For other options.
        """
        if unknown := sorted(options.keys() - {"remove_batch_dim", "device", "pos_slice"}):
            raise TypeError(
                f"run_with_cache has no option {unknown[0]!r}. It has names_filter, "
                "remove_batch_dim, device and pos_slice; call model.wrapped.run_with_cache for "
                "others, with nothing attached."
            )
        if self.attached.prompts:
            raise SteeringError(
                "A prompt is attached, and what is computed with and without it is mixed at the "
                "asked sites only. Use model.cache(texts, sites), or put the prompt into the texts."
            )
        batch = self.batch(texts)
        self.forward.require_readable(batch)
        with self.attached.running(batch):
            self.attached.computing(batch)
            return self.wrapped.run_with_cache(
                batch.tokens, attention_mask=batch.mask.long(), names_filter=names_filter, **options
            )

    # What a direction does to the logits

    @torch.no_grad()
    def token_effects(self, vector: Float[Tensor, " d_model"]) -> Float[Tensor, " d_vocab"]:
        """What a direction in the final stream does to each logit, relative to their mean.

        The direction passes the final norm by itself and then the unembedding, without the biases
        of both and before any cap: the logit lens of a direction. Its length does not count.

        Raises:
            ValueError: If the vector is not one of the stream.
        """
        if vector.shape != (self.wrapped.cfg.d_model,):
            raise ValueError(
                f"A vector of shape {tuple(vector.shape)} is not one of the residual stream, whose "
                f"d_model is {self.wrapped.cfg.d_model}, so the unembedding cannot read it."
            )
        self.readout.require_known()
        rows = torch.stack([vector, -vector]).to(self.W_U)
        rows = rows / rows.norm(dim=-1, keepdim=True) * rows.shape[-1] ** 0.5
        # A norm is odd but for its bias, which the difference drops.
        plus, minus = self.readout.norm(rows)
        logits = ((plus - minus) / 2).float() @ self.W_U.float() * self.readout.scale
        return logits - logits.mean()


def _uneven(rows: Int[Tensor, "batch pos"], pad: int | None) -> bool:
    """Whether rows differ in how many padding ids they start or end with."""
    if pad is None:
        return False
    inside = rows != pad
    ends = (inside.int().argmax(-1), inside.flip(-1).int().argmax(-1))
    return any(bool((end != end[0]).any()) for end in ends)
