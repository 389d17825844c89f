"""A model from wherever it is: shipped with steerlens, a folder, a GGUF file, a name on the hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch

from steerlens.models import checkpoints
from steerlens.models.checkpoints import CheckpointError, MissingCheckpoint
from steerlens.store.files import expanded

PRETRAINED = Path(__file__).parents[1] / "pretrained"
"""Folder of the models that ship with steerlens."""


class Loaded(NamedTuple):
    """A loaded model and what it is called."""

    wrapped: Any
    name: str
    revision: str | None


def load(
    source: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
    revision: str | None = None,
) -> Loaded:
    """Loads a model by its path or name, unprocessed and with frozen weights.

    Args:
        source: The name of a shipped or packaged model, a local folder, a GGUF file, or a name on
            the hub.
        dtype: The precision of the weights, also by its name ("bfloat16").
        revision: A branch, tag or commit on the hub.

    Raises:
        CheckpointError: If it cannot be loaded.
    """
    require_device(device)
    options: dict[str, Any] = {"device": device, "dtype": _dtype(dtype)}
    loaded = _load(source, options, revision)
    for weight in loaded.wrapped.parameters():
        weight.requires_grad_(False)
    return loaded


def _load(source: str | Path, options: dict[str, Any], revision: str | None) -> Loaded:
    name = str(source)
    if not name.strip():
        raise CheckpointError(
            "The name of the model is empty. Give a folder, a GGUF file, or a name: 'reviews', or "
            "one on the hub such as 'gpt2'."
        )
    shipped = PRETRAINED / name
    path = shipped if shipped.is_dir() else expanded(source)
    if not path.is_dir() and name.lower() in checkpoints.PACKAGED:
        file = checkpoints.packaged_gguf(name.lower())
        return Loaded(checkpoints.load_gguf(file, name=name.lower(), **options), name.lower(), None)
    if path.is_dir():
        _require_local(name, revision)
        ours = checkpoints.checkpoint_kind(path) == "hooked"
        read = checkpoints.load_hooked if ours else checkpoints.load_hf_model
        return Loaded(read(path, **options), path.name or path.resolve().name, None)
    if path.is_file():
        _require_local(name, revision)
        if not checkpoints.is_gguf(path):
            raise CheckpointError(
                f"{str(path)!r} is a file, and not a GGUF file. Pass the folder that holds it, "
                "with config.json, safetensors weights and a tokenizer."
            )
        return Loaded(checkpoints.load_gguf(path, **options), path.stem, None)
    if os.path.lexists(path):
        raise CheckpointError(
            f"{str(path)!r} is neither a folder nor a plain file (a pipe, a device, or a link in a "
            "circle). Pass the folder of a model."
        )
    if path.is_absolute() or name.startswith((".", "~")) or path.suffix.lower() == ".gguf":
        raise MissingCheckpoint(
            f"{str(path)!r} does not exist. Pass the folder of a model, a GGUF file, or a name on "
            "the hub."
        )
    wrapped = checkpoints.load_hub(name, revision=revision, **options)
    return Loaded(wrapped, name, revision)


def _require_local(name: str, revision: str | None) -> None:
    if revision is not None:
        raise CheckpointError(
            f"revision={revision!r} names a state of a repository on the hub, and {name!r} is a "
            "local file or folder. Leave it out."
        )


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise CheckpointError(
            f"dtype={dtype!r} is not a precision of weights. Use 'float32', 'bfloat16' or 'float16'."
        )
    return found


def require_device(device: torch.device | str) -> None:
    """Raises CheckpointError, with the devices that there are, if this one cannot be used."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            there.append("mps")
        raise CheckpointError(
            f"device={str(device)!r} cannot be used here ({str(error).splitlines()[0]}). "
            f"There is: {', '.join(there)}."
        ) from error
