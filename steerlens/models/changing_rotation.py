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
        new: How many tokens each text will have more.
    """
    limit = _limit(wrapped)
    if limit is None:
        return
    lengths = batch.mask.sum(1)
    least, most = int(lengths.min()), int(lengths.max()) + new
    if least <= limit < most:
        raise ValueError(
            f"The texts have {least} to {most} tokens, new ones included. "
            f"{type(wrapped.original_model).__name__} has other rotary frequencies for texts of "
            f"more than {limit} tokens (longrope), and takes them for all texts of a batch and for "
            f"all of their tokens. Use texts that have at most {limit} tokens at their end, or "
            f"texts that all begin with more."
        )


def rotation_changed(wrapped: Any, batch: TokenBatch) -> bool:
    """Whether some text has other frequencies than its first tokens alone."""
    limit = _limit(wrapped)
    return limit is not None and int(batch.mask.sum(1).max()) > limit


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
