"""How much memory is free, what is computed at once, and whether an error says it was too much."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import torch

try:
    import resource
except ImportError:  # on Windows
    resource = None

LOGITS = 2**26
"""Logits computed at once; a quarter of a GiB in float32."""

GROUPS, GROUP_ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_NAMES = {
    "": ("memory.max", "memory.current"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes"),
}
"""Files of a control group's limit and use, in version 2 and in version 1."""

_SAID = ("can't allocate memory", "Cannot allocate memory", "not enough memory", "std::bad_alloc")
"""What torch says on Linux and macOS, and on Windows, where a CPU has too little memory."""


def free_bytes(device: torch.device) -> int:
    """What may still be allocated on a device.

    In main memory this is the least of what is free on the machine, in the control groups of this
    process (a container's limit), and below its limit of address space (`ulimit -v`). On a GPU,
    what PyTorch holds for reuse is free too.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    rooms = [psutil.virtual_memory().available, *_rooms_of_groups(), *_room_of_addresses()]
    return max(0, min(rooms))


def _room_of_addresses() -> Iterator[int]:
    if resource is None:
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        yield limit - psutil.Process().memory_info().vms


def _rooms_of_groups(groups: Path = GROUPS, root: Path = GROUP_ROOT) -> Iterator[int]:
    """What each control group that holds this process may still use; none off Linux.

    A group's own limit, and those of the groups around it, hold. In a container the path that the
    process sees may not exist below `root`, which is then the container's own group.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / controllers
        limit, used = _NAMES[controllers]
        inner = top / path.lstrip("/")
        for folder in (inner, *inner.parents):
            try:
                most, now = (folder / limit).read_text(), (folder / used).read_text()
                yield int(most) - int(now) + _droppable(folder)
            except (OSError, ValueError):  # no such group, or "max"
                pass
            if folder == top:
                break


def _droppable(folder: Path) -> int:
    """The cache of files of a group, which counts as used and which it drops first."""
    stated = (folder / "memory.stat").read_text()
    found = re.findall(r"^(?:total_)?inactive_file (\d+)$", stated, re.M)
    return max(map(int, found), default=0)  # the total holds the groups inside


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that fewer rows at once would have worked."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)


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
        except (RuntimeError, MemoryError) as error:
            rows = (chunk.stop - chunk.start) // 2
            if not is_out_of_memory(error) or rows == 0:
                raise
            continue
        start = chunk.stop
    return torch.cat(parts, dim)
