"""Matrix products in half precision, under a stream that keeps the precision of the weights."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from steerlens.models.model import Model

Products = Literal["bfloat16", "float16"]
"""A precision to which both factors of a product with a block's weights are rounded."""


def products_of(model: Model, products: str | None) -> torch.dtype | None:
    """The precision by its name; None for that of the weights.

    The stream, norms, attention and the read-out stay in the weights' precision. Whether it is
    faster depends on the processor: `steerlens doctor` prints both rates.

    Raises:
        ValueError: If it is not one of `Products`, the weights are not float32, or the model's blocks
            cannot be run without hooks (a TransformerBridge, or a hook of the user's own).
    """
    if products is None:
        return None
    if products not in get_args(Products):
        raise ValueError(
            f"products={products!r:.80} is no precision of products. Use 'bfloat16' or 'float16', or "
            "None for that of the weights."
        )
    if model.dtype != "float32":
        raise ValueError(
            f"products={products!r} rounds the factors of a float32 model, and {model.name!r} is "
            f"{model.dtype} already. Leave products out."
        )
    reason = "something is attached to the model" if model.attached else model.why_no_kernel()
    if reason is not None:
        raise ValueError(
            f"products={products!r} needs a HookedTransformer whose blocks run without hooks, and "
            f"that is not possible here: {reason}. Leave products out."
        )
    return getattr(torch, products)
