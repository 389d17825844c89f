"""Written texts in windows of tokens: which are full, what repeats in them, and what a reader says."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.analyses.confirmation.readers import LikelihoodReader
from steerlens.analyses.writing.judging import judge_texts
from steerlens.models.model import Model
from steerlens.protocols import Scorer

ROWS = 256
"""Windows that are read at once."""


def full_windows(tokens: Int[Tensor, "*text new"], window: int) -> Bool[Tensor, "*text window"]:
    """Whether a text fills a window; -1 marks its end."""
    return (tokens >= 0).unflatten(-1, (-1, window)).all(-1)


def window_means(
    values: Float[Tensor, "*text new"], tokens: Int[Tensor, "*text new"], window: int
) -> Float[Tensor, "*text window"]:
    """Means over the tokens of each full window; NaN for the others."""
    means = values.unflatten(-1, (-1, window)).mean(-1)
    return means.masked_fill(~full_windows(tokens, window), torch.nan)


def window_repetition(
    tokens: Int[Tensor, "*text new"], window: int, n: int
) -> Float[Tensor, "*text window"]:
    """Share of the n-grams that end in a window and stood in the text before; NaN if it is not full.

    A text that goes round in a loop longer than a window repeats itself as well. In a first window
    the n-grams are fewer. Written tokens alone count, not those of the prompt.

    Source: seq-rep-n of arXiv:1908.04319, window by window.

    >>> window_repetition(torch.tensor([[1, 2, 3, 4, 1, 2, 3, 5]]), 4, n=2)
    tensor([[0.0000, 0.5000]])
    """
    flat = tokens.flatten(0, -2)
    repeated = torch.zeros(flat.shape)
    for row, ids in enumerate(flat.tolist()):
        known: set[tuple[int, ...]] = set()
        for end in range(n, len(ids) + 1):
            gram = tuple(ids[end - n : end])
            repeated[row, end - 1] = float(gram in known)
            known.add(gram)
    counted = torch.ones(flat.shape[-1])
    counted[: n - 1] = 0
    shares = repeated.unflatten(-1, (-1, window)).sum(-1)
    shares = shares / counted.unflatten(-1, (-1, window)).sum(-1)
    return shares.view(*tokens.shape[:-1], -1).masked_fill(~full_windows(tokens, window), torch.nan)


def window_scores(
    reader: Scorer,
    model: Model,
    prompts: Sequence[str],
    tokens: Int[Tensor, "text prompt new"],
    window: int,
) -> Float[Tensor, "text prompt window"]:
    """The reader's number of every full window; NaN for the others.

    A `LikelihoodReader` reads each window as if it stood right after the prompt: with the text before
    it, both contexts would expect what stands there already, and the numbers would fade by themselves.
    Any other reader gets the prompt with all text before the window, and the window.
    """
    full = full_windows(tokens, window)
    found = torch.full(full.shape, torch.nan)
    if isinstance(reader, LikelihoodReader):
        split = tokens.unflatten(-1, (-1, window))
        places = [full[:, p].nonzero() for p in range(len(prompts))]
        most = max(map(len, places))
        if most:
            asked = torch.zeros(len(prompts), most, window, dtype=tokens.dtype)
            for p, own in enumerate(places):
                asked[p, : len(own)] = split[own[:, 0], p, own[:, 1]]
            numbers = reader.read(prompts, asked, rows=ROWS)
            for p, own in enumerate(places):
                found[own[:, 0], p, own[:, 1]] = numbers[p, : len(own)]
        return found
    befores: list[str] = []
    inside: list[str] = []
    for text, p, w in full.nonzero().tolist():
        prompt = prompts[int(p)]
        ids = model.ids(prompt)
        own = tokens[text, p, : (w + 1) * window].tolist()
        before = model.texts.continuation(ids, own[: w * window])
        whole = model.texts.continuation(ids, own)
        befores.append(prompt + before)
        inside.append(
            whole[len(before) :] if whole.startswith(before) else model.text(own[w * window :])
        )
    if inside:
        found[full] = judge_texts(reader, befores, (tuple(inside),))[0]
    return found
