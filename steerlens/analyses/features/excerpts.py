"""What features read: the texts that activate them most, and at which tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.analyses.features.feature_ranking import Excerpt
from steerlens.models.model import Model, as_model
from steerlens.progress_bar import progress_bar
from steerlens.saes.corpus import ordinary
from steerlens.saes.sae import SAE

MOST, FEWEST = 100, 10
"""The most texts that count for the input score, and the fewest for which there is one."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What some features read in some texts."""

    features: tuple[int, ...]
    peaks: Float[Tensor, "feature text"]
    """Largest activation in each text; 0 where the feature does not fire."""
    places: Int[Tensor, "feature text"]
    """Index of that token in its text, BOS being 0."""
    tokens: Int[Tensor, "feature text"]
    """Id of that token."""
    density: Float[Tensor, " feature"]
    """Share of ordinary tokens on which each feature fires."""

    def top(self, feature: int, k: int) -> list[int]:
        """The texts that activate a feature most; fewer than k if it fires in fewer."""
        peaks = self.peaks[self.features.index(feature)]
        found = peaks.topk(min(k, len(peaks)))
        return found.indices[found.values > 0].tolist()

    def input_score(self, feature: int, written: Int[Tensor, " token"]) -> float:
        """Share of a feature's top texts whose strongest token is one that it also writes.

        NaN where it fires in fewer than 10 texts.

        Args:
            written: The tokens of its logit lens.

        Source: input score of Arad et al., arXiv:2505.20063, over at most 100 texts. Departure:
        tokens are compared by id, so that " good" is not "good".
        """
        top = self.top(feature, MOST)
        if len(top) < FEWEST:
            return float("nan")
        read = self.tokens[self.features.index(feature)][top]
        return float(torch.isin(read, written).float().mean())


@torch.no_grad()
def read_texts(
    model: Model,
    sae: SAE,
    features: Sequence[int],
    texts: Sequence[str],
    *,
    rows: int = 32,
    progress: bool = True,
) -> Reading:
    """Runs texts through the model and records where the features fire most.

    Special tokens and padding do not count, as in training.

    Raises:
        SAEError: If the SAE was not made for the model's stream.
    """
    model = as_model(model)
    sae.require_fits(model)
    sae.require_features(features)
    peaks, places, tokens = [], [], []
    fired, count = torch.zeros(len(features)), 0
    bar = progress_bar(progress, total=len(texts), desc="reading", unit="text")
    with bar:
        for start in range(0, len(texts), rows):
            batch = model.tokens(list(texts[start : start + rows]), padding_side="right")
            resid = model.cache(batch, [sae.site])[sae.site]
            found = sae.read(resid.float(), features).float()
            counted = ordinary(batch)
            found = found.masked_fill(~counted[..., None], 0.0)
            peak, place = found.max(1)
            peaks.append(peak.T.cpu())
            places.append(place.T.cpu())
            tokens.append(batch.tokens.gather(1, place).T.cpu())
            fired += (found > 0).sum((0, 1)).cpu()
            count += int(counted.sum())
            bar.update(len(batch))
    return Reading(
        tuple(features), torch.cat(peaks, 1), torch.cat(places, 1), torch.cat(tokens, 1),
        fired / max(1, count),
    )  # fmt: skip


@torch.no_grad()
def excerpts(model: Model, sae: SAE, feature: int, texts: Sequence[str]) -> list[Excerpt]:
    """These texts token by token, with the feature's activation at each (0 at special tokens)."""
    model = as_model(model)
    sae.require_fits(model)
    if not texts:
        return []
    batch = model.tokens(list(texts), padding_side="right")
    resid = model.cache(batch, [sae.site])[sae.site]
    found = sae.read(resid.float(), [feature])[..., 0].float()
    found = found.masked_fill(~ordinary(batch), 0.0)
    out = []
    for ids, values, real in zip(batch.tokens, found, batch.mask, strict=True):
        pieces = tuple(model.text([int(i)]) for i in ids[real])
        kept = values[real].tolist()
        out.append(Excerpt(pieces, tuple(kept), max(range(len(kept)), key=kept.__getitem__)))
    return out
