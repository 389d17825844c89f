"""Log-odds of answers by a pass that can be differentiated, and their gradients within the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.measures.tokenised import Questions
from steerlens.models.model import Model
from steerlens.models.wrapped_state import differentiable
from steerlens.sites import Site


def log_odds(model: Model, asked: Questions) -> Float[Tensor, " example"]:
    """Log-odds of the positive answers by one hooked pass, under whatever is attached."""
    with model.attached.running(asked.batch):
        model.attached.computing(asked.batch)
        states = model.stream(asked.batch)[:, -asked.read :]
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
