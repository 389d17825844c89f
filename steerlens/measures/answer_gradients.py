"""Passes that can be differentiated, log-odds of answers by them, and gradients within the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.measures.paths import shared_columns
from steerlens.measures.tokenised import Questions
from steerlens.models.forward import Entering
from steerlens.models.model import Model
from steerlens.models.wrapped_state import differentiable
from steerlens.sites import Positions, Site, TokenBatch


def log_odds(
    model: Model, asked: Questions, entering: Entering | None = None
) -> Float[Tensor, " example"]:
    """Log-odds of the positive answers by one hooked pass, under whatever is attached.

    Args:
        entering: The block to start at and the stream that enters it, as of `Model.states`.
    """
    with model.attached.running(asked.batch):
        model.attached.computing(asked.batch)
        states = model.stream(asked.batch, entering)[:, -asked.read :]
    return _of_states(model, asked, states)


def _of_states(
    model: Model, asked: Questions, states: Float[Tensor, "row read d_model"]
) -> Float[Tensor, " example"]:
    log_p = torch.log_softmax(model.unembed(states).float(), -1)
    log_p = log_p.unflatten(0, (len(asked), asked.variants)).expand(-1, 2, -1, -1)
    each = log_p.gather(-1, asked.targets[..., None])[..., 0] * asked.counted
    return each[:, 0].sum(-1) - each[:, 1].sum(-1)


def with_gradients(
    model: Model, asked: Questions, sites: Iterable[Site]
) -> dict[Site, tuple[Tensor, Tensor]]:
    """What each site holds in one pass, and the gradient of the summed log-odds there.

    Both have the shape that the site's hook has. A site after which nothing is computed has the
    gradient 0: it moves nothing.
    """
    with holding(model, sites) as held:
        log_odds(model, asked).sum().backward()
    return {
        site: (each.detach(), torch.zeros_like(each) if each.grad is None else each.grad)
        for site, each in held.items()
    }


def summed_gradients(
    model: Model, asked: Questions, sites: Sequence[Site], positions: Positions
) -> Float[Tensor, "site d_model"]:
    """The gradient of the summed log-odds at each site, summed over the tokens of a rule."""
    mask = positions.mask(asked.batch)
    with last_columns(model, asked.batch, sites, mask, asked.read) as (states, held):
        _of_states(model, asked, states[:, -asked.read :]).sum().backward()
    return torch.stack([of_tokens(held[site].grad, held[site], mask).sum(0) for site in sites])


def of_tokens(
    gradient: Tensor | None, held: Float[Tensor, "row some d_model"], mask: Bool[Tensor, "row pos"]
) -> Float[Tensor, "row d_model"]:
    """A gradient at the last columns of rows, summed over chosen tokens; 0 where there is none."""
    if gradient is None:  # nothing is computed after it
        gradient = torch.zeros_like(held)
    return (gradient * mask[:, -held.shape[1] :, None]).sum(1).float().cpu()


@contextmanager
def last_columns(
    model: Model, batch: TokenBatch, sites: Sequence[Site], mask: Bool[Tensor, "row pos"], read: int
) -> Iterator[tuple[Float[Tensor, "row some d_model"], dict[Site, Tensor]]]:
    """The final states, and what each site holds, so that both can be differentiated.

    Only the last columns are computed so, from the first that is chosen or read; the others run
    once without a record, and all columns see their keys and values. Where the fast pass cannot run,
    all columns are computed.

    Args:
        mask: The tokens at which gradients are wanted.
        read: How many of the last columns are read.
    """
    with differentiable(model.wrapped):
        entries = [site.entry for site in sites]
        kernel = None if None in entries or model.attached else model.kernel()
        if kernel is None:
            with holding(model, sites) as kept, model.attached.running(batch):
                model.attached.computing(batch)
                yield model.stream(batch), kept
            return
        first = int(mask.any(0).int().argmax()) if bool(mask.any()) else batch.width
        start = min(first, batch.width - read)
        with torch.no_grad():
            shared = kernel.prefix(batch, start)
        of_entry: dict[int, Tensor] = {}

        def enter(block: int, resid: Tensor) -> Tensor:
            if block in entries:
                # A view of its own, as the hook of a site has it.
                flat = resid[:, 0] if resid.requires_grad else resid[:, 0].detach().requires_grad_()
                flat.retain_grad()
                of_entry[block] = flat
                return flat[:, None]
            return resid

        columns = shared_columns(batch, start, 1)
        resid = kernel.embed(batch.tokens[:, None, start:], columns.positions)
        resid = kernel.climb(resid, columns, enter=enter, shared=shared)
        held = {
            site: of_entry[entry]
            for site, entry in zip(sites, entries, strict=True)
            if entry is not None
        }
        yield kernel.states(resid)[:, 0], held


@contextmanager
def holding(model: Model, sites: Iterable[Site]) -> Iterator[dict[Site, Tensor]]:
    """Keeps what each site holds in the pass that is run inside, so that it can be differentiated."""
    kept: dict[Site, Tensor] = {}

    def keep(site: Site) -> Callable[..., Tensor]:
        def hook_fn(held: Tensor, hook: object) -> Tensor:
            if not held.requires_grad:
                held = held.detach().requires_grad_(True)
            held.retain_grad()
            kept[site] = held
            return held

        return hook_fn

    hooks = [(site.hook, keep(site)) for site in sorted(set(sites))]
    with differentiable(model.wrapped), model.wrapped.hooks(fwd_hooks=hooks):
        yield kept
