"""Gradient-guided nudging: steps on a token's vector towards a loss, found while a text is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import as_float, as_int
from steerlens.directions import Direction
from steerlens.interventions.changes import Change, NudgeChange
from steerlens.interventions.composition import attached, require_changes_fit
from steerlens.interventions.residual import like_stream
from steerlens.models.model import Model
from steerlens.models.nudges import Ahead, Look
from steerlens.protocols import Hookable, Strength
from steerlens.sites import Positions, Site

HALVINGS = 8
"""How often the share of a shift that stays within the budget is halved in on."""


@runtime_checkable
class NudgeLoss(Protocol):
    """What is lowered, of what the model makes of a token's vector."""

    def __call__(self, ahead: Ahead, texts: list[list[int]]) -> Float[Tensor, " row"]:
        """A loss for each text, in nats.

        Args:
            texts: Token ids of each text so far.
        """
        ...


@dataclass(frozen=True)
class AnswerLoss:
    """-log p of the wanted next tokens together, less that of the unwanted ones, in nats."""

    wanted: tuple[int, ...]
    """Token ids."""
    unwanted: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.wanted:
            raise ValueError("AnswerLoss(()) wants no token. Give the ids of at least one.")

    def __call__(self, ahead: Ahead, texts: list[list[int]]) -> Float[Tensor, " row"]:
        log_p = torch.log_softmax(ahead.logits.float(), -1)
        loss = -torch.logsumexp(log_p[:, list(self.wanted)], -1)
        if self.unwanted:
            loss = loss + torch.logsumexp(log_p[:, list(self.unwanted)], -1)
        return loss


@dataclass(frozen=True, eq=False)
class ProbeLoss:
    """-log σ of a linear probe's logit, weight · (ûᵀh - bias), at a stream above the nudge."""

    probe: Direction
    bias: float = 0.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("bias", "weight"):
            object.__setattr__(self, name, as_float(name, getattr(self, name)))

    def __call__(self, ahead: Ahead, texts: list[list[int]]) -> Float[Tensor, " row"]:
        entry = self.probe.site.entry
        if entry is None or entry not in ahead.streams:
            raise ValueError(
                f"The probe reads {self.probe.site}, which is not a stream above the nudge. Give a "
                "probe of resid_pre or resid_post at the nudge's layer or above."
            )
        stream = ahead.streams[entry].float()
        u = like_stream(self.probe.unit().vector, stream)
        return -torch.nn.functional.logsigmoid(self.weight * (stream @ u - self.bias))


@dataclass(frozen=True, eq=False)
class DistributionLoss:
    """KL(p* ‖ p) to a wanted distribution of the next token, in nats."""

    wanted: Callable[[list[int]], Float[Tensor, " d_vocab"]]
    """Given the token ids of a text so far: the probabilities of the next token."""

    def __call__(self, ahead: Ahead, texts: list[list[int]]) -> Float[Tensor, " row"]:
        log_p = torch.log_softmax(ahead.logits.float(), -1)
        wanted = torch.stack([self.wanted(text) for text in texts]).to(log_p)
        return (torch.xlogy(wanted, wanted) - wanted * log_p).sum(-1)


