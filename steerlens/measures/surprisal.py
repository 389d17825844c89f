"""How unlikely written texts are to the unsteered model: the perplexity of what steering writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.models.kernel import Columns, Kernel
from steerlens.models.memory import free_bytes, in_chunks
from steerlens.models.model import Model, SteeringError, as_model
from steerlens.sites import TokenBatch

ROWS = 256
"""Texts run at once at the most; more does not get faster, only larger."""


@torch.no_grad()
def surprisal(
    model: Model,
    prompts: Sequence[str],
    written: Int[Tensor, "prompt text new"],
    *,
    rows: int = ROWS,
) -> Float[Tensor, "prompt text"]:
    """Mean negative log-probability of written tokens after their prompts, in nats per token.

    Its exp is the perplexity. Only the written tokens count, an EOS among them.

    Args:
        written: Token ids of some texts after each prompt, with -1 after the end of a text.
        rows: Texts run at once; halved where memory runs out.

    Raises:
        SteeringError: If steering is attached to the model: it would be asked about itself.
        ValueError: If a text has no token or does not fit the context, or a log-probability is not
            finite.
    """

    def mean(nats: Tensor, real: Tensor) -> Tensor:
        return nats.sum(-1) / real.sum(-1)

    return _read(model, prompts, written, mean, rows)


@torch.no_grad()
def token_surprisal(
    model: Model,
    prompts: Sequence[str],
    written: Int[Tensor, "prompt text new"],
    *,
    rows: int = ROWS,
) -> Float[Tensor, "prompt text new"]:
    """`surprisal`, token by token, in nats: 0 after the end of a text."""
    return _read(model, prompts, written, lambda nats, real: nats, rows)


def _read(
    model: Model,
    prompts: Sequence[str],
    written: Int[Tensor, "prompt text new"],
    shown: Callable[[Tensor, Tensor], Tensor],
    rows: int,
) -> Tensor:
    """What is shown of the nats of each written token, and of where the texts are real."""
    model = as_model(model)
    require_unsteered(model)
    ids = [model.ids(prompt) for prompt in prompts]
    real = written >= 0
    if len(prompts) != len(written) or not bool(real[..., 0].all()):
        raise ValueError(
            f"{len(prompts)} prompts for texts of {len(written)}, or a text without a first token: "
            "perplexity needs at least one token (EOS counts)."
        )
    if bool((real[..., 1:] > real[..., :-1]).any()):
        raise ValueError("A text goes on after -1, which marks its end. Put -1 at the end only.")
    longest = max(map(len, ids)) + written.shape[-1]
    if longest > model.n_ctx:
        raise ValueError(
            f"The longest prompt and its texts have {longest} tokens and the context of "
            f"{model.name!r} is {model.n_ctx}. Shorten the prompts."
        )
    kernel = model.kernel()

    def run(chunk: slice) -> Tensor:
        batch = model.tokens(prompts[chunk])
        own = written[chunk].to(model.device)
        return shown(_nats(model, kernel, batch, own), own >= 0).cpu()

    found = in_chunks(run, len(prompts), max(1, rows // written.shape[1]))
    if not bool(found.isfinite().all()):
        prompt, text = (~found.isfinite()).nonzero()[0].tolist()[:2]
        raise ValueError(
            f"The unsteered model's log-probabilities of text {text} after prompt {prompt} are NaN "
            "or infinite. Load it in float32 or bfloat16."
        )
    return found


def require_unsteered(model: Model) -> None:
    """Raises SteeringError if steering is attached to the model."""
    if model.attached:
        sites = ", ".join(str(attached.site) for attached in model.attached)
        raise SteeringError(
            f"Steering is attached to {model.name!r} at {sites}, so the model is not unsteered. "
            "Leave the `with` first."
        )


def _nats(
    model: Model,
    kernel: Kernel | None,
    prompts: TokenBatch,
    written: Int[Tensor, "prompt text new"],
) -> Float[Tensor, "prompt text new"]:
    """The nats of each written token; 0 after the end of a text."""
    real, targets = written >= 0, written.clamp(min=0)
    if kernel is None:
        flat, kept = targets.flatten(0, 1), real.flatten(0, 1)
        special = model.is_special(flat) & kept
        batch = prompts.repeated(written.shape[1]).extended(flat, special, kept)
        states = model.states(batch)[:, -written.shape[-1] - 1 : -1].unflatten(0, real.shape[:2])
    else:
        states = _states(kernel, prompts, targets, real)
    own, tokens = states[real], targets[real]
    normaliser = model.readout.log_normaliser(own, free_bytes(model.device) // 4)
    nats = torch.zeros(real.shape, device=real.device, dtype=torch.float32)
    nats[real] = (normaliser - model.readout.of_tokens(own, tokens)).float()
    return nats


def _states(
    kernel: Kernel,
    prompts: TokenBatch,
    targets: Int[Tensor, "prompt text new"],
    real: Bool[Tensor, "prompt text new"],
) -> Float[Tensor, "prompt text new d_model"]:
    """The states from which each written token is predicted; each prompt is run once."""
    last = prompts.width - 1  # the first column that predicts a written token
    index = torch.arange(last, prompts.width - 1 + targets.shape[-1], device=targets.device)
    ends = (len(prompts), targets.shape[1], 1)
    after = Columns(
        positions=(prompts.positions[:, -1:] + index - last)[:, None].expand_as(real),
        index=index,
        own_keys=torch.cat([real.new_ones(ends), real[..., :-1]], -1),
        own_index=index,
        shared_keys=prompts.mask[:, :last] if last else None,
    )
    tokens = torch.cat([prompts.tokens[:, None, -1:].expand(ends), targets[..., :-1]], -1)
    resid = kernel.embed(tokens, after.positions)
    return kernel.states(kernel.climb(resid, after, shared=kernel.prefix(prompts, last)))
