"""How much each token of a text makes a model prefer one answer: integrated gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import ArgumentError, as_int
from steerlens.data.contrast_set import PairsLike, as_contrast_set
from steerlens.measures.tokenised import before_answers
from steerlens.models.model import Model, as_model
from steerlens.models.wrapped_state import differentiable
from steerlens.sites import Positions, Site, TokenBatch

Gradients = Literal["integrated", "times_input"]
Baseline = Literal["mean", "zero"]
ROWS = 16
"""Texts whose gradients are computed at once."""


@dataclass(frozen=True, eq=False)
class TokenAttribution:
    """The score of every token of both sides of some pairs, for preferring the positive answer.

    A positive score raises log p(positive answer) - log p(negative answer).
    """

    batches: tuple[TokenBatch, TokenBatch]
    """Prompts with the positive and with the negative answer."""
    scores: tuple[Float[Tensor, "pair pos"], Float[Tensor, "pair pos"]]
    """In nats; 0 at padding."""
    log_probs: Float[Tensor, "pair side=2"]
    """Of each whole answer."""
    at_baseline: Float[Tensor, "pair side=2"]
    """The same with nothing in the place of the tokens."""

    @property
    def completeness(self) -> Float[Tensor, " pair"]:
        """What the scores of a pair add up to, over what they should: 1 for exact integrals."""
        total = self.scores[0].sum(-1) + self.scores[1].sum(-1)
        gap = self.log_probs - self.at_baseline
        return total / (gap[:, 0] - gap[:, 1])


def token_attribution(
    model: Model,
    pairs: PairsLike,
    *,
    gradients: Gradients = "integrated",
    baseline: Baseline = "mean",
    steps: SupportsIndex = 20,
) -> TokenAttribution:
    """Attributes the preference between two answers to the tokens of prompt and answer.

    score_i = (x_i - b_i) · ∫₀¹ ∂F(b + α(x - b))/∂x_i dα,
    F = log p(positive | x⁺) - log p(negative | x⁻)

    where x are the vectors that enter block 0. The integral is a midpoint sum, and the scores add up
    to F(x) - F(b) (`TokenAttribution.completeness`).

    Args:
        baseline: b. "mean" is the mean vector of the texts' ordinary tokens, special tokens staying
            as they are. "zero" is that of the paper. There the norm in front of the first block makes
            F jump near α = 0, so its points are denser towards 0 (α = u⁴); in a model without biases,
            such as Llama, every norm on the way jumps, and no number of points adds up.
        gradients: "times_input" takes the gradient at the text itself instead: one pass, no
            completeness.
        steps: Points of the integral.

    Raises:
        ArgumentError: If gradients or baseline are of no such kind, or steering is attached.
        ValueError: If an answer cannot be scored.

    Source: arXiv:1703.01365, as arXiv:2507.18043 uses it. Departures from the authors' code: it reads
    logits[-1], the prediction *after* the answer's last token, and asks it for that same token; here
    every token of the answer is read from the place before it. Their F has the last token alone, here
    it is the whole answer; the mean as baseline. Where positions are learned vectors, they are part of
    x.
    """
    model = as_model(model)
    count = as_int("steps", steps, least=1)
    if gradients not in ("integrated", "times_input"):
        raise ArgumentError(f"gradients={gradients!r:.80} must be 'integrated' or 'times_input'.")
    if baseline not in ("mean", "zero"):
        raise ArgumentError(f"baseline={baseline!r:.80} must be 'mean' or 'zero'.")
    given = as_contrast_set(pairs)
    if model.attached:
        raise ArgumentError(
            "Steering is attached to the model, and the gradients would go through it. Attribute "
            "outside of its `with`."
        )
    prompts = [pair.prompt for pair in given]
    sides = [model.answered(prompts, [getattr(p, s) for p in given]) for s in _SIDES]
    site = Site(0, "resid_pre")
    streams = [model.cache(batch, [site])[site].detach() for batch in sides]
    nothing = _baseline(streams, sides, baseline)
    scores, ends = [], []
    with differentiable(model.wrapped):
        for batch, x, b, sign in zip(sides, streams, nothing, (1.0, -1.0), strict=True):
            rows = []
            for k in range(0, len(batch), ROWS):
                some = slice(k, k + ROWS)
                points = _points(gradients, baseline, count)
                rows.append(_scores(model, batch.rows(some), x[some], b[some], sign, points))
            scores.append(torch.cat([row[0] for row in rows]))
            ends.append([torch.cat([row[j] for row in rows]) for j in (1, 2)])
    return TokenAttribution(
        (sides[0], sides[1]),
        (scores[0], scores[1]),
        torch.stack([end[0] for end in ends], 1),
        torch.stack([end[1] for end in ends], 1),
    )


_SIDES = ("positive", "negative")


def _baseline(
    streams: list[Tensor], batches: list[TokenBatch], kind: Baseline
) -> list[Float[Tensor, "row pos d_model"]]:
    """What stands in the place of the tokens, for both sides."""
    if kind == "zero":
        return [torch.zeros_like(x) for x in streams]
    ordinary = [batch.mask & ~batch.special for batch in batches]
    parts = [x[real] for x, real in zip(streams, ordinary, strict=True)]
    mean = torch.cat(parts).mean(0)
    return [
        torch.where(real[..., None], mean, x) for x, real in zip(streams, ordinary, strict=True)
    ]


def _points(gradients: Gradients, baseline: Baseline, steps: int) -> list[tuple[float, float]]:
    """Where gradients are taken on the way from the baseline to the text, with weights."""
    if gradients == "times_input":
        return [(1.0, 1.0)]
    middles = [(k + 0.5) / steps for k in range(steps)]
    if baseline == "mean":
        return [(u, 1 / steps) for u in middles]
    return [(u**4, 4 * u**3 / steps) for u in middles]  # ∫ g(α) dα = ∫ g(u⁴) 4u³ du


def _scores(
    model: Model,
    batch: TokenBatch,
    x: Float[Tensor, "row pos d_model"],
    nothing: Float[Tensor, "row pos d_model"],
    sign: float,
    points: list[tuple[float, float]],
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of some texts, and log-probabilities of their answers: as they are, and of nothing."""
    with torch.no_grad():
        whole, empty = (_log_probs(model, batch, entering) for entering in (x, nothing))
    total = torch.zeros_like(x)
    for alpha, weight in points:
        at = (nothing + alpha * (x - nothing)).requires_grad_()
        found = _log_probs(model, batch, at).sum()
        total += weight * torch.autograd.grad(found, at)[0]
    score = sign * ((x - nothing) * total).float().sum(-1)
    return score.masked_fill(~batch.mask, 0.0), whole, empty


