"""Vectors of Neuronpedia's steering API: the body of a request, and vectors that it returned.

From the source of the package neuronpedia 1.2.1 (`requests/vector_request.py`, `np_vector.py`),
which was read and not run; nothing is sent from here. Two streams are known there, hook_resid_pre
and hook_resid_post, with layers from 0. The basis in which its servers run a model is not stated by
the package: directions leave in that of unprocessed weights ("raw").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, SupportsFloat, runtime_checkable

import torch

from steerlens.arguments import as_float
from steerlens.directions import Direction, DirectionError
from steerlens.directions.exchange.required_facts import ask, in_raw_basis, state
from steerlens.sites import Site

HOOKS = {"resid_pre": "hook_resid_pre", "resid_post": "hook_resid_post"}


@runtime_checkable
class NPVector(Protocol):
    """`neuronpedia.np_vector.NPVector`, by the attributes that are read."""

    label: str
    model_id: str
    hook_name: str
    values: list[float]


def arguments(
    direction: Direction, *, label: str, model_id: str | None = None, strength: SupportsFloat = 1.0
) -> dict[str, Any]:
    """The arguments of `NPVector.new`.

        NPVector.new(**neuronpedia.arguments(direction, label="weddings", model_id="gemma-2-2b-it"))

    Args:
        label: What the vector is called there.
        model_id: The name of the model there, e.g. "gpt2-small"; by default the direction's own.
        strength: By which it is multiplied by default. The vector has its own length; multiply the
            direction first for another one.

    Raises:
        MissingFacts: If neither the direction nor you state the model.
        DirectionError: If the direction is at another stream, is not made to be added, or cannot be
            converted to unprocessed weights.
    """
    (raw,) = in_raw_basis(direction, "Neuronpedia")
    if raw.site.stream not in HOOKS:
        raise DirectionError(
            f"Neuronpedia adds vectors to resid_pre and resid_post, and this one is at {raw.site}. "
            "Share it as a steerlens file: direction.save(path)."
        )
    if not label.strip():
        raise DirectionError("label is empty. Give the name by which the vector is found.")
    model = model_id or raw.model or None
    ask("The direction", "neuronpedia.arguments(direction, label=…", model=model)
    return {
        "label": label,
        "model_id": model,
        "layer_num": raw.site.layer,
        "hook_type": HOOKS[raw.site.stream],
        "vector": raw.vector.detach().cpu().float().tolist(),
        "default_steer_strength": as_float("strength", strength),
    }


def payload(direction: Direction, **more: Any) -> dict[str, Any]:
    """The JSON body of POST /api/vector/new, for callers without the package.

    Args:
        more: `label`, `model_id` and `strength`, as in `arguments`.
    """
    made = arguments(direction, **more)
    return {
        "modelId": made["model_id"],
        "layerNumber": made["layer_num"],
        "hookType": made["hook_type"],
        "vector": made["vector"],
        "vectorDefaultSteerStrength": made["default_steer_strength"],
        "vectorLabel": made["label"],
    }


def from_vector(vector: NPVector | Mapping[str, Any], **facts: Any) -> Direction:
    """A direction from a vector of the package, or from the JSON of one.

    Args:
        vector: An `NPVector`, or the entry "vector" of a response.
        facts: Facts that it does not state: `processing=` ("raw" for unprocessed weights) is
            required, others may be added (`data=`, `resid_norm=`, …).

    Raises:
        MissingFacts: If `processing` is not passed.
        DirectionError: If it has no values, or its hook is no site.
    """
    if isinstance(vector, Mapping):
        stated = {
            "label": vector.get("vectorLabel", vector.get("label", "")),
            "model": vector.get("modelId"),
            "hook": vector.get("hookName"),
            "values": vector.get("vector", vector.get("values")),
        }
    else:
        stated = {
            "label": vector.label,
            "model": vector.model_id,
            "hook": vector.hook_name,
            "values": vector.values,
        }
    name = f"The vector {stated['label']!r:.60}"
    ask(name, "neuronpedia.from_vector(vector", processing=facts.get("processing"))
    try:
        values = torch.tensor(stated["values"], dtype=torch.float32)
        site = Site.from_hook(str(stated["hook"]))
    except (ValueError, TypeError, RuntimeError) as error:
        raise DirectionError(
            f"{name} holds no list of numbers at the hook of a block ({error})."
        ) from error
    known = {
        "method": f"Neuronpedia {stated['label']}",
        "strength_unit": "direction",
        "model": str(stated["model"] or ""),
    }
    return state(values, site, known | facts, name)
