"""Steering by one edit of the cached keys and values of the prompt (KV-cache steering)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import SupportsFloat

from steerlens.arguments import ArgumentError, as_float
from steerlens.data.contrast_set import PairsLike
from steerlens.interventions.changes import CacheEdit
from steerlens.interventions.composition import Composition
from steerlens.models.model import Model, as_model
from steerlens.operators.sadi import mean_differences
from steerlens.sites import Positions, Site


def cache_steering(
    model: Model,
    pairs: PairsLike,
    *,
    keys: SupportsFloat = 0.0,
    values: SupportsFloat = 1.0,
    layers: Iterable[int] | None = None,
    read_at: Positions | None = None,
    positions: Positions | None = None,
) -> Composition:
    """Adds the mean difference of keys and values to those of the prompt's last token but one.

    It is made once, after the prompt was read, and costs nothing per token: what is written attends
    to the edited prefix.

    Args:
        keys: What multiplier 1 adds of the keys' mean difference. At 0 keys stay as they are.
        values: The same for the values. The authors use 1 to 10.
        layers: By default all but the first.
        read_at: The token of each side at which keys and values are read; by default where the
            answers differ, or the last.
        positions: The tokens that are edited, of those before the prompt's last; by default the last
            of them.

    Raises:
        ArgumentError: If both strengths are 0, or there is no layer.
        ValueError: If the model is a TransformerBridge.

    Source: arXiv:2507.08799. Departure: keys are read and edited before rotation by position, so
    that prompts of different lengths can be averaged; the authors' cache holds them after it. The
    option to append a token to the prompt is left to the caller.
    """
    model = as_model(model)
    strengths = {"k": as_float("keys", keys), "v": as_float("values", values)}
    chosen = range(1, model.n_layers) if layers is None else list(layers)
    if not len(chosen) or not any(strengths.values()):
        raise ArgumentError(
            f"keys={strengths['k']:g}, values={strengths['v']:g} at layers {list(chosen)} change "
            "nothing. Give a strength and at least one layer."
        )
    vectors = {}
    for stream, strength in strengths.items():
        if strength:
            sites = [Site(layer, stream) for layer in chosen]  # type: ignore[arg-type]
            found = strength * mean_differences(model, pairs, sites, read_at)
            each = found.unflatten(-1, (-1, model.cfg.d_head)).to(model.device)
            vectors[stream] = dict(zip(chosen, each, strict=True))
    where = Positions.span(-2, -1, special=True) if positions is None else positions
    edit = CacheEdit(vectors.get("k", {}), vectors.get("v", {}), where)
    label = (
        f"cache_steering(keys={strengths['k']:g}, values={strengths['v']:g}, "
        f"layers {min(chosen)}–{max(chosen)})"
    )
    return Composition((edit,), label)
