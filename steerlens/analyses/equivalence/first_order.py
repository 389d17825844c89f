"""The shift of the stream under a change of weights: to first order, and the true one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, SupportsFloat

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, jvp

from steerlens.analyses.equivalence.shift_equivalence import RANKS, ShiftEquivalence
from steerlens.arguments import as_floats
from steerlens.data.near_duplicates import text_groups
from steerlens.interventions.changes import WeightChange
from steerlens.interventions.composition import require_changes_fit
from steerlens.interventions.together import changes_of
from steerlens.measures.surprisal import require_unsteered
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention
from steerlens.sites import Stream, TokenBatch

ROWS = 16
"""Texts of one pass."""

Streams = Callable[[Tensor], tuple[Tensor, ...]]
"""The stream at every site [text, pos, d_model] as a function of the multiplier."""


@torch.no_grad()
def shift_equivalence(
    model: Model,
    intervention: Intervention,
    texts: Sequence[str],
    multipliers: Iterable[SupportsFloat] = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0),
    *,
    stream: Stream = "resid_post",
) -> ShiftEquivalence:
    """The shift of a stream that weights W + mΔ make, beside m times its derivative at m = 0.

    The derivative of the stream at every layer is taken along Δ in one forward pass
    (`torch.func.jvp`), through everything that comes before: so it holds what all changed blocks do
    and how it propagates. Where the two agree, the change of weights is a shift of activations.

    Args:
        intervention: One that changes weights and nothing else, e.g. trained `LoRA` or `FullWeights`.
        texts: What is read; the shift at every token but BOS counts.
        multipliers: Above 0.

    Raises:
        ValueError: If the intervention changes anything but weights, or does not fit the model; the
            model is no HookedTransformer; or a multiplier is 0.
        SteeringError: If steering is attached to the model.

    Source: arXiv:2603.00425, which states the first order of one gated MLP in closed form; its other
    layers and their propagation are left out there, and are part of the derivative here.
    """
    model = as_model(model)
    strengths = as_floats("multipliers", multipliers)
    if not strengths or min(map(abs, strengths)) == 0:
        raise ValueError(f"multipliers={strengths}: at 0 there is no shift. Leave it out.")
    if model.is_bridge:
        raise ValueError(
            f"{model.name!r} is a TransformerBridge, whose weights cannot be exchanged within a "
            "derivative. Load it as a HookedTransformer."
        )
    if not texts:
        raise ValueError("There are no texts to read the stream on. Give at least one.")
    changes = changes_of(intervention, model)
    weights = [change for change in changes or () if isinstance(change, WeightChange)]
    if not weights or len(weights) < len(changes or ()):
        raise ValueError(
            f"{intervention!r:.80} does not change weights alone, and an edit of the stream is its "
            "own shift. Give an intervention of weights, e.g. trained LoRA or FullWeights."
        )
    require_changes_fit(model, tuple(weights), repr(intervention)[:80])
    require_unsteered(model)
    sites = model.sites(stream)
    rows = []
    shifts: list[list[Tensor]] = [[] for _ in sites]
    for start in range(0, len(texts), ROWS):
        batch = model.tokens(list(texts[start : start + ROWS]), padding_side="right")
        read = _streams(model, weights, [site.hook for site in sites], batch)
        counted = batch.mask & ~batch.special
        zero = torch.zeros((), dtype=model.W_E.dtype, device=model.device)
        base, slope = along(read, zero)
        found = torch.zeros(3, len(strengths), len(sites), len(batch))
        for j, m in enumerate(strengths):
            moved = read(torch.full_like(zero, m))
            for s, (after, before, rate) in enumerate(zip(moved, base, slope, strict=True)):
                true = (after - before) * counted[..., None]
                missed = true - m * rate * counted[..., None]
                sizes = (missed, true, before * counted[..., None])
                for k, part in enumerate(sizes):
                    found[k, j, s] = part.float().square().sum((-1, -2)).cpu()
                if j == len(strengths) - 1:
                    shifts[s].append(true[counted].float().cpu())
        rows.append(found)
    every = torch.cat(rows, -1)
    return ShiftEquivalence(
        sites=tuple(sites),
        multipliers=torch.tensor(strengths),
        missed=every[0],
        moved=every[1],
        size=every[2, 0],
        low_rank=torch.stack([_spectrum(torch.cat(parts)) for parts in shifts]),
        groups=tuple(str(group) for group in text_groups(list(texts))),
        made_by={
            **model.facts,
            "question": "Is a change of weights a shift of activations, to first order?",
            "intervention": repr(intervention),
            "stream": stream,
            "changed": [change.name for change in weights],
            "texts": len(texts),
        },
    )


def along(read: Streams, at: Float[Tensor, ""]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The streams at a multiplier, and their derivatives by it."""
    with warnings.catch_warnings():
        # The first forward-mode derivative of a process scripts functions of torch's own.
        warnings.filterwarnings("ignore", ".*torch.jit.script.*", DeprecationWarning)
        found: Any = jvp(read, (at,), (torch.ones_like(at),))
    return found


def _streams(
    model: Model, weights: Sequence[WeightChange], hooks: Sequence[str], batch: TokenBatch
) -> Streams:
    """The streams at some hooks as a function of the multiplier of the changes."""
    own = {name: p.detach() for name, p in model.wrapped.named_parameters()}
    deltas: dict[str, Tensor] = {}
    for change in weights:
        so_far = deltas.get(change.name, torch.zeros_like(own[change.name]))
        deltas[change.name] = change.delta.added(so_far, 1.0).detach()
    points = [model.wrapped.get_submodule(hook) for hook in hooks]

    def read(m: Tensor) -> tuple[Tensor, ...]:
        changed = {name: own[name] + m * delta for name, delta in deltas.items()}
        kept: list[Tensor] = []
        handles = [
            point.register_forward_hook(lambda _, __, out: kept.append(out)) for point in points
        ]
        try:
            # Padding is on the right, where no token that counts sees it.
            functional_call(
                model.wrapped, changed, (batch.tokens,), {"return_type": None, "prepend_bos": False}
            )
        finally:
            for handle in handles:
                handle.remove()
        return tuple(kept)

    return read


def _spectrum(shift: Float[Tensor, "token d_model"]) -> Float[Tensor, " rank"]:
    """The share of the shift that is the same at all tokens, then that of its best k directions."""
    total = shift.square().sum()
    mean = len(shift) * shift.mean(0).square().sum()
    values = torch.linalg.svdvals(shift).square().cumsum(0)
    best = [values[min(k, len(values)) - 1] for k in RANKS]
    return torch.stack([mean, *best]) / total
