"""A linear map from added vectors to the features of the text that is written under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from steerlens.directions import Direction
from steerlens.results import Column, Result
from steerlens.saes.sae import SAE
from steerlens.saes.sae_errors import SAEError
from steerlens.saes.sae_facts import SAEFacts
from steerlens.sites import Site


@dataclass(frozen=True, eq=False, repr=False)
class EffectMap(Result):
    """A linear prediction of what adding a unit vector does to every feature of the text.

    Source: SAE-TS, Chalnev et al., arXiv:2411.02193.
    """

    kind: ClassVar[str] = "effect_map"

    sae: SAEFacts
    """The SAE whose features are predicted."""
    sae_hash: str
    """Content hash of that SAE."""
    weights: Float[Tensor, "d_model d_sae"]
    bias: Float[Tensor, " d_sae"]
    """What any vector of the same length does, whatever its direction."""
    explained: Float[Tensor, " d_sae"]
    """Share of the variance of each feature's effect that is predicted for vectors left out; below
    0 where the prediction is worse than the mean."""
    length: float
    """Length of the vectors that were added, in the units of the stream."""
    alpha: float
    """Penalty of the ridge regression."""
    made_by: dict[str, Any] = field(default_factory=dict)

    @property
    def site(self) -> Site:
        """Where the vectors are added, and the features read."""
        return self.sae.site

    @property
    def digest(self) -> str:
        """Content hash of what it predicts."""
        found = sha256(self.sae_hash.encode())
        for array in (self.weights, self.bias, self.explained):
            found.update(array.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:32]

    def predict(self, vector: Float[Tensor, " d_model"]) -> Float[Tensor, " d_sae"]:
        """The predicted change of every feature's mean activation.

        Args:
            vector: Only its direction counts: the prediction is for a vector of `length`.
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
                f"No vector moved feature {feature} of {self.sae.name!r} in the texts that the "
                "effect map was fitted on, so no vector can be found that raises it. Fit the map "
                "on more prompts, longer texts or longer vectors, or choose a feature that fires "
                "in them."
            )
        common = self.weights @ self.bias
        vector = towards / towards.norm()
        if bool(common.any()):
            vector = vector - common / common.norm()
        method = f"SAE-TS of feature {feature} of {self.sae.name}"
        return self.sae.direction(vector / vector.norm(), method)

    def require_fitted_for(self, sae: SAE) -> None:
        """Raises SAEError if the map was fitted for another SAE."""
        if self.site != sae.site or self.sae_hash != sae.hash:
            raise SAEError(
                f"The effect map was fitted for {self.sae}, not for {sae!r}. Fit one for this SAE: "
                "fit_effects(model, sae, …)."
            )

    def columns(self) -> Sequence[Column]:
        """The bias and the explained variance of every feature."""
        axes = ("feature",)
        return [Column("bias", axes, self.bias), Column("explained", axes, self.explained)]

    def summary(self) -> str:
        """What was fitted, and how well it predicts."""
        shares = self.explained.double()
        low, middle, high = (float(shares.quantile(q)) for q in (0.05, 0.5, 0.95))
        return (
            f"Effect map of {self.sae}\n"
            f"  explained variance of an effect on vectors left out: median {middle:.2g} over "
            f"features (5% below {low:.2g}, 5% above {high:.2g})\n"
            f"  fitted on {self.made_by.get('vectors', '?')} vectors of length {self.length:.3g} "
            f"and {self.made_by.get('prompts', '?')} prompts"
        )
