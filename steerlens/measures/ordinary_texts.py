"""Ordinary texts for the cost of steering: what the unsteered model writes by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsIndex

import torch
from torch import Tensor

from steerlens.arguments import as_int
from steerlens.data.near_duplicates import text_groups
from steerlens.measures.generation import continuations, generated_tokens
from steerlens.models.model import Model, as_model
from steerlens.store.cells import Cells, cells_or_none

COUNT = 64
"""Texts where no number is asked for: half choose and half report, and with 32 the interval of KL
covers as it should (docs/trust.md)."""
TOKENS, LEAST = 24, 8
"""Tokens of a text at most, and at least: shorter ones are left out."""
BATCH, ROUNDS = 32, 16
"""Texts that are written at once, and how often at most."""

WRITTEN = "texts that the unsteered model wrote"
"""What results state of them."""


def ordinary_texts(
    model: Model,
    count: SupportsIndex = COUNT,
    *,
    tokens: SupportsIndex = TOKENS,
    seed: SupportsIndex = 0,
    progress: bool = False,
    cells: Cells | None = None,
) -> list[str]:
    """Texts that the model writes from nothing, sampled from its own distribution.

    They exist for every model, and are as ordinary as its training texts. Texts that end early, and
    near-duplicates of an earlier one, are left out.

    Args:
        count: How many texts.
        tokens: The length of a text at most.
        cells: Where the sampled tokens are kept, so that a stopped run goes on with the same texts.

    Raises:
        ValueError: If the model writes too few different texts of at least 8 tokens.
    """
    model = as_model(model)
    count, seed = as_int("count", count, least=1), as_int("seed", seed)
    tokens = as_int("tokens", tokens, least=LEAST)
    start = _start(model)
    room = model.n_ctx - len(model.ids(start))
    kept = cells_or_none(cells, "ordinary", progress)
    found: list[str] = []
    for k in range(max(ROUNDS, 4 * count // BATCH)):

        def written(k=k) -> dict[str, Tensor]:
            new = generated_tokens(
                model, [start] * BATCH, max_new_tokens=min(tokens, room), temperature=1.0,
                seed=seed * 10_007 + k, progress=progress,
            )  # fmt: skip
            return {"tokens": new}

        new = kept.compute(k, written)["tokens"]
        found += _long_enough(model, continuations(model, [start] * BATCH, new.to(model.device)))
        found = _different(found)
        if len(found) >= count:
            return found[:count]
    raise ValueError(
        f"{model.name!r} wrote only {len(found)} different texts of at least {LEAST} tokens, and "
        f"{count} are needed to measure the cost of steering. Give ordinary texts: neutral=[…], or "
        "--neutral with a file of one text per line."
    )


def given_or_written(
    model: Model, neutral: Sequence[str] | SupportsIndex | None, seed: int, cells: Cells
) -> tuple[list[str], str]:
    """Ordinary texts, and what they are in words.

    Args:
        neutral: The texts; or how many the model writes, 64 by default.
        cells: Where the tokens of texts that it writes are kept.
    """
    if isinstance(neutral, Sequence):
        return list(neutral), "given texts"
    count = COUNT if neutral is None else as_int("neutral", neutral, least=4)
    part = cells.part("ordinary")
    found = ordinary_texts(model, count, seed=seed, progress=cells.progress, cells=part)
    return found, WRITTEN


def text_halves(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Every second text, to choose and to report on; near-duplicates are in one half.

    Raises:
        ValueError: If the texts are too few groups of near-duplicates for two halves.
    """
    groups = text_groups(texts)
    half = {group: k % 2 for k, group in enumerate(dict.fromkeys(groups))}
    parts = [[t for t, g in zip(texts, groups, strict=True) if half[g] == k] for k in (0, 1)]
    if min(map(len, parts)) < 2:
        raise ValueError(
            f"{len(texts)} neutral texts are {len(half)} groups of near-duplicates, too few for two "
            "halves that share none. Give more texts."
        )
    return parts[0], parts[1]


def _start(model: Model) -> str:
    """What the model starts from: its BOS, or where it has none the token that ends texts."""
    if model.ids(""):
        return ""
    ends = model.tokenizer.eos_token
    return str(ends) if ends else model.text([int(torch.tensor(0))])


def _long_enough(model: Model, texts: Sequence[str]) -> list[str]:
    special = [t for t in (model.tokenizer.bos_token, model.tokenizer.eos_token) if t]
    plain = []
    for text in texts:
        for mark in special:
            text = text.replace(mark, "")
        plain.append(text.strip())
    return [text for text in plain if text and len(model.ids(text)) >= LEAST]


def _different(texts: list[str]) -> list[str]:
    """The first of each group of near-duplicates."""
    firsts: dict[str, str] = {}
    for group, text in zip(text_groups(texts), texts, strict=True):
        firsts.setdefault(group, text)
    return list(firsts.values())
