"""A first look at every layer and position for the price of one backward pass.

To first order, what an edit does to the log-odds is its push times the gradient there. That is
exact for small strengths and says which cells deserve the exact sweep on models too large for the
whole grid; it is not a map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from steerlens import stats
from steerlens.data import ContrastPair, ContrastSet
from steerlens.measures.sweep import Questions, questions
from steerlens.models.model import Model, as_model
from steerlens.protocols import ResidualEdit
from steerlens.stats import Interval


@dataclass(frozen=True, eq=False)
class Screen:
    """First-order slopes of propensity at strength 0."""

    by_position: Float[Tensor, "edit example pos"]
    """Nats per unit multiplier that the edit of each single token would give; prompts are
    left-padded, so the last column is the prompt's last token (or the last answer token)."""
    chosen: Bool[Tensor, "edit example pos"]
    """The tokens that the edit's own position rule chooses."""

    @property
    def slopes(self) -> Float[Tensor, "edit example"]:
        """Nats per unit multiplier of each edit at its own positions."""
        return (self.by_position * self.chosen).sum(-1)

    def rank_correlation(self, exact: Float[Tensor, "edit example"]) -> Interval:
        """Spearman's correlation with exact slopes, over edits (mean over examples)."""
        return stats.rank_correlation(self.slopes.mean(-1), exact.mean(-1))


def screen(
    model: Model,
    pairs: Sequence[ContrastPair] | ContrastSet,
    edits: Sequence[ResidualEdit],
    *,
    batch_size: int = 8,
    progress: bool = True,
) -> Screen:
    """Slopes of the log-odds over the strength of every edit, at 0, by one backward pass.

    Args:
        edits: Residual-stream edits that are linear in their strength (Add, Ablate, Clamp).

    Raises:
        ValueError: For questions that cannot be scored, or a site the model does not have.

    Source: attribution patching, Nanda 2023; Syed et al., arXiv:2310.10348.
    """
    model = as_model(model)
    for edit in edits:
        model.require_site(edit.site)
    asked = questions(model, pairs)
    parts, masks = [], []
    with tqdm(total=len(asked), desc="screen", unit="ex", disable=not progress) as bar:
        for start in range(0, len(asked), batch_size):
            part = asked.rows(slice(start, min(start + batch_size, len(asked))))
            parts.append(_slopes(model, part, edits))
            chosen = torch.stack([edit.positions.mask(part.batch) for edit in edits])
            masks.append(chosen.unflatten(1, (len(part), -1)).any(2).cpu())
            bar.update(len(part))
    return Screen(torch.cat(parts, 1), torch.cat(masks, 1))


def _slopes(
    model: Model, asked: Questions, edits: Sequence[ResidualEdit]
) -> Float[Tensor, "edit example pos"]:
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., Tensor]:
        def hook_fn(resid: Tensor, hook: object) -> Tensor:
            if not resid.requires_grad:
                resid = resid.detach().requires_grad_(True)
            resid.retain_grad()
            kept[name] = resid
            return resid

        return hook_fn

    parameters = [p for p in model.wrapped.parameters() if p.requires_grad]
    names = sorted({edit.site.hook for edit in edits})
    try:
        for p in parameters:  # their gradients are not wanted, and would double the memory
            p.requires_grad_(False)
        hooks = [(name, keep(name)) for name in names]
        with torch.enable_grad(), model.wrapped.hooks(fwd_hooks=hooks):
            _log_odds(model, asked).sum().backward()
    finally:
        for p in parameters:
            p.requires_grad_(True)
    slopes = []
    for edit in edits:
        resid = kept[edit.site.hook]
        push = edit(resid.detach(), 1.0) - resid.detach()  # linear in the strength
        # A site after which nothing is computed has no gradient: it moves nothing.
        gradient = torch.zeros_like(push) if resid.grad is None else resid.grad
        slopes.append((push * gradient).sum(-1).unflatten(0, (len(asked), -1)).sum(1))
    return torch.stack(slopes).float().cpu()


def _log_odds(model: Model, asked: Questions) -> Float[Tensor, " example"]:
    with model.attached.running(asked.batch):
        model.attached.computing(asked.batch)
        states = model.stream(asked.batch)[:, -asked.read :]
    log_p = torch.log_softmax(model.unembed(states).float(), -1)
    log_p = log_p.unflatten(0, (len(asked), asked.variants)).expand(-1, 2, -1, -1)
    each = log_p.gather(-1, asked.targets[..., None])[..., 0] * asked.counted
    return each[:, 0].sum(-1) - each[:, 1].sum(-1)
