"""steerlens itself."""

from __future__ import annotations

from collections.abc import Sequence

from task import Positions
from torch import Tensor

MISSING = (
    "benchmarks/contestants/steerlens_.py does not call steerlens yet, so its column is empty."
)


def load(model_dir: str) -> None:
    raise NotImplementedError(MISSING)


def directions(model_dir: str, pairs: Sequence[tuple[str, str]], *, batch_size: int) -> Tensor:
    """DiffMean at the last token of each text, at `resid_post` of every layer: [layer, d_model]."""
    raise NotImplementedError(MISSING)


def sweep(
    model_dir: str,
    prompts: Sequence[str],
    answers: Sequence[tuple[str, str]],
    vectors: Tensor,
    multipliers: Sequence[float],
    positions: Positions,
    *,
    batch_size: int,
) -> Tensor:
    """Log-odds of the first answer over the second, in nats: [layer, multiplier, prompt].

    `vectors[l]` is added, as it is, times the multiplier, to `resid_post` of layer l.
    """
    raise NotImplementedError(MISSING)


def generate(
    model_dir: str,
    prompts: Sequence[str],
    vector: Tensor,
    layer: int,
    multiplier: float,
    n_new: int,
    *,
    batch_size: int,
) -> Tensor:
    """Greedy token ids, steered at every position: [prompt, n_new]."""
    raise NotImplementedError(MISSING)
