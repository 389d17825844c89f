"""SAE-TS: steering by the effect that is wanted.

What many vectors do to the features of the texts that are written under them is learnt, and turned
round: which vector should raise one feature and leave the others?
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from threadpoolctl import threadpool_limits
from torch import Tensor

from steerlens.analyses.features.feature_texts import in_chunks
from steerlens.analyses.features.rank_features import alive
from steerlens.directions import Direction
from steerlens.models.model import Model, as_model
from steerlens.saes.sae import SAE, SAEError
from steerlens.sites import Positions
from steerlens.store import result_files as files

ALPHAS = tuple(10.0**k for k in range(-4, 3))
"""Ridge penalties that are tried: about the squared length of a unit vector, and far from it."""
FOLDS = 5
LEAST = 2 * FOLDS
"""Vectors without which nothing can be learnt."""


@dataclass(frozen=True, eq=False)
class EffectMap:
    """A linear guess of what adding a unit vector does to every feature of the text.

    Source: SAE-TS, Chalnev et al., arXiv:2411.02193.
    """

    sae: SAE
    weights: Float[Tensor, "d_model d_sae"]
    bias: Float[Tensor, " d_sae"]
    """What any vector of the same length does, whatever its direction."""
    explained: Float[Tensor, " d_sae"]
    """Share of the variance of each feature's effect that is guessed for vectors left out; below 0
    where the guess is worse than the mean."""
    length: float
    """Length of the vectors that were added, in the units of the stream."""
    alpha: float
    """Penalty of the ridge regression."""
    made_by: dict[str, Any]

    def predict(self, vector: Float[Tensor, " d_model"]) -> Float[Tensor, " d_sae"]:
        """The guessed change of every feature's mean activation, for a vector of any length.

        It is guessed for that direction at `length`.
        """
        unit = (vector / vector.norm()).to(self.weights)
        return unit @ self.weights + self.bias

    def direction(self, feature: int) -> Direction:
        """The unit vector that should raise one feature of the text and leave the others.

        s = unit( W e_j / ‖W e_j‖ - W b / ‖W b‖ ).

        Raises:
            SAEError: If no vector was seen to move that feature.
        """
        self.sae.require_features((feature,))
        towards = self.weights[:, feature]
        if not bool(towards.any()):
            raise SAEError(
                f"No vector moved feature {feature} of {self.sae.name!r} in the texts that "
                "the effect map was fitted on, so there is nothing to aim at. Fit it on more "
                "prompts, longer texts or longer vectors, or choose a feature that fires in them."
            )
        common = self.weights @ self.bias
        vector = towards / towards.norm()
        if bool(common.any()):
            vector = vector - common / common.norm()
        made = self.sae
        return Direction(
            vector / vector.norm(),
            made.site,
            method=f"SAE-TS of feature {feature} of {made.name}",
            resid_norm=made.resid_norm,
            processing=made.processing,
            model=made.model,
            fingerprint=made.fingerprint,
        )

    def save(self, directory: Path | str) -> Path:
        """Writes effect_map.safetensors and effect_map.json into a folder."""
        tensors = {"weights": self.weights, "bias": self.bias, "explained": self.explained}
        return files.save(
            Path(directory), "effect_map", tensors, (self.sae.site,), self.made_by,
            length=self.length, alpha=self.alpha,
        )  # fmt: skip

    @classmethod
    def load(cls, directory: Path | str, sae: SAE) -> EffectMap:
        """Reads what `save` wrote, for the SAE that it was fitted for.

        Raises:
            SAEError: If it was fitted for another one.
        """
        tensors, sites, made_by = files.load(Path(directory), "effect_map")
        extra = made_by.pop("_extra")
        shape = sae.d_model, sae.d_sae
        if sites != (sae.site,) or tuple(tensors["weights"].shape) != shape:
            raise SAEError(
                f"The effect map in {directory} was fitted for {made_by.get('sae')!r} at "
                f"{sites[0]}, not for {sae!r}. Fit one: fit_effects(model, sae, …)."
            )
        return cls(sae=sae, made_by=made_by, **tensors, **extra)


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
    """Learns from steered texts what adding a vector does to every feature of the text.

    Args:
        prompts: What is continued, e.g. `openings` of ordinary texts; 48 or more of them, since
            what a sampled text holds is noisy.
        length: Of the vectors that are added, in the units of the stream; by default the stream's
            median norm.
        vectors: How many decoder rows are tried, drawn at random from the living features.
        new_tokens: Tokens written after each prompt.

    Raises:
        ValueError: With fewer vectors than folds.

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
    size = length or sae.resid_norm
    if size is None:
        raise SAEError(
            f"{sae.name!r} does not state the stream's median norm, so it is not known how "
            "long a vector should be. Give length=…, or observe(sae, model, texts) first."
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = [living[i] for i in torch.randperm(len(living), generator=generator)[:count].tolist()]
    units = sae.W_dec[chosen].float().cpu()
    units = units / units.norm(dim=-1, keepdim=True)

    def written(vectors: Tensor) -> Iterator[Tensor]:
        return in_chunks(
            model, sae, vectors, prompts, new_tokens, temperature, positions, seed, rows,
            progress and len(vectors) > 1,
        )  # fmt: skip

    unsteered = next(written(torch.zeros(1, sae.d_model)))
    # A prompt after which a vector writes nothing says nothing of it.
    effects = torch.cat([(part - unsteered).nanmean(1) for part in written(size * units)])
    return _fitted(
        sae, units, effects, size,
        {
            "sae": sae.name,
            "model": model.name,
            "fingerprint": model.fingerprint,
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
    x, y = units.double().numpy(), effects.double().numpy()
    with threadpool_limits(1):
        chosen: Any = RidgeCV(ALPHAS).fit(x, y)
        alpha = float(chosen.alpha_)
        fitted = Ridge(alpha).fit(x, y)
        folds = KFold(FOLDS, shuffle=True, random_state=0)
        guessed = cross_val_predict(Ridge(alpha), x, y, cv=folds)
    spread = np.square(y - y.mean(0)).sum(0)
    missed = np.square(y - guessed).sum(0)
    explained = 1 - np.divide(missed, spread, out=np.ones_like(missed), where=spread > 0)
    return EffectMap(
        sae=sae,
        weights=torch.from_numpy(fitted.coef_.T.copy()).float(),
        bias=torch.from_numpy(np.atleast_1d(fitted.intercept_)).float(),
        explained=torch.from_numpy(explained).float(),
        length=length,
        alpha=alpha,
        made_by=made_by,
    )
