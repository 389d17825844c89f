"""Control vectors of llama.cpp and repeng: GGUF files with a tensor `direction.N` per layer.

Layer convention, from the sources of llama.cpp and repeng 0.4 and compared with repeng's numbers in
`tests/test_parity.py`: `direction.N` is added to the residual stream *after* block N, blocks
counting from 0, at every token. That is `Site(N, "resid_post")`. llama.cpp has no tensor for block
0 and refuses a file that holds `direction.0`; repeng can write one. Both run the weights without
processing ("raw"). Multiplier 1 there adds the vector itself: unit "direction" here.

llama.cpp's own generator differs by one layer: what it reads after block i it names
`direction.(i + 1)`, which is applied after block i + 1. The site of a loaded direction is where it
is applied.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from steerlens.directions import Direction, DirectionError
from steerlens.directions.exchange.gguf_file import GGUFFile, read_gguf, write_gguf
from steerlens.directions.exchange.required_facts import (
    EVERYWHERE,
    ask,
    in_raw_basis,
    read_facts,
    state,
    write_facts,
)
from steerlens.sites import Site

ARCHITECTURE = "controlvector"
FACTS = "steerlens.facts"
"""The key of the facts, which other readers ignore."""

_NAME = re.compile(r"direction\.(\d{1,9})", re.ASCII)


def export(
    directions: Direction | Sequence[Direction], path: Path | str, *, model_hint: str
) -> Path:
    """Writes a control vector that llama.cpp (`--control-vector`) and repeng read.

    It holds `direction.vector`, which the reader adds at scale 1; multiply the directions
    for another strength. All facts are written under a key of steerlens.

    Args:
        directions: At most one per layer, in resid_post (or resid_pre, which is the stream after
            the block before). llama.cpp can steer from block 1 on.
        model_hint: The name of the model's architecture in the reader, e.g. "llama".

    Raises:
        DirectionError: If a direction is at another stream or after block 0, is not made to be
            added, or cannot be converted to unprocessed weights.
    """
    tensors: dict[str, Direction] = {}
    for direction in in_raw_basis(directions, "a control vector"):
        layer = _after_block(direction.site)
        if f"direction.{layer}" in tensors:
            raise DirectionError(
                f"Two directions are added after block {layer}, but a control vector has one per "
                "block. Add them first: one + other."
            )
        tensors[f"direction.{layer}"] = direction
    widths = {len(d.vector) for d in tensors.values()}
    if len(widths) > 1:
        raise DirectionError(
            f"The directions have d_model {sorted(widths)}, so they belong to several models. "
            "Export the directions of each model separately."
        )
    metadata = {
        "general.architecture": ARCHITECTURE,
        f"{ARCHITECTURE}.model_hint": model_hint,
        f"{ARCHITECTURE}.layer_count": len(tensors),
        FACTS: write_facts(tensors),
    }
    return write_gguf(path, metadata, {name: d.vector for name, d in tensors.items()})


def _after_block(site: Site) -> int:
    if site.entry is None:
        raise DirectionError(
            f"A control vector is added to the stream after a block, not at {site}. "
            "Share it as a steerlens file: direction.save(path)."
        )
    if site.entry < 2:
        raise DirectionError(
            f"llama.cpp cannot steer before block 1 has run, and refuses such a file; {site} "
            "is too early. Choose resid_post of layer 1 or higher."
        )
    return site.entry - 1


def load(path: Path | str, *, model: str | None = None, **facts: Any) -> list[Direction]:
    """Reads a control vector: one direction per layer, in the order of layers.

    A file of `export` states all facts. For others pass the model's name, and other facts if they
    are known (`method=`, `read_at=`, `revision=`, …). Layers of zeros have no effect and are left
    out.

    Raises:
        MissingFacts: If the file does not state the model and it is not passed.
        DirectionError: If the file is damaged or not a control vector.
        StorageError: If the path is not that of a regular file, or it cannot be read.
    """
    file = read_gguf(path, ARCHITECTURE)
    vectors = _vectors(file, str(path))
    if FACTS in file.metadata:
        return _ours(file, vectors, str(path), model, facts)
    ask(str(path), f"gguf.load({str(path)!r}", model=model)
    hint = file.metadata.get(f"{ARCHITECTURE}.model_hint")
    known = {
        "method": f"control vector for {hint!r:.80}",
        "processing": "raw",
        "apply_at": EVERYWHERE,
        "strength_unit": "direction",
        "model": model,
    }
    if not any(bool(vector.any()) for vector in vectors.values()):
        raise DirectionError(
            f"All vectors of {path} are zeros, so they have no effect. Export it again."
        )
    stated = known | facts
    return [
        state(v, Site(layer), stated, str(path)) for layer, v in vectors.items() if bool(v.any())
    ]


def _vectors(file: GGUFFile, source: str) -> dict[int, Tensor]:
    vectors: dict[int, Tensor] = {}
    for name, tensor in file.tensors.items():
        found = _NAME.fullmatch(name)
        if found is None or tensor.ndim != 1:
            raise DirectionError(
                f"{source} holds the tensor {name!r:.80} of shape {tuple(tensor.shape)}. A control "
                "vector holds one vector per layer, named direction.<layer>."
            )
        if int(found[1]) in vectors:
            raise DirectionError(f"{source} holds layer {int(found[1])} twice. Export it again.")
        vectors[int(found[1])] = tensor
    if not vectors:
        raise DirectionError(f"{source} holds no vector. Export it again.")
    return dict(sorted(vectors.items()))


def _ours(
    file: GGUFFile,
    vectors: dict[int, Tensor],
    source: str,
    model: str | None,
    facts: dict[str, Any],
) -> list[Direction]:
    if model is not None or facts:
        given = ", ".join([*(["model"] if model is not None else []), *facts])
        raise DirectionError(
            f"{source} states its facts, so {given} cannot be passed. "
            f"Write gguf.load({source!r}) and change facts with dataclasses.replace."
        )
    named = {f"direction.{layer}": vector for layer, vector in vectors.items()}
    stated = read_facts(str(file.metadata[FACTS]), named, source)
    for (layer, _), direction in zip(vectors.items(), stated.values(), strict=True):
        if direction.site.entry != layer + 1:
            raise DirectionError(
                f"{source} states {direction.site} as the site of direction.{layer}, so it was "
                "edited. Export it again."
            )
    return list(stated.values())
