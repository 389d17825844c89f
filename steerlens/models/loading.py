"""A model from wherever it is: shipped with steerlens, a local folder, or a name on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from steerlens.models import checkpoints

PRETRAINED = Path(__file__).parents[1] / "pretrained"
"""Folder of the models that ship with steerlens."""


class Loaded(NamedTuple):
    """A loaded model and what it is called."""

    wrapped: Any
    name: str
    revision: str | None


def load(source: str | Path, **options: Any) -> Loaded:
    """Loads a model by its path or name, unprocessed.

    Args:
        source: The name of a shipped model, a local folder, or a name on the hub.
        options: `device`, `dtype`, and for the hub `revision`.

    Raises:
        CheckpointError: If the folder or name cannot be loaded.
    """
    path = PRETRAINED / source if (PRETRAINED / str(source)).is_dir() else Path(source)
    if path.is_dir():
        ours = checkpoints.checkpoint_kind(path) == "hooked"
        read = checkpoints.load_hooked if ours else checkpoints.load_hf_directory
        return Loaded(read(path, **options), path.name, None)
    wrapped = checkpoints.load_hub(str(source), **options)
    return Loaded(wrapped, str(source), options.get("revision"))


def require_device(device: torch.device | str) -> None:
    """Raises CheckpointError, with the devices that there are, if this one cannot be used."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            there.append("mps")
        raise checkpoints.CheckpointError(
            f"device={str(device)!r} cannot be used here ({str(error).splitlines()[0]}). "
            f"There is: {', '.join(there)}."
        ) from error
