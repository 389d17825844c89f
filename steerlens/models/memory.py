"""How much memory is free, and whether an error says that there was too little."""

from __future__ import annotations

import psutil
import torch


def free_bytes(device: torch.device) -> int:
    """What may still be allocated on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error means that fewer rows at once would have worked."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)