@dataclass(frozen=True, eq=False)
class Nudge:
    """Moves each chosen token's vector down the gradient of a loss: h' = h + multiplier · s.

    s is found anew for every token and text while it is run: `steps` steps of length `size` · ‖h‖
    against the gradient of the loss with respect to h, each with one forward and one backward pass
    from the site up, at that token alone. Where s would change the next token's distribution by more
    than `budget` nats, KL(unmoved ‖ moved), it is shortened to what does not. Earlier tokens are as
    they were moved, so that a text that is written token by token and a whole text give the same.

    It needs a HookedTransformer that runs without its hooks. Nothing is fitted.

    Source: steps on activations at inference are PPLM's, arXiv:1912.02164. Departures: steps have the
    length that is asked for, in units of the vector's norm; the present token's vector moves and not
    the keys and values of earlier ones; a KL budget takes the place of a KL penalty.
    """

    site: Site
    loss: NudgeLoss
    steps: int = 3
    size: float = 0.05
    """The length of a step, in norms of the vector."""
    budget: float | None = 0.1
    """Nats of KL for each token at multiplier 1; None for no bound."""
    positions: Positions = Positions.from_prompt_end()

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", as_int("steps", self.steps, least=1))
        object.__setattr__(self, "size", as_float("size", self.size))
        if self.size <= 0:
            raise ValueError(f"size={self.size} is no length of a step. Give a positive number.")
        if self.budget is not None:
            object.__setattr__(self, "budget", as_float("budget", self.budget))
            if self.budget <= 0:
                raise ValueError(
                    f"budget={self.budget} allows nothing. Give nats above 0, or None."
                )

    def shift(
        self, vectors: Float[Tensor, "row d_model"], look: Look, texts: list[list[int]]
    ) -> Float[Tensor, "row d_model"]:
        """What multiplier 1 adds to the vectors of one token of some texts."""
        vectors = vectors.detach()
        length = self.size * vectors.norm(dim=-1, keepdim=True)
        moved = vectors
        for _ in range(self.steps):
            with torch.enable_grad():
                here = moved.clone().requires_grad_(True)
                loss = self.loss(look(here), texts)
                (gradient,) = torch.autograd.grad(loss.sum(), here)
            norm = gradient.norm(dim=-1, keepdim=True)
            if not bool(torch.isfinite(norm).all()):
                raise ValueError(
                    f"The gradient of {self.loss!r:.200} at {self.site} is NaN or infinite. Use "
                    "float32, or another loss."
                )
            moved = moved - length * gradient / norm.clamp(min=1e-30)
        shift = moved - vectors
        return shift if self.budget is None else _within(self.budget, vectors, shift, look)

    def changes(self, model: Model) -> tuple[Change, ...]:
        """The one shift."""
        return (NudgeChange(self),)

    @property
    def first_block(self) -> int:
        """The first block that it changes."""
        return NudgeChange(self).block

    @property
    def per_row(self) -> bool:
        """True: a batch may have one multiplier per row."""
        return True

    def require_fits(self, model: Model) -> None:
        """Raises ValueError if the model has no such site, or needs its hooks to run."""
        require_changes_fit(model, self.changes(model), repr(self))

    def attach(self, model: Hookable, multiplier: Strength) -> AbstractContextManager[None]:
        """Nudges the model until the `with` ends."""
        return attached(model, (NudgeChange(self),), multiplier, repr(self))

    def __repr__(self) -> str:
        return f"Nudge({self.site}, {self.loss!r}, steps={self.steps}, size={self.size:g})"


@torch.no_grad()
def _within(budget: float, vectors: Tensor, shift: Tensor, look: Look) -> Tensor:
    """As much of the shifts as a budget of KL allows."""
    base = torch.log_softmax(look(vectors).logits.float(), -1)

    def costs(share: Tensor) -> Tensor:
        new = torch.log_softmax(look(vectors + share[:, None] * shift).logits.float(), -1)
        return (base.exp() * (base - new)).sum(-1)

    high = torch.ones(len(vectors), device=vectors.device, dtype=vectors.dtype)
    over = costs(high) > budget
    if not bool(over.any()):
        return shift
    low = torch.where(over, 0.0, 1.0).to(vectors)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        fits = costs(middle) <= budget
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return low[:, None] * shift


def answer_loss(model: Model, wanted: Sequence[str], unwanted: Sequence[str] = ()) -> AnswerLoss:
    """The loss of next tokens, given as texts: the first token of each.

    >>> from steerlens.testing import tiny_model
    >>> model = Model(tiny_model("llama"))
    >>> answer_loss(model, ["good", "great"]) == AnswerLoss(tuple(model.ids("good great")[1:]))
    True
    """
    lead = len(model.texts.lead)
    return AnswerLoss(*(tuple(model.ids(t)[lead] for t in side) for side in (wanted, unwanted)))
