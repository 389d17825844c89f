"""Whether the hook points of a model mean what their names say, by one short forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from steerlens.models.checkpoints.errors import CheckpointError, some


@dataclass(frozen=True)
class HookCheck:
    """How well the hook points mean what their names say, over all layers."""

    worst: float
    """Largest absolute difference, as a fraction of the largest residual activation."""
    worst_layer: int
    """Where it is."""
    tolerance: float
    """What rounding explains at this dtype."""
    untrusted: dict[str, str]
    """Streams whose hooks mean something else, each with the reason; {} where all is well."""


def check_hooks(model: HookedTransformer | TransformerBridge) -> HookCheck:
    """`measure_hooks`, which must find nothing.

    Raises:
        CheckpointError: If a hook point is missing, or means something else than its name says,
            with the layer and the difference.
    """
    n_layers, parts = model.cfg.n_layers, _parts(model)
    names = [f"blocks.{layer}.hook_{part}" for layer in range(n_layers) for part in parts]
    if missing := [n for n in names if n not in model.hook_dict]:
        raise CheckpointError(
            f"The model has no hook points {some(missing)}, so activations cannot be read or "
            "steered there. Use a model with the standard residual stream hooks."
        )
    check = measure_hooks(model)
    for reason in check.untrusted.values():
        raise CheckpointError(reason)
    return check


class ShortRun(NamedTuple):
    """What a forward pass of a few random tokens gave."""

    tokens: Int[Tensor, "1 pos"]
    logits: Float[Tensor, "1 pos d_vocab"]
    streams: dict[str, Float[Tensor, "1 pos d_model"]]
    """By the name of the hook point; those that the model has."""


@torch.no_grad()
def short_run(model: HookedTransformer | TransformerBridge) -> ShortRun:
    """Runs eight random tokens, and keeps the streams of all blocks."""
    parts = _parts(model)
    names = [f"blocks.{i}.hook_{part}" for i in range(model.cfg.n_layers) for part in parts]
    names = [name for name in names if name in model.hook_dict]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.cfg.d_vocab, (1, min(8, model.cfg.n_ctx)), generator=generator)
    tokens = tokens.to(next(model.parameters()).device)
    logits: Any
    logits, cache = model.run_with_cache(
        tokens,
        attention_mask=torch.ones_like(tokens),
        names_filter=names,
        return_cache_object=False,
    )
    return ShortRun(tokens, logits, dict(cache))


def measure_hooks(
    model: HookedTransformer | TransformerBridge, run: ShortRun | None = None
) -> HookCheck:
    """Measures on a short random row whether the hook points mean what their names say.

    Two identities at every layer: `resid_pre + attn_out + mlp_out = resid_post` (of sequential,
    parallel and post-normed blocks alike, since TransformerLens hooks what is added), and
    `resid_post` of a layer is `resid_pre` of the next.

    Args:
        run: A forward pass that was made already; without it one is made.
    """
    n_layers, parts = model.cfg.n_layers, _parts(model)
    cache = (run or short_run(model)).streams
    sums: list[_Gap] = []
    steps: list[_Gap] = []
    for layer in range(n_layers):
        at = {part: cache.get(f"blocks.{layer}.hook_{part}") for part in parts}
        post, later = at.pop("resid_post"), cache.get(f"blocks.{layer + 1}.hook_resid_pre")
        added = [part.float() for part in at.values() if part is not None]
        if post is not None and len(added) == len(at):
            sums.append(_Gap.between(layer, post, torch.stack(added).sum(0)))
        if post is not None and later is not None:
            steps.append(_Gap.between(layer, post, later))
    half = torch.finfo(next(model.parameters()).dtype).eps > 1e-6
    tolerance = 0.05 if half else 1e-4
    untrusted = {}
    if sums and max(sums).size > tolerance:
        reason = max(sums).reason("resid_pre + attn_out + mlp_out", "resid_post", tolerance)
        untrusted |= dict.fromkeys(("resid_mid", "attn_out", "mlp_out"), reason)
    if steps and max(steps).size > tolerance:
        untrusted["resid_post"] = max(steps).reason(
            "resid_post", "the next layer's resid_pre", tolerance
        )
    worst = max([*sums, *steps, _Gap(0.0, 0)])
    return HookCheck(worst.size, worst.layer, tolerance, untrusted)


class _Gap(NamedTuple):
    """How far two streams that should be the same are from each other."""

    size: float
    """Largest difference, as a fraction of the largest number; infinite where only one is NaN."""
    layer: int

    @classmethod
    def between(cls, layer: int, one: Tensor, other: Tensor) -> _Gap:
        one, other = one.float(), other.to(one.device).float()
        overflow = ~torch.isfinite(one) & ~torch.isfinite(other)  # another complaint than ours
        gap = (other - one).masked_fill(overflow, 0).abs().max().item()
        size = gap / (one.masked_fill(overflow, 0).abs().max().item() or 1.0)
        return cls(size if size == size else float("inf"), layer)

    def reason(self, one: str, other: str, tolerance: float) -> str:
        return (
            f"At layer {self.layer}, {one} differs from {other} by {self.size:.3g} of the largest "
            f"activation, where {tolerance:.0e} is rounding: hooks of this model do not mean what "
            "their names say. Steer at resid_pre, or load it as a HookedTransformer."
        )


def _parts(model: HookedTransformer | TransformerBridge) -> list[str]:
    parts = ["resid_pre", "attn_out", "resid_post"]
    return parts if getattr(model.cfg, "attn_only", False) else [*parts, "mlp_out"]
