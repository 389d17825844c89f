"""Rewrites texts by an intervention, word by word, where it would not have written the word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.arguments import as_positive
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention
from steerlens.sites import TokenBatch

ROWS = 32
"""Texts that are rewritten at once."""


@torch.no_grad()
def rewritten(
    model: Model,
    intervention: Intervention,
    texts: Sequence[str],
    multiplier: float = 1.0,
    thresholds: Iterable[float] = (2.0,),
) -> list[list[str]]:
    """Texts with those tokens replaced that an intervention makes much less likely.

    Token x_t of a text stays where log p_m(x_t | y_<t) - log p(x_t | x_<t) is at least minus the
    threshold, with p the unsteered model, p_m the steered one, and y_<t the rewritten text so far; else
    the token that p_m finds likeliest takes its place. So a text keeps its length, and an intervention
    that changes nothing copies it.

    All positions are rewritten from the last round's text until no token changes. The first k tokens
    are right after k rounds, so this ends at what going from left to right gives, in few rounds.

    Args:
        thresholds: In nats, above 0.

    Returns:
        For each threshold, the texts.

    Raises:
        ValueError: If there is no text or threshold, or one is not above 0.
    """
    model = as_model(model)
    limits = [as_positive("thresholds", limit) for limit in thresholds]
    if not texts or not limits:
        raise ValueError("There is nothing to rewrite. Give at least one text and one threshold.")
    found: list[list[str]] = [[] for _ in limits]
    for start in range(0, len(texts), ROWS):
        batch = model.tokens(list(texts[start : start + ROWS]), padding_side="right")
        ordinary = _log_probs(model, batch).gather(-1, batch.tokens[:, 1:, None])[..., 0]
        for k, limit in enumerate(limits):
            with intervention.attach(model, multiplier):
                tokens = _settled(model, batch, ordinary, limit)
            for row, real in zip(tokens, batch.mask & ~batch.special, strict=True):
                found[k].append(model.text(row[real]))
    return found


def _settled(
    model: Model, batch: TokenBatch, ordinary: Float[Tensor, "text later"], limit: float
) -> Int[Tensor, "text pos"]:
    """The tokens at which another round changes nothing."""
    source = batch.tokens
    special = torch.tensor(model.special_ids, dtype=torch.long, device=source.device)
    fixed = ~batch.mask[:, 1:] | batch.special[:, 1:]
    tokens = source
    for _ in range(source.shape[1]):
        steered = _log_probs(model, replace(batch, tokens=tokens))
        own = steered.gather(-1, source[:, 1:, None])[..., 0]
        steered[..., special] = -torch.inf
        kept = fixed | (own - ordinary >= -limit)
        after = torch.where(kept, source[:, 1:], steered.argmax(-1))
        after = torch.cat([source[:, :1], after], 1)
        if torch.equal(after, tokens):
            break
        tokens = after
    return tokens


def _log_probs(model: Model, batch: TokenBatch) -> Float[Tensor, "text later d_vocab"]:
    """Of each token after the first, given those before it."""
    return torch.log_softmax(model.logits(batch)[:, :-1].float(), -1)
