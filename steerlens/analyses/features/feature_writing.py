"""What features write: the tokens of the logit lens, and whether steering makes them likely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.models.model import Model, as_model
from steerlens.progress_bar import progress_bar
from steerlens.protocols import Strength
from steerlens.saes.sae import SAE
from steerlens.sites import Positions

LENS = 20
"""Tokens of the logit lens that stand for a feature, as in arXiv:2505.20063."""
AMPLIFY = 10.0
"""The multiple of the strongest present activation to which a feature is amplified, as there."""


@dataclass(frozen=True, eq=False)
class AddRows:
    """An edit that adds another vector to each row of a batch, so that one run measures many."""

    vectors: Float[Tensor, "batch d_model"]

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        per_row = strength[:, None] if isinstance(strength, Tensor) else strength
        return resid + (per_row * self.vectors.to(resid))[:, None]


class Written(NamedTuple):
    """The tokens that features raise and lower most, by the logit lens."""

    raised: Int[Tensor, "feature token"]
    raised_by: Float[Tensor, "feature token"]
    """Logits above the unembedding's own bias."""
    lowered: Int[Tensor, "feature token"]
    lowered_by: Float[Tensor, "feature token"]


@torch.no_grad()
def written_tokens(model: Model, sae: SAE, features: Sequence[int], *, k: int = LENS) -> Written:
    """The tokens that decoder rows raise and lower most: finalnorm(row), unembedded.

    The final norm is applied to the row alone, which is made as long as the stream. The blocks
    between the site and the unembedding are left out, so the result means little for early layers.

    Source: the logit lens as in arXiv:2505.20063. Departures: what a stream of zeros would write
    (the biases of the final norm and of the unembedding) is subtracted, since it is the same for
    every feature; and a soft cap is not applied, which does not change the order.
    """
    model = as_model(model)
    sae.require_features(features)
    model.readout.require_known()
    chosen = sae.W_dec[list(features)]
    length = sae.resid_norm or model.d_model**0.5  # long enough that the norm's epsilon is small
    rows = chosen / chosen.norm(dim=-1, keepdim=True).clamp(min=1e-30) * length
    weight = model.wrapped.unembed.W_U
    empty = torch.zeros_like(rows[:1]).to(weight)
    states = _normed(model, rows.to(weight)) - _normed(model, empty)
    logits = ((states @ weight).float() * model.readout.scale).cpu()
    raised = logits.topk(min(k, logits.shape[-1]))
    lowered = (-logits).topk(min(k, logits.shape[-1]))
    return Written(raised.indices, raised.values, lowered.indices, -lowered.values)


def _normed(model: Model, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    return model.readout.norm(rows[:, None])[:, 0]


@torch.no_grad()
def output_scores(
    model: Model,
    sae: SAE,
    features: Sequence[int],
    prompts: Sequence[str],
    *,
    amplify: float = AMPLIFY,
    k: int = LENS,
    rows: int = 256,
    progress: bool = True,
) -> Float[Tensor, "feature prompt"]:
    """Whether features write the tokens of their logit lens, in [0, 1].

    Amplified at the prompt's last token by `amplify` times the strongest activation there,
    S = (1 - min rank(t) / d_vocab) · max p(t) over the k tokens t of its logit lens, ranks from 0.

    Args:
        prompts: Texts that fit any continuation; the paper uses "From my experience,".
        rows: Rows of a batch.

    Source: output score of Arad et al., arXiv:2505.20063 (reference code read: the maximum is over
    all features at the last position, the SAE's error is kept). Departure: several prompts.
    """
    model = as_model(model)
    sae.require_fits(model)
    lens = written_tokens(model, sae, features, k=k).raised.to(model.device)
    batch = model.tokens(list(prompts), padding_side="left")
    stream = model.cache(batch, [sae.site])[sae.site][:, -1].float()
    strongest = sae.encode(stream).amax(-1, keepdim=True)
    scale = sae.scale(stream)
    push = amplify * strongest * scale  # [prompt, 1]: activations become a change of the stream
    out = torch.empty(len(features), len(prompts))
    weights = sae.W_dec[list(features)]
    step = max(1, rows // len(prompts))
    bar = progress_bar(progress, total=len(features), desc="output scores", unit="feature")
    with bar:
        for start in range(0, len(features), step):
            some = weights[start : start + step]
            vectors = (push[:, None] * some[None]).flatten(0, 1)
            many = batch.repeated(len(some))
            with model.hooked(sae.site, AddRows(vectors), Positions.last(), 1.0):
                logits = model.unembed(model.states(many)[:, -1]).float()
            logits = logits.unflatten(0, (len(prompts), len(some)))
            at = lens[start : start + step].expand(len(prompts), -1, -1)
            of_lens = logits.gather(-1, at)
            best = of_lens.amax(-1)
            rank = (logits > best[..., None]).sum(-1)
            p = (best - torch.logsumexp(logits, -1)).exp()
            score = (1 - rank / logits.shape[-1]) * p
            out[start : start + step] = score.T.cpu()
            bar.update(len(some))
    return out
