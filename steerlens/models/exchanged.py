"""Parameters of a wrapped model exchanged for others until a `with` ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def parameter_shapes(wrapped: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter by its name."""
    return {name: tuple(weight.shape) for name, weight in wrapped.named_parameters()}


@contextmanager
def exchanged(wrapped: Any, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Has the model compute with other parameters until the `with` ends.

    The parameters themselves are not written to: others stand in their place, and then the very
    same objects are put back, also after an error or an interrupt. Changes that record gradients
    leave plain tensors there, through which gradients flow.

    Args:
        changes: By the name of a parameter: its value as a function of the one that is there.

    Raises:
        ValueError: If the model has no such parameter, or a value has another shape.
    """
    places = {name: _place(wrapped, name) for name in changes}
    kept = {name: module._parameters[leaf] for name, (module, leaf) in places.items()}
    try:
        for name, change in changes.items():
            module, leaf = places[name]
            module._parameters[leaf] = _value(name, kept[name], change)
        yield
    finally:
        for name, (module, leaf) in places.items():
            module._parameters[leaf] = kept[name]


def _value(name: str, weight: Any, change: Callable[[Tensor], Tensor]) -> Any:
    recording = torch.is_grad_enabled()
    # Tensors made under torch.inference_mode() are no parameters; leaving it would record gradients.
    with torch.inference_mode(False), torch.set_grad_enabled(recording):
        value = change(weight.detach())
    if value.shape != weight.shape:
        raise ValueError(
            f"{name} has shape {tuple(weight.shape)}, and its change gives {tuple(value.shape)}. "
            "Make it for this model."
        )
    if value.requires_grad:  # the change is being trained
        return value
    return torch.nn.Parameter(value, requires_grad=weight.requires_grad)


def _place(wrapped: Any, name: str) -> tuple[torch.nn.Module, str]:
    """The module that holds a parameter, and the parameter's name in it."""
    path, _, leaf = name.rpartition(".")
    try:
        module = wrapped.get_submodule(path)
    except AttributeError:
        module = None
    if module is None or module._parameters.get(leaf) is None:
        raise ValueError(
            f"The model has no parameter {name!r}. Its parameters are "
            f"{_some([known for known, _ in wrapped.named_parameters()])}."
        )
    return module, leaf


def _some(names: list[str], most: int = 12) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f", … ({more} more)" if more > 0 else "")
