"""How much memory is free, what is computed at once, and whether an error says it was too much."""

from __future__ import annotations

from collections.abc import Callable

import psutil
import torch

LOGITS = 2**26
"""Logits computed at once; a quarter of a GiB in float32."""


def free_bytes(device: torch.device) -> int:
    """What may still be allocated on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error means that fewer rows at once would have worked."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def rows_of_logits(d_vocab: int, memory: int) -> int:
    """How many rows over the vocabulary to compute at once.

    The same number on every machine, but where `memory` bytes do not hold it four times over (the
    logits, a copy in float32, and what a softmax makes of them): then half of it, and so on.
    """
    rows = max(1, LOGITS // d_vocab)
    while rows > 1 and 16 * rows * d_vocab > memory:
        rows //= 2
    return rows


def in_chunks(
    run: Callable[[slice], torch.Tensor], n: int, rows: int, dim: int = 0
) -> torch.Tensor:
    """Runs n rows in chunks, in smaller ones after memory ran out; the parts are joined at `dim`.

    Raises:
        ValueError: If `rows` is less than 1.
    """
    if rows < 1:
        raise ValueError(f"rows={rows}: at least one row must be run at a time.")
    parts, start = [], 0
    while start < n:
        chunk = slice(start, min(start + rows, n))
        try:
            parts.append(run(chunk))
        except RuntimeError as error:
            rows = (chunk.stop - chunk.start) // 2
            if not is_out_of_memory(error) or rows == 0:
                raise
            continue
        start = chunk.stop
    return torch.cat(parts, dim)
