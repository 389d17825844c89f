"""What Inspect imports to know of steered models: their provider, which is loaded on first use."""

from __future__ import annotations

from inspect_ai.model import ModelAPI, modelapi


@modelapi(name="steerlens")
def steerlens() -> type[ModelAPI]:
    """The provider, by the first part of a model's name."""
    from steerlens.sharing.inspect_provider import SteeredModel

    return SteeredModel