def _log_probs(
    model: Model, batch: TokenBatch, entering: Float[Tensor, "row pos d_model"]
) -> Float[Tensor, " row"]:
    """Log-probability of the answers with other vectors entering block 0."""

    def put(resid: Tensor, strength: object) -> Tensor:
        return entering

    with model.hooked(Site(0, "resid_pre"), put, Positions.all(special=True), 1.0):
        states = model.states(batch)
    before, asked = before_answers(batch, states)
    each = torch.log_softmax(model.unembed(before).float(), -1).gather(
        -1, batch.tokens[asked][:, None]
    )[:, 0]
    row = asked.nonzero()[:, 0]
    return torch.zeros(len(batch), dtype=each.dtype, device=each.device).index_add(0, row, each)


def top_tokens_of(
    scores: Float[Tensor, "pair pos"], batch: TokenBatch, count: int, sign: int
) -> list[Sequence[int]]:
    """The columns of each text with the largest scores of a sign, special tokens left out."""
    allowed = batch.mask & ~batch.special & (sign * scores > 0)
    ranked = (sign * scores).masked_fill(~allowed, -torch.inf).argsort(-1, descending=True)
    most = allowed.sum(-1).clamp(max=count).tolist()
    return [row[:n].tolist() for row, n in zip(ranked, most, strict=True)]
