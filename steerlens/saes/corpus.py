"""Batches of tokens, and the stream at ordinary tokens: what SAEs are trained and measured on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.models.model import Model
from steerlens.sites import Site, TokenBatch

Corpus = Sequence[str] | Int[Tensor, "row pos"]
"""Texts, or rows of token ids that include their BOS and have no padding."""


def batches(
    model: Model, corpus: Corpus, *, rows: int = 32, generator: torch.Generator | None = None
) -> Iterator[TokenBatch]:
    """The corpus once, in batches, in a random order if there is a generator.

    Raises:
        ValueError: If the corpus is empty, or a row is longer than the model's context.
    """
    if len(corpus) == 0:
        raise ValueError("The corpus is empty. Give texts, or rows of token ids.")
    order = (
        torch.arange(len(corpus))
        if generator is None
        else torch.randperm(len(corpus), generator=generator)
    )
    for index in order.split(rows):
        if isinstance(corpus, Tensor):
            yield _of_ids(model, corpus[index])
        else:
            yield model.tokens([corpus[int(i)] for i in index], padding_side="right")


def first_rows(model: Model, corpus: Corpus, tokens: int) -> Corpus:
    """The first rows that hold as many tokens, at least one; texts from short to long.

    Texts of one length in a batch need no padding, so this is the order to read them in where no
    order is asked for.
    """
    if isinstance(corpus, Tensor):
        return corpus[: max(1, tokens // max(1, corpus.shape[1]))]
    found: list[str] = []
    for text in corpus:
        if found and tokens <= 0:
            break
        found.append(text)
        tokens -= int(model.tokens([text]).mask.sum())
    return sorted(found, key=len)


def ordinary(batch: TokenBatch) -> Tensor:
    """The tokens that SAEs see: no padding, no special tokens such as BOS, and none that comes first.

    The norm of a text's first token can be tens of times that of others, also where no BOS stands
    before it: a few such rows would make up nearly all of the variance that is to be explained.
    """
    first = batch.mask.cumsum(-1) == 1
    return batch.mask & ~batch.special & ~first


def streams(
    model: Model, batch: TokenBatch, sites: Sequence[Site]
) -> dict[Site, Float[Tensor, "token d_model"]]:
    """The stream at the ordinary tokens of a batch, in float32."""
    chosen = ordinary(batch)
    return {site: resid[chosen].float() for site, resid in model.cache(batch, sites).items()}


def _of_ids(model: Model, ids: Int[Tensor, "row pos"]) -> TokenBatch:
    if ids.shape[1] > model.n_ctx:
        raise ValueError(
            f"Rows of {ids.shape[1]} tokens are longer than the context of {model.name!r}, "
            f"{model.n_ctx}. Cut them to that length."
        )
    ids = ids.to(model.device)
    return TokenBatch(
        tokens=ids,
        mask=torch.ones_like(ids, dtype=torch.bool),
        special=model.is_special(ids),
        prompt_end=torch.full((len(ids),), ids.shape[1], device=ids.device),
    )
