"""Vectors of the steering-vectors package (0.12): in memory, from torch.save, and in safetensors.

Layer convention, from its source and compared with its numbers in `tests/test_parity.py`: layers
count from 0, and a vector is added to the output of a module. "decoder_block" is the stream after
the block, `resid_post`; "self_attn" and "mlp" are what the sub-block adds, `attn_out` and `mlp_out`,
unless a model norms it before it is added, as Gemma 2 does: then the output of the module is another
place, for which there is no site. The outputs of norms have no site either. The package runs Hugging
Face weights without processing ("raw"), adds at every token by default, and its multiplier 1 adds
the vector itself (unit "direction").

The package has no file format; `torch.save(steering_vector)` is shared, which is a pickle. `load`
reads it without unpickling anything but tensors, and the safetensors file that `export` writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from safetensors.torch import save
from torch import Tensor

from steerlens.directions import Direction, DirectionError
from steerlens.directions.exchange.required_facts import (
    EVERYWHERE,
    ask,
    in_raw_basis,
    read_facts,
    state,
    write_facts,
)
from steerlens.directions.exchange.tensor_files import (
    read_safetensors,
    read_torch,
    require_plain,
    starts_like_safetensors,
)
from steerlens.sites import Site, Stream, format_sites
from steerlens.store.files import expanded, require_file, write_bytes

FORMAT = "steering-vectors"
STREAMS: dict[str, Stream] = {
    "decoder_block": "resid_post",
    "self_attn": "attn_out",
    "mlp": "mlp_out",
}
_CLASS = "steering_vectors.steering_vector.SteeringVector"


@runtime_checkable
class SteeringVector(Protocol):
    """The part of the package's `SteeringVector` that is read; the package is not imported."""

    @property
    def layer_activations(self) -> Mapping[int, Tensor]: ...

    @property
    def layer_type(self) -> str: ...


@dataclass
class _Stored:
    """Replaces the package's class while a file is read; it has no code that could run."""

    layer_activations: Any = None
    layer_type: Any = "decoder_block"


def from_vector(
    vector: SteeringVector,
    *,
    model: str | None = None,
    post_norms: bool | None = None,
    **facts: Any,
) -> list[Direction]:
    """Directions of a `SteeringVector`, one per layer.

    Args:
        model: The model it was trained on.
        post_norms: Whether that model norms a sub-block's output before adding it; required if the
            vector is at a sub-block.
        facts: Other facts, if known (`method=`, `read_at=`, `resid_norm=`, …).

    Raises:
        MissingFacts: If `model` is not passed, or `post_norms` if it is required.
        DirectionError: If the vector is at a place that has no site.
    """
    call = "steering_vectors.from_vector(vector"
    return _stated(vector, "a SteeringVector", call, model, post_norms, facts)


def arguments(directions: Direction | Sequence[Direction]) -> dict[str, Any]:
    """The arguments of the package's class: ``SteeringVector(**arguments(directions))``.

    Raises:
        DirectionError: If the directions are at several streams, two at one layer, not made to be
            added, or cannot be converted to unprocessed weights.
    """
    several, layer_type = _one_stream(directions)
    return {
        "layer_activations": {_layer(d.site): d.vector.clone() for d in several},
        "layer_type": layer_type,
    }


def export(directions: Direction | Sequence[Direction], path: Path | str) -> Path:
    """Writes a safetensors file with a tensor `layer_activations.N` per layer, and all facts.

    For the package, `layer_activations` is
    ``{int(name.split(".")[1]): tensor for name, tensor in load_file(path).items()}``, and the
    metadata state `layer_type`.
    """
    several, layer_type = _one_stream(directions)
    named = {f"layer_activations.{_layer(d.site)}": d for d in several}
    metadata = {"format": FORMAT, "layer_type": layer_type, "steerlens.facts": write_facts(named)}
    tensors = {name: d.vector.detach().cpu().contiguous() for name, d in named.items()}
    return write_bytes(expanded(path), save(tensors, metadata=metadata))


