"""First-order slopes of the log-odds: which of many interventions deserve an exact sweep.

To first order, what a residual edit does to the log-odds is its push times the gradient there, and
one backward pass gives the gradient at every layer and position. Any other intervention is asked
for its slope by a central difference in its multiplier, two forward passes each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens import stats
from steerlens.arguments import as_int
from steerlens.data.contrast_set import PairsLike
from steerlens.interventions.arms import require_each_fits
from steerlens.measures.answer_gradients import with_gradients
from steerlens.measures.sweep import sweep
from steerlens.measures.tokenised import Questions, questions
from steerlens.models.model import Model, as_model
from steerlens.progress_bar import progress_bar
from steerlens.protocols import Intervention, ResidualEdit
from steerlens.stats import Interval


@dataclass(frozen=True, eq=False)
class Screen:
    """First-order slopes of propensity at multiplier 0."""

    slopes: Float[Tensor, "arm example"]
    """Nats per unit multiplier, of an edit at the tokens that its own position rule chooses."""
    by_position: Float[Tensor, "arm example pos"]
    """Nats per unit multiplier that the edit of each single token would give; prompts are
    left-padded, so the last column is the prompt's last token (or the last answer token). NaN for
    an intervention that is no edit of a stream."""
    chosen: Bool[Tensor, "arm example pos"]
    """The tokens that the edit's own position rule chooses; none for an intervention that is no
    edit of a stream."""

    def rank_correlation(self, exact: Float[Tensor, "arm example"]) -> Interval:
        """Spearman's correlation with exact slopes, over interventions (mean over examples)."""
        return stats.rank_correlation(self.slopes.mean(-1), exact.mean(-1))


@torch.inference_mode(False)  # tensors made under it cannot be differentiated
def screen(
    model: Model,
    pairs: PairsLike,
    arms: Sequence[Intervention],
    *,
    batch_size: SupportsIndex = 8,
    progress: bool = True,
) -> Screen:
    """Slopes of the log-odds over the multiplier of every intervention, at 0.

    All residual edits share one backward pass. For other interventions, such as a change of
    weights, the slope is a central difference of two forward passes each, at multipliers ± the cube
    root of the model's precision (0.005 in float32), where rounding and curvature together are
    least: about three digits in float32, and one in half precision.

    Args:
        arms: Residual edits must be linear in their strength (as Add, Ablate and Clamp are).
        batch_size: Questions of one backward pass.

    Raises:
        ValueError: For questions that cannot be scored, or an intervention that does not fit the
            model.
        ArgumentError: If `batch_size` is no whole number from 1.

    Source: attribution patching, Nanda 2023; Syed et al., arXiv:2310.10348.
    """
    model, size = as_model(model), as_int("batch_size", batch_size, least=1)
    require_each_fits(model, arms)
    asked = questions(model, pairs)
    edits = {i: arm for i, arm in enumerate(arms) if isinstance(arm, ResidualEdit)}
    others = [i for i in range(len(arms)) if i not in edits]
    shape = (len(arms), len(asked), asked.batch.width)
    by_position, slopes = (
        torch.full(each, torch.nan, dtype=torch.float32) for each in (shape, shape[:2])
    )
    chosen = torch.zeros(shape, dtype=torch.bool)
    if edits:
        rows = list(edits)
        with progress_bar(progress, total=len(asked), desc="screen", unit="ex") as bar:
            for start in range(0, len(asked), size):
                some = slice(start, min(start + size, len(asked)))
                part = asked.rows(some)
                by_position[rows, some] = _slopes(model, part, list(edits.values()))
                masks = torch.stack([edit.positions.mask(part.batch) for edit in edits.values()])
                chosen[rows, some] = masks.unflatten(1, (len(part), -1)).any(2).cpu()
                bar.update(len(part))
        slopes[rows] = (by_position[rows] * chosen[rows]).sum(-1)
    if others:
        step = torch.finfo(next(model.wrapped.parameters()).dtype).eps ** (1 / 3)
        odds = sweep(
            model, pairs, [arms[i] for i in others], (-step, step), log_odds_only=True,
            progress=progress,
        ).log_odds  # fmt: skip
        slopes[others] = (odds[:, 1] - odds[:, 0]) / (2 * step)
    return Screen(slopes, by_position, chosen)


def _slopes(
    model: Model, asked: Questions, edits: Sequence[ResidualEdit]
) -> Float[Tensor, "edit example pos"]:
    held = with_gradients(model, asked, (edit.site for edit in edits))
    slopes = []
    for edit in edits:
        resid, gradient = held[edit.site]
        push = edit(resid, 1.0) - resid  # linear in the strength
        slopes.append((push * gradient).sum(-1).unflatten(0, (len(asked), -1)).sum(1))
    return torch.stack(slopes).float().cpu()
