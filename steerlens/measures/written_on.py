"""Texts that are written on without steering, with or without what steering left in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import SupportsFloat, SupportsIndex

import torch
from jaxtyping import Int
from torch import Tensor

from steerlens.arguments import ArgumentError, as_float, as_int
from steerlens.interventions.arms import require_fit
from steerlens.measures.kept_texts import KeptTexts
from steerlens.measures.random_draws import RandomDraws, require_finite, sampled
from steerlens.measures.surprisal import require_unsteered
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention
from steerlens.sites import TokenBatch


@torch.no_grad()
def written_on(
    model: Model,
    prompts: Sequence[str],
    written: Int[Tensor, "text steered"],
    *,
    kept: tuple[Intervention, SupportsFloat] | None = None,
    max_new_tokens: SupportsIndex = 32,
    temperature: SupportsFloat = 1.0,
    seed: SupportsIndex = 0,
    stop_at_eos: bool = True,
    draws: Sequence[int] | None = None,
) -> Int[Tensor, "text new"]:
    """What the unsteered model writes after texts of which the first tokens are there already.

    Random draws go on where they would be if the same run had written those tokens. So after tokens
    that the unsteered model wrote with the same seed and draws, the text is the one that it writes
    by itself.

    Args:
        written: Tokens after each prompt, none of which ends its text.
        kept: An intervention and a multiplier. Keys and values of the prompt and of the written
            tokens but the last one are then those built under it, as where it is switched off while
            the cache is kept. By default all are recomputed without steering. A prompt in front is
            taken away with what was kept of it.
        draws: As in `generate`.

    Returns:
        The new tokens; padded after the end of a text.

    Raises:
        ValueError: If there is no text, a written token ends its text, a text does not fit the
            context, the intervention does not fit the model, or decoding with a cache gives other
            numbers on this model.
        SteeringError: If steering is attached to the model, or the intervention edits no token.
    """
    model = as_model(model)
    require_unsteered(model)
    new = as_int("max_new_tokens", max_new_tokens, least=1)
    temperature, seed = as_float("temperature", temperature), as_int("seed", seed)
    if temperature < 0:
        raise ValueError(f"temperature={temperature} is negative. Use 0 for the likeliest token.")
    streams = range(len(prompts)) if draws is None else draws
    if not prompts or written.shape[-1] < 1 or not len(prompts) == len(written) == len(streams):
        raise ArgumentError(
            f"{len(prompts)} prompts, {len(streams)} draws and {tuple(written.shape)} written tokens: "
            "give at least one prompt, and one draw and at least one token for each."
        )
    written = written.to(model.device)
    if bool((written < 0).any()) or (stop_at_eos and bool(model.is_end(written).any())):
        raise ArgumentError(
            "A text ends within its written tokens, so nothing comes after them. Leave it out."
        )
    if not model.forward.caches:
        raise ValueError(
            f"Decoding {model.name!r} with a key-value cache gives other numbers than a whole pass, so "
            "what a kept cache holds cannot be told from that. Use another model."
        )
    base = model.tokens(prompts, padding_side="left")
    width = base.width + written.shape[1] + new
    if width > model.n_ctx:
        raise ValueError(
            f"The longest text has {width} tokens, and the context of {model.name!r} is {model.n_ctx}. "
            "Use shorter prompts, or less of max_new_tokens."
        )
    before = _extended(model, base, written[:, :-1], torch.ones_like(written[:, :-1]).bool())
    if kept is not None:
        require_fit(model, kept[0])
    attached = nullcontext() if kept is None else kept[0].attach(model, as_float("kept", kept[1]))
    with attached:
        # Without hooks where that is possible: it is faster. Nudges need it.
        plain = all(one.site.entry is not None for one in model.attached)
        stepped = bool(model.attached.nudges) or (model.kernel() is not None and plain)
        texts = KeptTexts(model, before, width, stepped=stepped)
        for prompt in model.attached.prompts:
            prompt.ever_ran = True  # nothing of it is kept, so the text is read without it
    batch = _extended(model, before, written[:, -1:], torch.ones_like(written[:, -1:]).bool())
    draw = RandomDraws.of(seed, streams)
    return _write(model, texts, batch, draw, written.shape[1], new, temperature, stop_at_eos)


def _write(
    model: Model,
    texts: KeptTexts,
    batch: TokenBatch,
    draw: RandomDraws,
    skipped: int,
    new: int,
    temperature: float,
    stop_at_eos: bool,
) -> Int[Tensor, "text new"]:
    pad, first = model.tokenizer.pad_token_id or 0, batch.width
    going = torch.ones(len(batch), dtype=torch.bool, device=model.device)
    for k in range(new):
        logits = texts.logits(batch, 1)[:, 0].float()
        require_finite(logits)
        if k == 0 and temperature > 0:
            draw.skip(skipped, logits.shape[-1])
        chosen = torch.where(going, sampled(logits, temperature, draw), pad)
        real = going[:, None].clone()
        if stop_at_eos:
            going = going & ~model.is_end(chosen)
        batch = _extended(model, batch, chosen[:, None], real)
        if not bool(going.any()):
            break
    return batch.tokens[:, first:]


def _extended(
    model: Model, batch: TokenBatch, tokens: Int[Tensor, "text new"], real: Tensor
) -> TokenBatch:
    return batch.extended(tokens, model.is_special(tokens) & real, real)
