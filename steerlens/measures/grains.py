"""GrAInS: directions from what the tokens that decide an answer do to the stream."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import ArgumentError, as_int
from steerlens.data.contrast_set import PairsLike, as_contrast_set
from steerlens.directions import Direction
from steerlens.measures.token_attribution import (
    Baseline,
    Gradients,
    TokenAttribution,
    token_attribution,
    top_tokens_of,
)
from steerlens.models.model import Model, as_model
from steerlens.sites import Positions, Site, SiteLike, TokenBatch, as_sites

Mode = Literal["both", "positive", "negative"]


@torch.no_grad()
def grains(
    model: Model,
    pairs: PairsLike,
    sites: SiteLike | Iterable[SiteLike] | None = None,
    *,
    tokens: SupportsIndex = 10,
    mode: Mode = "both",
    reduce: Literal["mean", "pca"] = "mean",
    gradients: Gradients = "integrated",
    baseline: Baseline = "mean",
    steps: SupportsIndex = 20,
    replacement: SupportsIndex | None = None,
) -> tuple[Direction, ...]:
    """A direction at each site: what the deciding tokens change in the last token's stream.

    The tokens that raise (or lower) the preference for the positive answer most are replaced; the
    difference h(text) - h(text without them), at the last token of prompt and answer, is averaged
    over both sides of all pairs. In mode "both" the direction is that of the raising tokens minus
    that of the lowering ones. Use it with `AddKeepingNorm`.

    Args:
        pairs: Questions with two answers; hold out those that are reported on.
        sites: By default resid_post of every layer.
        tokens: Tokens replaced in a text at the most; only those with a score of the sign, and no
            special ones.
        reduce: "pca" is the first principal component of the centred differences, turned to their
            mean; a shift that all pairs share is lost in it.
        replacement: The token put in their place; by default the padding token, else the unknown
            token, else EOS.

    Raises:
        ArgumentError: For a mode that there is not, or a model without such a token.
        ValueError: If an answer cannot be scored, or no text has a token with a score of the sign.

    Source: arXiv:2507.18043. Departures: `token_attribution` reads each answer token from the place
    before it, with the mean vector as its baseline; no factor 10; the mean is the default, and the
    sign of PCA is fixed.
    """
    model = as_model(model)
    count = as_int("tokens", tokens, least=1)
    if mode not in ("both", "positive", "negative") or reduce not in ("mean", "pca"):
        raise ArgumentError(
            f"mode={mode!r:.40} must be 'both', 'positive' or 'negative', and reduce={reduce!r:.40} "
            "'mean' or 'pca'."
        )
    token = _replacement(model, replacement)
    where = model.sites() if sites is None else as_sites(sites, model.n_layers)
    given = as_contrast_set(pairs)
    with torch.enable_grad():
        found = token_attribution(model, given, gradients=gradients, baseline=baseline, steps=steps)
    before = [model.cache(batch, where) for batch in found.batches]
    ways = {"both": (1, -1), "positive": (1,), "negative": (-1,)}[mode]
    vectors = {site: torch.zeros(0) for site in where}
    for sign in ways:
        moved = _moved(model, found, before, where, count, sign, token)
        for site in where:
            one = _reduced(moved[site], reduce)
            vectors[site] = sign * one + (vectors[site] if vectors[site].numel() else 0.0)
    made = (
        f"GrAInS(tokens={count}, mode={mode!r}, reduce={reduce!r}, gradients={gradients!r}, "
        f"baseline={baseline!r})"
    )
    return tuple(
        Direction(
            vectors[site].cpu(), site, method=made, processing=model.processing, model=model.name,
            resid_norm=_norm(before, found.batches, site), apply_at=Positions.all(),
            dtype=model.dtype,
        )
        for site in where
    )  # fmt: skip


def _replacement(model: Model, given: SupportsIndex | None) -> int:
    if given is not None:
        return as_int("replacement", given, least=0)
    tokenizer = model.tokenizer
    for name in ("pad_token_id", "unk_token_id", "eos_token_id"):
        if (found := getattr(tokenizer, name, None)) is not None:
            return int(found)
    raise ArgumentError(
        "The tokenizer has no padding, unknown or EOS token to put in the place of others. Give the "
        "id of one: replacement=…"
    )


def _moved(
    model: Model,
    found: TokenAttribution,
    before: list[dict[Site, Tensor]],
    sites: tuple[Site, ...],
    count: int,
    sign: int,
    token: int,
) -> dict[Site, Float[Tensor, "text d_model"]]:
    """What replacing the deciding tokens takes from the last token's stream, text by text."""
    parts: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for batch, scores, own in zip(found.batches, found.scores, before, strict=True):
        chosen = top_tokens_of(scores, batch, count, sign)
        kept = [k for k, columns in enumerate(chosen) if columns]
        if not kept:
            continue
        index = torch.tensor(kept)
        after = model.cache(_without(batch, chosen, token).rows(index), sites)
        last = batch.width - 1  # answers are padded on the left
        for site in sites:
            parts[site].append(own[site][index][:, last] - after[site][:, last])
    if not parts[sites[0]]:
        raise ValueError(
            f"No token has a {'positive' if sign > 0 else 'negative'} score, so none could be left "
            "out. Use other pairs, or another mode."
        )
    return {site: torch.cat(rows).float() for site, rows in parts.items()}


def _without(batch: TokenBatch, chosen: list, token: int) -> TokenBatch:
    tokens = batch.tokens.clone()
    for row, columns in enumerate(chosen):
        tokens[row, columns] = token
    return replace(batch, tokens=tokens)


def _reduced(moved: Float[Tensor, "text d_model"], reduce: str) -> Float[Tensor, " d_model"]:
    mean = moved.mean(0)
    if reduce == "mean":
        return mean
    if len(moved) < 2:
        raise ValueError("A principal component needs at least two texts. Use reduce='mean'.")
    first = torch.linalg.svd(moved - mean, full_matrices=False)[2][0]
    return first if float(mean @ first) >= 0 else -first


def _norm(
    before: list[dict[Site, Tensor]], batches: tuple[TokenBatch, TokenBatch], site: Site
) -> float:
    """The median norm of the stream at ordinary tokens."""
    norms = [
        own[site][batch.mask & ~batch.special].float().norm(dim=-1)
        for own, batch in zip(before, batches, strict=True)
    ]
    return float(torch.cat(norms).median())
