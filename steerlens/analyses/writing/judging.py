"""A judge's scores of written texts, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.protocols import Scorer

Texts = tuple[tuple[str, ...], ...]
"""[multiplier][prompt]"""


class JudgeError(ValueError):
    """A judge that did not give one finite number per text."""


def judge_texts(
    judge: Scorer, prompts: Sequence[str], texts: Texts
) -> Float[Tensor, "multiplier prompt"]:
    """The scores of the texts of one intervention.

    Raises:
        JudgeError: If there is not one finite number per text.
    """
    asked = list(prompts) * len(texts)
    continuations = [text for cell in texts for text in cell]
    scores = list(judge(list(asked), list(continuations)))
    if len(scores) != len(continuations):
        raise JudgeError(
            f"The judge returned {len(scores)} scores for {len(continuations)} texts. "
            "Return one number per text, in their order."
        )
    for prompt, text, score in zip(asked, continuations, scores, strict=True):
        if not isinstance(score, Real) or not math.isfinite(score):
            raise JudgeError(
                f"The judge returned {score!r} for the text {text!r} after the prompt {prompt!r}. "
                "Return one finite number for every text, also for an empty one."
            )
    return torch.tensor([float(score) for score in scores]).view(len(texts), -1)


def judge_name(judge: Scorer | None) -> str | None:
    """What results call a judge: the name of the function, or of the class."""
    if judge is None:
        return None
    return str(getattr(judge, "__name__", type(judge).__name__))
