"""An intervention as TransformerLens's own hooks, for `run_with_hooks`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from steerlens.interventions.arms import Steering, named_arms, require_fit
from steerlens.interventions.changes import Change, PromptChange, StreamEdit, WeightChange
from steerlens.interventions.together import changes_of
from steerlens.models.attached import Attached, SteeringError, strength_of
from steerlens.models.lens_names import TextsLike
from steerlens.models.model import Model, as_model
from steerlens.protocols import Strength
from steerlens.sites import TokenBatch

LensHook = tuple[str, Callable[..., Tensor]]
"""The name of a hook point and a function (activation, hook) -> activation."""


def fwd_hooks(
    model: Any, intervention: Steering, texts: TextsLike, multiplier: Strength = 1.0
) -> list[LensHook]:
    """The edits of an intervention as hooks of TransformerLens.

    The logits are those of `attach`, to the last bit::

        hooks = sl.fwd_hooks(model, steer, "The soup was", 0.5)
        hooked.run_with_hooks("The soup was", fwd_hooks=hooks)

    Hooks do not see where a prompt ends and what is padding, so they are made for the texts that
    will be run, and refuse a batch of another shape. Several texts are run as
    ``hooked.run_with_hooks(batch.tokens, attention_mask=batch.mask.long(), fwd_hooks=hooks)`` with
    ``batch = model.tokens(texts)``. Nothing is left on the model afterwards.

    Args:
        model: A `Model`, or what it wraps.
        intervention: One whose changes are edits of streams; or a direction, for `Add`.
        texts: What will be run: texts, a batch, or tokens of texts of one length.
        multiplier: One strength, or one per row.

    Raises:
        TypeError: If the intervention changes weights or puts text in front, which hooks cannot do,
            or does not state what it changes.
        ValueError: If it does not fit the model, or the multiplier is NaN or infinite.
        SteeringError: If its positions choose no token of the texts.
    """
    model = as_model(model)
    (intervention,) = named_arms({"": intervention}).values()
    multiplier = strength_of(multiplier)
    require_fit(model, intervention)
    changes = changes_of(intervention, model)
    if changes is None:
        raise TypeError(
            f"{intervention!r:.80} does not state what it changes, so it cannot be written as hooks. "
            "Attach it, with intervention.attach(model, multiplier), and run the Model; or give it "
            "a method changes(model) (docs/interventions.md)."
        )
    batch = model.batch(texts)
    return [_hook(model, change, batch, multiplier) for change in changes]


def _hook(model: Model, change: Change, batch: TokenBatch, multiplier: Strength) -> LensHook:
    if not isinstance(change, StreamEdit):
        raise TypeError(_why_not(change))
    chosen = change.positions.mask(batch)
    if not bool(chosen.any(-1).all()):
        raise SteeringError(
            f"{change.positions} chooses no token of text {int((~chosen.any(-1)).nonzero()[0])}, so "
            f"steering at {change.site} would do nothing there. Positions.generated() needs tokens "
            "after the prompt: model.answered(prompts, answers)."
        )
    attached = Attached(change.site, change.edit, change.positions, multiplier)
    shape = tuple(batch.tokens.shape)

    def hook_fn(resid: Float[Tensor, "batch pos *width"], hook: Any) -> Tensor:
        if tuple(resid.shape[:2]) != shape:
            raise SteeringError(
                f"These hooks were made for {shape[0]} text(s) of {shape[1]} tokens, BOS and padding "
                f"included, and the model ran on {resid.shape[0]} x {resid.shape[1]}. Make them "
                "for what is run, and pass those tokens: model.tokens(texts).tokens. To write "
                "text, use steerlens.generate."
            )
        # All heads of a token are one vector, [batch, pos, head * d_head].
        return attached.apply(resid.flatten(2), chosen).view_as(resid)

    return change.site.hook, hook_fn


def _why_not(change: Change) -> str:
    if isinstance(change, WeightChange):
        return (
            f"The intervention changes the weights {change.name}, which a forward hook cannot do. "
            "Attach it, or take a model with the changed weights: steerlens.merged."
        )
    if isinstance(change, PromptChange):
        return (
            "The intervention puts tokens in front of every text, which a forward hook cannot do. "
            "Attach it, or write the prompt into the texts."
        )
    return (
        f"The intervention makes a {type(change).__name__}, which is no edit of a stream, so it "
        "cannot be written as a forward hook. Attach it and run the Model."
    )
