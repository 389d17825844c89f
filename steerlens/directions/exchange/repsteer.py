"""Artifacts and bundles of repsteer: folders of a manifest, safetensors and SHA-256 checksums.

From the source of repsteer 0.2.4 (github.com/binhu02/repsteer, Apache-2.0; `artifacts/io.py`,
`artifacts/bundle.py`, schema 1.0). A bundle's components are artifacts below `components/`. Sites
count blocks from 0 and have TransformerLens's names for the streams of a block; models are Hugging
Face's, unprocessed. Every file is compared with its checksum before it is used.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from steerlens.directions import Direction, DirectionError
from steerlens.directions.exchange.required_facts import EVERYWHERE, ask, state
from steerlens.directions.exchange.tensor_files import read_safetensors
from steerlens.sites import Site
from steerlens.store.files import expanded, require_file, sha256_of

MANIFEST, TENSORS, CHECKSUMS = "manifest.json", "tensors.safetensors", "checksums.json"
VECTORS = {"direction": "direction", "probe": "weight", "sae_feature": "decoder_direction"}
"""The tensor that is the direction, by the type of artifact."""
STREAMS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
LARGEST = 16 << 20
"""Bytes of the largest manifest that is read."""


def load(
    folder: Path | str,
    *,
    component: str | None = None,
    model: str | None = None,
    post_norms: bool | None = None,
    **facts: Any,
) -> Direction:
    """A direction from a folder of `artifact.save` or `bundle.save`.

    Multiplier 1 adds the vector at its own length, as strength 1 does there. repsteer keeps the
    tokens to steer in a plan, not in the artifact: they are taken to be all; pass `apply_at=` for
    others.

    Args:
        component: The key of the component, if the folder is a bundle of several.
        model: The model it was made on, if the artifact does not state one.
        post_norms: At attn_out or mlp_out, whether the model norms a sub-block's output before
            adding it (Gemma 2 does), which is another place than TransformerLens's hook.
        facts: Other facts, if known (`data=`, `pairs=`, `resid_norm=`, …).

    Raises:
        MissingFacts: If a required fact is neither stated nor passed.
        DirectionError: If a file is damaged or differs from its checksum, if the artifact is no
            single direction of the language model's stream, or `component` is needed.
        StorageError: If a file cannot be read.
    """
    folder = expanded(folder)
    manifest = _checked(folder)
    if manifest.get("components") is not None:
        return load(
            _component(folder, manifest, component), model=model, post_norms=post_norms, **facts
        )
    if component is not None:
        raise DirectionError(f"{folder} is a single artifact, not a bundle. Leave out component=.")
    vector = _vector(folder, manifest)
    site = _site(folder, manifest)
    about = manifest.get("model")
    about = about if isinstance(about, dict) else {}
    named = model if model is not None else about.get("id") or None
    needed: dict[str, object] = {"model": named}
    if site.stream in ("attn_out", "mlp_out"):
        needed["post_norms"] = post_norms
    ask(str(folder), f"repsteer.load({str(folder)!r}", **needed)
    if post_norms and site.stream in ("attn_out", "mlp_out"):
        raise DirectionError(
            f"{folder} is read at {site} before the model norms that output, and TransformerLens's "
            "hook is after. There is no such place here: fit the direction again."
        )
    known = {
        "method": f"repsteer {manifest.get('method', '')}".strip(),
        "processing": "raw",
        "apply_at": EVERYWHERE,
        "strength_unit": "direction",
        "model": named,
        "revision": str(about.get("revision") or ""),
        "data": str(manifest.get("dataset_fingerprint") or ""),
        "dtype": str(manifest.get("dtype") or ""),
    }
    return state(vector, site, known | facts, str(folder))


def _checked(folder: Path) -> dict[str, Any]:
    """The manifest of a folder whose files are those of its checksums."""
    sums = _document(folder / CHECKSUMS)
    listed = sums.get("files")
    if sums.get("algorithm") != "sha256" or not isinstance(listed, dict) or MANIFEST not in listed:
        raise DirectionError(
            f"{folder / CHECKSUMS} states no SHA-256 of {MANIFEST}: it is no folder of repsteer. "
            "Save it again with repsteer 0.2."
        )
    for name in (MANIFEST, TENSORS):
        if name not in listed:
            continue
        found = sha256_of(require_file(folder / name))
        if found != str(listed[name]).removeprefix("sha256:"):
            raise DirectionError(
                f"{folder / name} is damaged or was edited: its SHA-256 is not that of {CHECKSUMS}. "
                "Copy or save the folder again."
            )
    manifest = _document(folder / MANIFEST)
    version = str(manifest.get("schema_version", ""))
    if version.split(".")[0] != "1":
        raise DirectionError(
            f"{folder} is of schema {version!r:.20}, and 1.x can be read. Save it with repsteer 0.2."
        )
    if manifest.get("components") is None and TENSORS not in listed:
        raise DirectionError(f"{folder / CHECKSUMS} states no SHA-256 of {TENSORS}. Save it again.")
    return manifest


def _component(folder: Path, manifest: dict[str, Any], key: str | None) -> Path:
    """The folder of a bundle's component."""
    records = manifest["components"]
    paths: dict[str, str] = {}
    for record in records if isinstance(records, list) else []:
        if isinstance(record, dict) and isinstance(record.get("path"), str):
            paths[str(record.get("key"))] = record["path"]
    if key is None and len(paths) == 1:
        key = next(iter(paths))
    if key is None or key not in paths:
        asked = "holds several components" if key is None else f"has no component {key!r:.40}"
        raise DirectionError(
            f"{folder} {asked}. Pass one as component=: {', '.join(sorted(paths))[:400]}."
        )
    if not re.fullmatch(r"components/[0-9a-f]{64}", paths[key]):
        raise DirectionError(
            f"{folder} places component {key!r:.40} at {paths[key]!r:.80}, outside its components. "
            "Nothing of it was read."
        )
    return folder / paths[key]


