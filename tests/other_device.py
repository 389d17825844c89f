"""A device that is none: tensors that compute on the CPU and pass for those of another device.

What a GPU refuses is refused: an operation on tensors of both devices. What makes a GPU wait is
counted: copies from one device to the other, and numbers that Python reads. The device is called
"meta", which every PyTorch has; unlike tensors of the real one these hold numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")

_COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
_BY_INDEX = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
}
"""A GPU takes indices of the CPU too; they are copied."""
_READS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten._unique2.default,
}
"""Python waits for these: it needs a number, or the shape of what comes out."""


class MixedDevices(RuntimeError):
    """An operation on tensors of two devices, as a GPU would refuse it."""


class Elsewhere(Tensor):
    """A tensor of the other device; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, layout=held.layout, device=DEVICE,
        )  # fmt: skip

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, **kwargs: Any) -> str:  # type: ignore[override]
        return f"Elsewhere({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {}, Counter())


class OtherDevice(TorchDispatchMode):
    """Makes "meta" the other device inside the `with`, and counts what a GPU would wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        """How often the devices waited for each other, by what for."""
        self._constants = _Constants()

    def __enter__(self) -> OtherDevice:
        self._constants.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._constants.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {}, self.waits)


class _Constants(TorchFunctionMode):
    """Python's numbers as tensors of the other device, for which PyTorch has a way of its own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and _is_other(kwargs.get("device")):
            made = func(*args, **{**kwargs, "device": "cpu"})
            return made.to(DEVICE)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], Elsewhere):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(i).to(DEVICE) if isinstance(i, list) else i for i in index)
            args = (args[0], index, *args[2:])
        return func(*args, **kwargs)


def _is_other(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


def _computed(func: Any, args: Any, kwargs: Any, waits: Counter[str]) -> Any:
    """What an operation gives, on the device on which it was asked for."""
    given: list[Tensor] = []
    bare_args = _each(args, lambda x: given.append(x) or getattr(x, "held", x))
    bare = {k: _each((v,), lambda x: given.append(x) or getattr(x, "held", x))[0]
            for k, v in kwargs.items()}  # fmt: skip
    there = [x for x in given if isinstance(x, Elsewhere)]
    here = [x for x in given if not isinstance(x, Elsewhere)]
    asked = kwargs.get("device")
    if there and func in _READS:
        waits["number read"] += 1
    if there and any(x.ndim for x in here) and func not in _COPIES:
        if func not in _BY_INDEX or not isinstance(args[0], Elsewhere):
            shapes = [(type(x).__name__, tuple(x.shape)) for x in given]
            raise MixedDevices(f"{func} of tensors of two devices: {shapes}")
        waits["index copied"] += 1
    out_there = bool(there) if asked is None else _is_other(asked)
    if func is torch.ops.aten.copy_.default:
        out_there = isinstance(args[0], Elsewhere)
        crosses = len({isinstance(x, Elsewhere) for x in args[:2]}) > 1
    else:
        crosses = func in _COPIES and bool(there) != out_there
    if crosses and not (out_there and _does_not_wait(func, args, kwargs)):
        waits["copied to the device" if out_there else "copied to the CPU"] += 1
    if func is torch.ops.aten._to_copy.default:
        bare["non_blocking"] = False
    if asked is not None:
        bare = {**bare, "device": torch.device("cpu")}
    out = func(*bare_args, **bare)
    if crosses:  # a copy in any case, as from one memory to another
        out = out.clone() if any(out is x for x in bare_args) and out_there is False else out
    if out is None:
        return None
    if _writes(func):
        return args[0]
    if not out_there:
        return out
    return _each((out,), Elsewhere)[0]


@cache
def _writes(func: Any) -> bool:
    """Whether an operation writes into its first argument and returns it."""
    return func._schema.name.endswith("_") and func._schema.is_mutable


def _each(values: Sequence[Any], change: Callable[[Tensor], Tensor]) -> list[Any]:
    """The values with every tensor in them changed, those in lists and tuples too."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(change(value))
        elif isinstance(value, list | tuple):
            found.append(type(value)(_each(value, change)))
        else:
            found.append(value)
    return found


def _does_not_wait(func: Any, args: Any, kwargs: Any) -> bool:
    if func is torch.ops.aten.copy_.default:
        return bool(args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
    return bool(kwargs.get("non_blocking", False))


def moved(hooked: Any) -> Any:
    """A HookedTransformer whose weights are on the other device. Inside `OtherDevice` only."""
    hooked.cfg.device = DEVICE.type
    for module in hooked.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = torch.nn.Parameter(
                    weight.detach().to(DEVICE), requires_grad=weight.requires_grad
                )
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(DEVICE)
    return hooked