def load(
    path: Path | str,
    *,
    model: str | None = None,
    post_norms: bool | None = None,
    **facts: Any,
) -> list[Direction]:
    """Reads a file of `export`, or of ``torch.save(steering_vector, path)``.

    Args:
        model: As in `from_vector`, like the other arguments; a file of `export` takes none.

    Raises:
        MissingFacts: As in `from_vector`.
        DirectionError: If the file is damaged, holds another object, or holds code.
        StorageError: If the path is not that of a regular file, or it cannot be read.
    """
    source = str(path)
    path = require_file(path)
    if not starts_like_safetensors(path):
        found = read_torch(path, known={_CLASS: _Stored})
        if not isinstance(found, _Stored):
            raise DirectionError(
                f"{source} holds a {type(found).__name__}, not a SteeringVector. For tensors use "
                "exchange.plain.load(path, …)."
            )
        call = f"steering_vectors.load({source!r}"
        return _stated(found, source, call, model, post_norms, facts)
    tensors, metadata = read_safetensors(path)
    if metadata.get("format") != FORMAT or "steerlens.facts" not in metadata:
        raise DirectionError(
            f"{source} was not written by steering_vectors.export (its format is "
            f"{metadata.get('format')!r:.80}). For tensors use exchange.plain.load(path, …)."
        )
    if facts or model is not None or post_norms is not None:
        raise DirectionError(
            f"{source} states its facts, so none can be passed. Write "
            f"steering_vectors.load({source!r}) and change facts with dataclasses.replace."
        )
    stated = read_facts(metadata["steerlens.facts"], tensors, source)
    for name, direction in stated.items():
        stream = STREAMS.get(metadata.get("layer_type", ""))
        if name != f"layer_activations.{direction.site.layer}" or stream != direction.site.stream:
            raise DirectionError(
                f"{source} states {direction.site} as the site of {name} "
                f"({metadata.get('layer_type')!r:.80}), so it was edited. Export it again."
            )
    return sorted(stated.values(), key=lambda d: d.site)


def _stated(
    vector: SteeringVector,
    source: str,
    call: str,
    model: str | None,
    post_norms: bool | None,
    facts: dict[str, Any],
) -> list[Direction]:
    layers, layer_type = vector.layer_activations, vector.layer_type
    if not isinstance(layers, Mapping) or not layers:
        raise DirectionError(
            f"{source} holds no vectors: layer_activations is {layers!r:.80}. It must map layers to "
            "vectors."
        )
    stream = STREAMS.get(layer_type) if isinstance(layer_type, str) else None
    if stream is None:
        raise DirectionError(
            f"{source} is at {layer_type!r:.80}, the output of a norm or an unknown place, for "
            f"which there is no site. Train it at one of {', '.join(STREAMS)}."
        )
    if stream == "resid_post":
        ask(source, call, model=model)
    else:
        ask(source, call, model=model, post_norms=post_norms)
    if stream != "resid_post" and post_norms:
        raise DirectionError(
            f"{source} is at the output of {layer_type!r}, which this model norms before it is "
            f"added, but {stream} is the stream after the norm. Train it at 'decoder_block'."
        )
    known: dict[str, Any] = {
        "method": "steering-vectors",
        "processing": "raw",
        "apply_at": EVERYWHERE,
        "strength_unit": "direction",
        "model": model,
    }
    known |= facts
    return [
        state(_vector(layers[layer], layer, source), Site(layer, stream), known, source)
        for layer in sorted(layers, key=lambda layer: _layer_number(layer, source))
    ]


def _layer_number(layer: object, source: str) -> int:
    if isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
        raise DirectionError(
            f"{source} has the layer {layer!r:.80}. Layers are numbers that count from 0; the last "
            "one is n_layers - 1."
        )
    return layer


def _vector(tensor: object, layer: int, source: str) -> Tensor:
    if not isinstance(tensor, Tensor) or tensor.numel() != max(tensor.shape, default=0):
        what = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise DirectionError(
            f"{source} has {what} at layer {layer} instead of one vector. Pass a tensor of d_model "
            "numbers per layer."
        )
    return require_plain(tensor.detach().cpu(), source).reshape(-1)


def _layer(site: Site) -> int:
    return site.layer - 1 if site.stream == "resid_pre" else site.layer


def _one_stream(directions: Direction | Sequence[Direction]) -> tuple[list[Direction], str]:
    several = in_raw_basis(directions, "steering-vectors")
    names = {stream: name for name, stream in STREAMS.items()} | {"resid_pre": "decoder_block"}
    types = {names.get(d.site.stream) for d in several}
    layers = [_layer(d.site) for d in several]
    if None in types or len(types) > 1 or len(set(layers)) < len(layers) or min(layers) < 0:
        raise DirectionError(
            "A SteeringVector holds one vector per layer, all after blocks, all of attention or "
            f"all of MLPs; these are at {format_sites(d.site for d in several)}. Export them in "
            "groups, or as steerlens files: direction.save(path)."
        )
    return several, types.pop()  # type: ignore[return-value]
