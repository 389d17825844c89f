"""The basis of a residual-stream vector, and the changes of basis that are exact.

Of the weight processing of TransformerLens, only `center_writing_weights` changes the residual
stream: it subtracts from every token's vector its mean over d_model. Every reader of such a stream
is a LayerNorm, which subtracts the mean itself, so the output of the model does not change; models
with RMSNorm are not centred. `fold_ln`, `center_unembed` and `fold_value_biases` do not change the
stream.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from steerlens.directions.direction_errors import DirectionError

CENTRED = "center_writing_weights"
KNOWN = ("fold_ln", CENTRED, "center_unembed", "fold_value_biases")
"""Kinds of weight processing, in their order in a label."""

ROUNDING = 1e-6
"""A mean component smaller than this part of the vector's length is a rounding error."""


def is_centred(processing: str) -> bool:
    """Whether streams under this weight processing have no mean.

    >>> is_centred("raw"), is_centred("fold_ln"), is_centred("fold_ln+center_writing_weights")
    (False, False, True)

    Raises:
        DirectionError: If the label has an unknown part.
    """
    parts = set() if processing == "raw" else set(processing.split("+"))
    if unknown := parts - set(KNOWN):
        raise DirectionError(
            f"Weight processing {processing!r:.80} does not say whether the residual stream was "
            f"centred ({', '.join(sorted(unknown)):.80} is not known), so no direction can be "
            f"converted to or from it. Known are 'raw', and {', '.join(KNOWN)} joined by '+'."
        )
    return CENTRED in parts


def without_mean(vector: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
    """The vector without its mean, as in a model with centred writing weights."""
    wide = vector.double()
    return (wide - wide.mean()).to(vector.dtype)


def has_mean(vector: Float[Tensor, " d_model"]) -> bool:
    """Whether centring would change the vector by more than rounding."""
    wide = vector.double()
    return bool(wide.mean().abs() * wide.numel() ** 0.5 > ROUNDING * wide.norm())