def _vector(folder: Path, manifest: dict[str, Any]) -> Tensor:
    kind = manifest.get("artifact_type")
    if kind not in VECTORS:
        raise DirectionError(
            f"{folder} is an artifact of type {kind!r:.40}, which is no single direction. "
            f"{', '.join(VECTORS)} can be read."
        )
    tensors, _ = read_safetensors(require_file(folder / TENSORS))
    name = VECTORS[kind]
    if name not in tensors:
        raise DirectionError(f"{folder / TENSORS} has no tensor {name!r}. Save it again.")
    vector = tensors[name]
    if vector.ndim == 2 and len(vector) == 1:
        vector = vector[0]
    return vector.clone()


def _site(folder: Path, manifest: dict[str, Any]) -> Site:
    stated = manifest.get("site")
    stated = stated if isinstance(stated, dict) else {}
    component, layer = stated.get("component"), stated.get("layer")
    plain = (
        stated.get("stream", "language") == "language"
        and component in STREAMS
        and type(layer) is int
        and stated.get("unit") is None
        and stated.get("io", "output") == "output"
        and not stated.get("tensor_path")
    )
    if not plain:
        raise DirectionError(
            f"{folder} is at the site {json.dumps(stated)[:200]}, which has no place here. "
            f"{', '.join(STREAMS)} of a block of the language model can be read."
        )
    return Site.from_hook(f"blocks.{layer}.hook_{component}")


def _document(path: Path) -> dict[str, Any]:
    path = require_file(path)
    if path.stat().st_size > LARGEST:
        raise DirectionError(f"{path} is larger than any manifest. It was not read.")
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DirectionError(f"{path} is no readable JSON ({error}). Save it again.") from error
    if not isinstance(found, dict):
        raise DirectionError(f"{path} holds no JSON object. Save it again.")
    return found
