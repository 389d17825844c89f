"""Probes of steerkit: safetensors files with a unit vector for each way of fitting.

From the source of steerkit 0.3.0 (github.com/arvkevi/steerkit, `steerkit/probe.py`, MIT; schema 3),
which was read and not run: it needs HookedTransformer of a TransformerLens that steerlens does not
install. The file states the model, the hook and the ways; `layer` counts blocks from 0. Probes were
read from a model as `HookedTransformer.from_pretrained` processes it, at every layer of the stream,
and are added at every token, `auto_alpha` times.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from steerlens.directions import Direction, DirectionError
from steerlens.directions.exchange.required_facts import EVERYWHERE, state
from steerlens.directions.exchange.tensor_files import read_safetensors
from steerlens.sites import Site
from steerlens.store.files import require_file

PREFIX = "direction."
PROCESSED = "fold_ln+center_writing_weights+center_unembed+fold_value_biases"
"""The weight processing of `HookedTransformer.from_pretrained`; RMSNorm models are not centred."""
NEWEST = 3
"""The schema of 0.3.0."""


def load(
    path: Path | str, *, way: str | None = None, processing: str = PROCESSED, **facts: Any
) -> Direction:
    """A direction from a probe of steerkit.

    Its length is the strength that steerkit calibrated (`auto_alpha`), or 1 where it did not, and
    its strength unit that length: multiplier 1 steers as `Probe.steer` does by default.

    Args:
        way: "logistic", "diff_of_means" or "mass_mean"; by default the file's own choice.
        processing: Weight processing of the model it was read from. Pass "raw" for an encoder, or
            "fold_ln+center_unembed+fold_value_biases" for a model with RMSNorm, which is never
            centred.
        facts: Other facts, if known (`data=`, `pairs=`, `resid_norm=`, …).

    Raises:
        DirectionError: If the file is damaged, no probe, of a newer schema, of several classes, or
            at the embedding or the final norm, where nothing is steered.
        StorageError: If the path is not that of a regular file, or it cannot be read.
    """
    path = require_file(path)
    tensors, stated = read_safetensors(path)
    vectors = {
        name.removeprefix(PREFIX): tensor
        for name, tensor in tensors.items()
        if name.startswith(PREFIX)
    }
    _require_probe(str(path), vectors, stated)
    chosen = way if way is not None else stated.get("default_method", "logistic")
    if chosen not in vectors:
        raise DirectionError(
            f"{path} holds no vector fitted by {chosen!r:.40}. It holds "
            f"{', '.join(sorted(vectors)):.200}: pass one as way=."
        )
    strength = _strength(str(path), stated.get("auto_alpha", ""))
    known = {
        "method": f"steerkit {chosen}",
        "processing": processing,
        "apply_at": EVERYWHERE,
        "strength_unit": "direction",
        "model": stated["model_id"],
    }
    vector = vectors[chosen].float() * strength
    return state(vector, _site(str(path), stated), known | facts, str(path))


def _require_probe(path: str, vectors: dict[str, Tensor], stated: dict[str, str]) -> None:
    if stated.get("kind") == "multinomial":
        raise DirectionError(
            f"{path} is a probe of several classes, which has no single direction. Take one row of "
            "its weights: exchange.plain.load(path, key='weights', row=0, site=…, …)."
        )
    missing = [name for name in ("model_id", "layer", "hook_site") if name not in stated]
    if not vectors or missing:
        lacks = "tensors named direction.…" if not vectors else ", ".join(missing)
        raise DirectionError(
            f"{path} is no probe of steerkit: it lacks {lacks}. Tensors without facts are read by "
            "exchange.plain.load."
        )
    version = stated.get("schema_version", str(NEWEST))
    if not version.isdigit() or int(version) > NEWEST:
        raise DirectionError(
            f"{path} is of schema {version!r:.20}, and up to {NEWEST} can be read. Save it with "
            "steerkit 0.3, or pass its vector to exchange.plain.load."
        )


def _site(path: str, stated: dict[str, str]) -> Site:
    hook = stated.get("hook_name") or f"blocks.{stated['layer']}.hook_{stated['hook_site']}"
    if hook in ("hook_embed", "ln_final.hook_normalized") or stated["layer"] == "-1":
        raise DirectionError(
            f"{path} is a probe at {hook}, where steerlens does not steer. Fit one at a block."
        )
    try:
        return Site.from_hook(hook)
    except ValueError as error:
        raise DirectionError(f"{path} is a probe at a hook that is no site: {error}") from error


def _strength(path: str, text: str) -> float:
    try:
        found = float(json.loads(text)) if text else 1.0
    except (ValueError, TypeError):
        found = math.nan
    if not (math.isfinite(found) and found):
        raise DirectionError(
            f"{path} states auto_alpha={text!r:.40}, which is no strength. Pass its vector to "
            "exchange.plain.load."
        )
    return found
