"""Tensors without facts: safetensors, torch.save, NumPy, or in memory.

Such a file states neither the site of the vector nor its basis, so both are required arguments, and
so is the model. Most vectors that are published with papers are of this kind. Check the layer: a
stack with one row more than the model has layers starts with the embedding, so that row i is the
stream *after* block i - 1: ``load(path, row=i, site=Site(i - 1), …)``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from steerlens.arguments import as_int
from steerlens.directions import Direction, DirectionError
from steerlens.directions.exchange.required_facts import ask, state
from steerlens.directions.exchange.tensor_files import read_tensors
from steerlens.sites import SiteLike, as_site
from steerlens.store.files import expanded, require_file, write_bytes

_OURS = "steerlens.directions/"


def load(
    source: Path | str | Tensor | np.ndarray,
    *,
    key: str | None = None,
    row: SupportsIndex | None = None,
    site: SiteLike | None = None,
    processing: str | None = None,
    model: str | None = None,
    **facts: Any,
) -> Direction:
    """A direction from a tensor without facts.

    Its strength unit is the vector's length, unless `strength_unit` is passed with the fact that
    it needs.

    Args:
        source: A file, a tensor, or an array.
        key: The name of the tensor, if the file holds several ("a.b" for one in a nested dict).
        row: The row, if the tensor is a stack of vectors.
        site: Where it is added: a `Site`, a layer (resid_post), or a hook name.
        processing: Weight processing of the model it was made on; "raw" for Hugging Face.
        model: The model it was made on.
        facts: Other facts, if known (`method=`, `read_at=`, `apply_at=`, `resid_norm=`, …).

    Raises:
        MissingFacts: If required facts are not passed; the message names all of them.
        DirectionError: If the file is damaged or holds code, or `key` or `row` is needed.
        StorageError: If the path is not that of a regular file, or it cannot be read.
    """
    if isinstance(source, Path | str):
        name = str(source)
        tensors, metadata = read_tensors(require_file(source))
        if metadata.get("format", "").startswith(_OURS):
            raise DirectionError(
                f"{name} is a file of steerlens that states its facts. Use Direction.load({name!r})."
            )
        tensor = _chosen(tensors, key, name)
        call = f"plain.load({name!r}"
    else:
        name, call = "A tensor in memory", "plain.load(tensor"
        tensor = torch.as_tensor(source).detach().cpu()
    vector = _row(tensor, None if row is None else as_int("row", row), name)
    ask(name, call, site=site, processing=processing, model=model)
    assert site is not None
    known = {"strength_unit": "direction", "processing": processing, "model": model}
    return state(vector, as_site(site), known | facts, name)


def export(direction: Direction, path: Path | str) -> Path:
    """Writes a file that other code can read without steerlens.

    A path that ends in ``.safetensors`` gives the same file as `direction.save`: one tensor
    "vector", the facts in the metadata. One that ends in ``.npy`` holds only the numbers.

    Raises:
        DirectionError: If the path has another ending.
    """
    path = expanded(path)
    if path.suffix == ".safetensors":
        return direction.save(path)
    if path.suffix == ".npy":
        import io

        content = io.BytesIO()
        array = direction.vector.detach().cpu().float().numpy()
        np.lib.format.write_array(content, array, allow_pickle=False)
        return write_bytes(path, content.getvalue())
    raise DirectionError(
        f"{path.name!r} does not end in .safetensors or .npy, which can be read safely. "
        "Choose one of these endings; pickles are not written."
    )


def _chosen(tensors: dict[str, Tensor], key: str | None, source: str) -> Tensor:
    floats = {name: t for name, t in tensors.items() if t.is_floating_point() and t.numel()}
    if key is None and len(floats) == 1:
        return next(iter(floats.values()))
    if key is None or key not in floats:
        listed = [f"{name!r} {tuple(t.shape)}" for name, t in list(floats.items())[:8]]
        more = f" and {len(floats) - 8} more" if len(floats) > 8 else ""
        raise DirectionError(
            f"{source} holds {', '.join(listed) or 'no tensor of floating point numbers'}{more}. "
            + ("Choose one: key='…'." if key is None else f"{key!r} is not one of them.")
        )
    return floats[key]


def _row(tensor: Tensor, row: int | None, source: str) -> Tensor:
    shape = tuple(tensor.shape)
    stack = tensor.reshape(-1, shape[-1]) if shape and tensor.numel() else tensor
    if stack.ndim != 2:
        raise DirectionError(
            f"{source} holds a tensor of shape {shape}, which is not a vector. Pass one axis of "
            "d_model numbers."
        )
    if row is None and len(stack) == 1:
        return stack[0].clone()
    if len([n for n in shape[:-1] if n > 1]) > 1:
        raise DirectionError(
            f"{source} holds a tensor of shape {shape}; a stack of vectors has two axes. Choose "
            "one vector and pass it: plain.load(tensor[i, j], …)."
        )
    if row is None or not 0 <= row < len(stack):
        raise DirectionError(
            f"{source} holds {len(stack)} vectors (shape {shape}). Choose one: row=0 to "
            f"row={len(stack) - 1}, counted from 0, with the site of its layer."
        )
    return stack[row].clone()
