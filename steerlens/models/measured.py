"""What is measured of a model when it is wrapped: what its hooks mean, its read-out, its cache.

A model's own forward pass is the reference. What differs from it is read from the model, or refused
where it would be used; it is never assumed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from steerlens.models import checkpoints
from steerlens.models.kernel import soft_cap
from steerlens.models.wrapped_state import evaluating


@dataclass(frozen=True)
class Measured:
    """What a few short forward passes of a wrapped model have shown."""

    untrusted: dict[str, str]
    """Streams whose hooks mean something else than their names say, each with the reason."""
    logit_scale: float
    """What the architecture multiplies its logits by, before any cap."""
    readout_differs: str
    """How the model's own logits differ from norm, unembedding, scale and cap; "" if they do not."""
    pads: bool
    """Whether a left-padded text gives the same numbers as the text alone."""
    caches: bool
    """Whether decoding with the key-value cache gives the same numbers as without."""


_measured: WeakKeyDictionary[Any, tuple[bool, Measured]] = WeakKeyDictionary()


def measured(wrapped: Any) -> Measured:
    """What was measured of a wrapped model, once; again after a bridge's weights were processed."""
    processed = bool(getattr(wrapped, "compatibility_mode", False))
    if wrapped not in _measured or _measured[wrapped][0] != processed:
        with torch.no_grad(), without_hooks(wrapped), evaluating(wrapped):
            _measured[wrapped] = (processed, _measure(wrapped))
    return _measured[wrapped][1]


def final_norm(wrapped: Any, resid: Tensor) -> Tensor:
    """The stream after a wrapped model's final norm, or as it is where there is none."""
    norm = getattr(wrapped, "ln_final", None)
    return resid if norm is None or wrapped.cfg.normalization_type is None else norm(resid)


def _measure(wrapped: Any) -> Measured:
    run = checkpoints.short_run(wrapped)
    scale, differs = _readout(wrapped, run)
    pads = caches = True
    if hasattr(wrapped, "original_model"):  # a HookedTransformer's are TransformerLens's own
        pads = _pads(wrapped, run)
        caches = _caches(wrapped, run, pads)
    return Measured(checkpoints.measure_hooks(wrapped, run).untrusted, scale, differs, pads, caches)


def _readout(wrapped: Any, run: checkpoints.ShortRun) -> tuple[float, str]:
    """The scale of the logits, and in which way they differ all the same."""
    last = run.streams.get(f"blocks.{wrapped.cfg.n_layers - 1}.hook_resid_post")
    if last is None:
        return 1.0, "the model has no hook_resid_post in its last block"
    try:
        raw = final_norm(wrapped, last) @ wrapped.unembed.W_U + wrapped.unembed.b_U
    except Exception as error:  # whatever an unusual architecture leads to
        return 1.0, f"its final norm or unembedding cannot be applied ({error})"
    if raw.shape != run.logits.shape:
        return 1.0, f"it has {run.logits.shape[-1]} logits for an unembedding of {raw.shape[-1]}"
    cap = wrapped.cfg.output_logits_soft_cap
    if close(soft_cap(raw, cap), run.logits):
        return 1.0, ""
    uncapped = run.logits.double()
    if cap and cap > 0:
        uncapped = cap * torch.atanh((uncapped / cap).clamp(-1 + 1e-12, 1 - 1e-12))
    factor = float((uncapped * raw).sum() / raw.double().square().sum())
    for number in _numbers(wrapped):
        for candidate in (number, 1 / number):
            near = abs(candidate - factor) < 0.05 * abs(factor)
            if near and close(soft_cap(raw * candidate, cap), run.logits):
                return candidate, ""
    gap = float((soft_cap(raw, cap).float() - run.logits.float()).abs().max())
    return 1.0, f"its own logits differ by up to {gap:.3g} from final norm and unembedding"


def _numbers(wrapped: Any) -> list[float]:
    """The numbers in the config of a bridge's Hugging Face model, where a scale would be stated."""
    config = getattr(getattr(wrapped, "original_model", None), "config", None)
    values = config.get_text_config().to_dict().values() if config is not None else ()
    return [float(v) for v in values if isinstance(v, (int, float)) and v not in (0, 1)]


def _pads(wrapped: Any, run: checkpoints.ShortRun) -> bool:
    tokens, mask = _padded(run)
    try:
        alone = wrapped(tokens[1:, mask[1].bool()])[0, -1]
        padded = wrapped(tokens, attention_mask=mask)[:, -1]
    except Exception:  # whatever an unusual architecture leads to
        return False
    return close(padded[0], run.logits[0, -1]) and close(padded[1], alone)


def _caches(wrapped: Any, run: checkpoints.ShortRun, pads: bool) -> bool:
    """Compares two steps of decoding with the whole row, padded where that works."""
    tokens, mask = _padded(run)
    if not pads:
        tokens, mask = tokens[:1], mask[:1]
    width = tokens.shape[1] - 2
    if width < 1:
        return False
    given: dict[str, Any] = {"return_type": "logits_and_cache", "use_cache": True}
    try:
        whole = wrapped(tokens, attention_mask=mask)[:, -1]
        _, past = wrapped(
            tokens[:, :width], attention_mask=mask[:, :width], logits_to_keep=1, **given
        )
        for end in (width + 1, width + 2):
            logits, past = wrapped(
                tokens[:, end - 1 : end], attention_mask=mask[:, :end], logits_to_keep=1,
                past_key_values=past, **given,
            )  # fmt: skip
    except Exception:  # whatever an unusual architecture leads to
        return False
    return close(logits[:, -1], whole)


def _padded(run: checkpoints.ShortRun) -> tuple[Tensor, Tensor]:
    """The row, and its second half after padding."""
    tokens = run.tokens.repeat(2, 1)
    mask = torch.ones_like(tokens)
    mask[1, : tokens.shape[1] // 2] = 0
    return tokens, mask


def close(one: Tensor, other: Tensor) -> bool:
    """Whether logits agree but for rounding; numbers that overflowed are another complaint."""
    allowed = {torch.float32: 2e-5, torch.float64: 2e-5, torch.float16: 1e-2}.get(one.dtype, 5e-2)
    one, other = one.float(), other.float()
    finite = torch.isfinite(one) & torch.isfinite(other)
    if not bool(finite.any()):
        return True
    gap, largest = (one - other)[finite].abs().max(), other[finite].abs().max()
    return bool(gap <= 1e-4 + allowed * largest)


@contextmanager
def without_hooks(wrapped: Any) -> Iterator[None]:
    """Takes all hooks off the hook points until the `with` ends."""
    kinds = ("_forward_hooks", "_backward_hooks")
    points = {id(point): point for point in wrapped.hook_dict.values()}.values()
    held = [(point, kind, getattr(point, kind)) for point in points for kind in kinds]
    for point, kind, _ in held:
        setattr(point, kind, OrderedDict())
    try:
        yield
    finally:
        for point, kind, hooks in held:
            setattr(point, kind, hooks)
