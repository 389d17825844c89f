"""SAE-TS: steering by the effect that is wanted on the features of the written text.

The effect of many vectors on the features of the texts that are written under them is fitted by a
linear map. Its inverse use is the vector that should raise one feature and leave the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from threadpoolctl import threadpool_limits
from torch import Tensor

from steerlens.analyses.features.effect_map import EffectMap
from steerlens.analyses.features.feature_texts import text_features
from steerlens.analyses.features.rank_features import alive
from steerlens.models.model import Model, as_model
from steerlens.saes.sae import SAE
from steerlens.sites import Positions

ALPHAS = tuple(10.0**k for k in range(-4, 3))
"""Ridge penalties that are tried: from far below to far above the squared length of a unit vector."""
FOLDS = 5
LEAST = 2 * FOLDS
"""The smallest number of vectors from which a map is fitted."""


def fit_effects(
    model: Model,
    sae: SAE,
    prompts: Sequence[str],
    *,
    length: float | None = None,
    vectors: int = 256,
    new_tokens: int = 16,
    temperature: float = 1.0,
    positions: Positions | None = None,
    seed: int = 0,
    rows: int = 256,
    progress: bool = True,
) -> EffectMap:
    """Fits, from steered texts, what adding a vector does to every feature of the text.

    Args:
        prompts: What is continued, e.g. `openings` of ordinary texts; 48 or more of them, since
            the features of one sampled text are noisy.
        length: Of the vectors that are added, in the units of the stream; by default the stream's
            median norm.
        vectors: How many decoder rows are tried, drawn at random from the living features.
        new_tokens: Tokens written after each prompt.
        rows: Texts of a batch.

    Raises:
        ValueError: With fewer than 10 vectors, or if nothing was written under one of them.
        SAEError: If the SAE does not fit the model, or states no median norm and no length is
            given.

    Source: SAE-TS, Chalnev et al., arXiv:2411.02193. Departures: ridge regression with a penalty
    chosen by leave-one-out instead of Adam; vectors of one length instead of one loss; fewer
    vectors and texts, at temperature 1, which end where the model ends them; features are read at
    the written tokens only, not at the prompt's.
    """
    model = as_model(model)
    living = alive(sae)
    count = min(vectors, len(living))
    if count < LEAST:
        raise ValueError(
            f"{count} vectors are too few to learn an effect map from: at least {LEAST} are "
            f"needed ({len(living)} features are alive). Raise vectors=…, or take a larger SAE."
        )
    size = length or sae.facts.require_resid_norm()
    generator = torch.Generator().manual_seed(seed)
    chosen = [living[i] for i in torch.randperm(len(living), generator=generator)[:count].tolist()]
    units = sae.W_dec[chosen].float().cpu()
    units = units / units.norm(dim=-1, keepdim=True)

    def written(vectors: Tensor) -> Iterator[Tensor]:
        return text_features(
            model, sae, vectors, prompts, new_tokens=new_tokens, temperature=temperature,
            positions=positions, seed=seed, rows=rows, progress=progress and len(vectors) > 1,
        )  # fmt: skip

    unsteered = next(written(torch.zeros(1, sae.d_model)))
    # A prompt after which nothing is written under a vector does not count for it.
    effects = torch.cat([(part - unsteered).nanmean(1) for part in written(size * units)])
    return _fitted(
        sae, units, effects, size,
        {
            **model.facts,
            "sae": sae.name,
            "vectors": count,
            "prompts": len(prompts),
            "new_tokens": new_tokens,
            "temperature": temperature,
            "seed": seed,
        },
    )  # fmt: skip


def _fitted(
    sae: SAE,
    units: Float[Tensor, "edit d_model"],
    effects: Float[Tensor, "edit d_sae"],
    length: float,
    made_by: dict[str, Any],
) -> EffectMap:
    if not bool(torch.isfinite(effects).all()):
        raise ValueError(
            "Under some vector nothing was written after any prompt, so its effect is not known. "
            "Give prompts that are continued, or a smaller length."
        )
    # Imported here: every start of the package would wait for it.
    from sklearn.linear_model import Ridge, RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict

    x, y = units.double().numpy(), effects.double().numpy()
    with threadpool_limits(1):
        chosen: Any = RidgeCV(ALPHAS).fit(x, y)
        alpha = float(chosen.alpha_)
        fitted = Ridge(alpha).fit(x, y)
        folds = KFold(FOLDS, shuffle=True, random_state=0)
        predicted = cross_val_predict(Ridge(alpha), x, y, cv=folds)
    spread = np.square(y - y.mean(0)).sum(0)
    missed = np.square(y - predicted).sum(0)
    explained = 1 - np.divide(missed, spread, out=np.ones_like(missed), where=spread > 0)
    return EffectMap(
        sae=sae.facts,
        sae_hash=sae.hash,
        weights=torch.from_numpy(fitted.coef_.T.copy()).float(),
        bias=torch.from_numpy(np.atleast_1d(fitted.intercept_)).float(),
        explained=torch.from_numpy(explained).float(),
        length=length,
        alpha=alpha,
        made_by=made_by,
    )
