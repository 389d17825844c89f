"""States of a wrapped model that its numbers depend on: evaluation mode, gradients, its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class GradientError(ValueError):
    """No gradient can pass through a model as it is."""


@contextmanager
def evaluating(wrapped: Any) -> Iterator[None]:
    """Turns dropout and the like off until the `with` ends; then the flags are as they were."""
    training = [module for module in _modules(wrapped) if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def recordable() -> Iterator[None]:
    """Leaves `torch.inference_mode()` until the `with` ends; gradients stay off.

    What is computed under that mode can be no part of a gradient later.
    """
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


@contextmanager
def differentiable(wrapped: Any) -> Iterator[None]:
    """Records gradients with respect to activations until the `with` ends, and none of weights.

    It works under `torch.no_grad()` and `torch.inference_mode()` too, where a notebook has turned
    gradients off. Which weights require gradients is as it was afterwards.

    Raises:
        GradientError: If the weights were made under `torch.inference_mode()`.
    """
    weights = list(wrapped.parameters())
    if any(weight.is_inference() for weight in weights):
        raise GradientError(
            "The weights were made under torch.inference_mode(), and no gradient can pass through "
            "such tensors. Make the model outside of it, or copy it there: copy.deepcopy(model)."
        )
    required = [weight for weight in weights if weight.requires_grad]
    for weight in required:
        weight.requires_grad_(False)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for weight in required:
            weight.requires_grad_(True)


def weights_state(wrapped: Any) -> int:
    """A number that changes when a weight is replaced or written in place.

    A write through `weight.data` is not seen: torch does not count it.
    """
    return hash(
        tuple(
            (id(weight), weight.data_ptr(), 0 if weight.is_inference() else weight._version)
            for weight in wrapped.parameters()
        )
    )


def _modules(wrapped: Any) -> list[torch.nn.Module]:
    inside = getattr(wrapped, "original_model", None)
    if inside is None:  # a HookedTransformer has no dropout
        return list(wrapped.modules()) if wrapped.training else []
    # A bridge keeps the Hugging Face model, with its dropout, outside its own modules.
    return [*wrapped.modules(), *inside.modules()]
