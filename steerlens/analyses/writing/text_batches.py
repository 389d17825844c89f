"""The tokens that a model writes under one intervention, in batches of a fixed size."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from steerlens.measures.generation import generated_tokens
from steerlens.measures.surprisal import ROWS
from steerlens.models.memory import in_chunks
from steerlens.models.model import Model, SteeringError
from steerlens.protocols import Intervention, takes_rows

BATCH_BYTES = {"cpu": 2**30}
"""Estimated memory of one batch, by kind of device."""
OTHER_BYTES = 2**32
"""The same for all other kinds, such as "cuda"."""


def batch_rows(model: Model, prompts: list[str], new: int) -> int:
    """How many texts are written at once.

    It depends on the model, its kind of device and the work, never on the free memory: other
    batches can differ in the last bits of the logits, and so in a token.
    """
    cfg, size = model.cfg, next(model.wrapped.parameters()).element_size()
    width = model.tokens(prompts).width + new
    kept = 2 * cfg.n_layers * (cfg.n_key_value_heads or cfg.n_heads) * cfg.d_head
    layer = 4 * cfg.d_model + 2 * (cfg.d_mlp or 0) + 3 * cfg.n_heads * (cfg.d_head + width)
    # Keys and values of all layers, one layer, and a few float32 vectors over the vocabulary.
    need = width * (kept + layer) * size + 6 * 4 * cfg.d_vocab
    allowed = BATCH_BYTES.get(model.device.type, OTHER_BYTES)
    return max(1, min(ROWS, allowed // need))


def written_tokens(
    model: Model,
    edit: Intervention | None,
    prompts: list[str],
    multipliers: list[float],
    rows: int,
    options: dict[str, Any],
) -> Int[Tensor, "multiplier prompt new"]:
    """Token ids of the texts of one intervention, with -1 after the end of a text.

    Args:
        edit: None for the unsteered model.
        rows: Texts written at once.
        options: Of `generated_tokens`.
    """
    prompts_of = list(range(len(prompts)))
    if edit is None:
        found = [_in_batches(model, prompts, prompts_of, rows, options)] * len(multipliers)
    elif takes_rows(edit):
        return _with_strengths(model, edit, prompts, multipliers, rows, options)
    else:
        found = []
        for m in multipliers:
            with edit.attach(model, m):
                found.append(_in_batches(model, prompts, prompts_of, rows, options))
    return torch.stack(found)


def _in_batches(
    model: Model, prompts: list[str], draws: list[int], rows: int, options: dict[str, Any]
) -> Int[Tensor, "prompt new"]:
    return in_chunks(
        lambda chunk: _continued(model, prompts, draws[chunk], options), len(draws), rows
    )


def _with_strengths(
    model: Model,
    edit: Intervention,
    prompts: list[str],
    multipliers: list[float],
    rows: int,
    options: dict[str, Any],
) -> Int[Tensor, "multiplier prompt new"]:
    """All strengths in one sequence of batches, with one strength per row."""
    draws = list(range(len(prompts))) * len(multipliers)
    strengths = torch.tensor(multipliers).repeat_interleave(len(prompts)).to(model.device)

    def run(chunk: slice) -> Tensor:
        with edit.attach(model, strengths[chunk]):
            return _continued(model, prompts, draws[chunk], options)

    return in_chunks(run, len(draws), rows).view(len(multipliers), len(prompts), -1)


def _continued(
    model: Model, prompts: list[str], draws: list[int], options: dict[str, Any]
) -> Int[Tensor, "row new"]:
    """Continuations under whatever is attached; the draws are the indices of the prompts."""
    asked = [prompts[p] for p in draws]
    try:
        new = generated_tokens(model, asked, draws=draws, **options)
    except SteeringError:
        # All texts may end before the first token that is steered, which is a result and not an
        # error. Steering that edits nothing at all raises again.
        new = generated_tokens(model, asked, draws=draws, stop_at_eos=False, **options)
    return _ended(model, new, options["max_new_tokens"]).cpu()


def _ended(model: Model, new: Int[Tensor, "row some"], width: int) -> Int[Tensor, "row new"]:
    """Generated tokens with -1 after the first EOS, padded to the full width."""
    out = new.new_full((len(new), width), -1)
    out[:, : new.shape[1]] = new
    eos = out == end_token(model)
    return out.masked_fill(eos.cumsum(-1) - eos.long() > 0, -1)


def end_token(model: Model) -> int:
    """The id that ends a text; -2, which is no token, where there is none."""
    eos = model.tokenizer.eos_token_id
    return -2 if eos is None else eos
