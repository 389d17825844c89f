"""Rotary positions that depend on how long the texts of a batch are.

With the rope type "longrope" (Phi 3) there are two sets of frequencies, and Hugging Face takes one of
them for all tokens of a batch, by its longest text. Beside a longer text, a text can then have other
numbers than alone; and its first tokens can have other keys than they had before it grew.
"""

from __future__ import annotations

from typing import Any

from steerlens.sites import TokenBatch


def require_one_rotation(wrapped: Any, batch: TokenBatch, new: int = 0) -> None:
    """Raises ValueError if texts of a batch would be rotated otherwise than alone.

    Args:
        wrapped: A HookedTransformer, which has one set of frequencies, or a TransformerBridge.
        new: How many columns will follow those of the batch.
    """
    limit = _limit(wrapped)
    if limit is None:
        return
    # Hugging Face numbers the tokens of some row from the first column on, padding after it too.
    least, most = int(batch.mask.sum(1).min()), batch.width + new
    if least <= limit < most:
        raise ValueError(
            f"{type(wrapped.original_model).__name__} has other rotary frequencies for batches of "
            f"more than {limit} columns (longrope). This one has {most}, padding and new tokens "
            f"included, and a text of {least} tokens, which would not be read as it is alone. Use "
            f"texts that fit into {limit} columns with what is written, or only texts that have "
            f"more than {limit} tokens from the start."
        )


def prefix_is_rotated_otherwise(wrapped: Any, batch: TokenBatch, columns: int) -> bool:
    """Whether the first columns of a batch alone have other frequencies than in the batch."""
    limit = _limit(wrapped)
    return limit is not None and columns <= limit < batch.width


def _limit(wrapped: Any) -> int | None:
    """The most tokens of a text with the first set of frequencies; None if there is one set."""
    config = getattr(getattr(wrapped, "original_model", None), "config", None)
    if config is None:
        return None
    stated = getattr(config.get_text_config(), "rope_parameters", None) or {}
    limits = [
        int(one["original_max_position_embeddings"])
        for one in (stated, *stated.values())  # of all layers, or by type of layer
        if isinstance(one, dict) and one.get("rope_type") == "longrope"
    ]
    return min(limits, default=None)
