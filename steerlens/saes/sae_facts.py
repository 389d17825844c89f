"""What an SAE states of itself: where it reads, in which basis, and of which model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from steerlens.directions import Direction, DirectionError
from steerlens.directions.basis import CENTRED, is_centred
from steerlens.models.checkpoints.hub import official_name
from steerlens.models.model import Model
from steerlens.saes.sae_errors import SAEError
from steerlens.sites import Site


@dataclass(frozen=True)
class SAEFacts:
    """An SAE without its weights: enough to know which model it fits, and to make directions."""

    name: str
    """Release and id, or the folder."""
    site: Site
    d_model: int
    d_sae: int
    model: str
    """Name of the model it was trained on; "" if not stated."""
    processing: str | None
    """Weight processing of that model ("raw", …); None if not stated."""
    fingerprint: str
    """Content hash of that model's weights; "" if not stated."""
    resid_norm: float | None
    """Median norm of the stream at the site, if it was measured: the strength unit."""

    def __str__(self) -> str:
        return (
            f"{self.name!r}: {self.d_sae} features at {self.site} of "
            f"{self.model or 'an unnamed model'}"
        )

    def direction(self, vector: Float[Tensor, " d_model"], method: str) -> Direction:
        """A vector at the SAE's site, with everything that is known of the stream there.

        Args:
            method: How the vector was found.
        """
        return Direction(
            vector,
            self.site,
            method=method,
            resid_norm=self.resid_norm,
            processing=self.processing,
            model=self.model,
            fingerprint=self.fingerprint,
        )

    def require_resid_norm(self) -> float:
        """The median norm of the stream; raises SAEError if it is not stated."""
        if self.resid_norm is None:
            raise SAEError(
                f"{self.name!r} does not state the median norm of the stream, so there is no unit "
                "of strength. Measure it: sae = observe(sae, model, texts)."
            )
        return self.resid_norm

    def require_features(self, features: Sequence[int]) -> None:
        """Raises SAEError for numbers that are not features of this SAE."""
        for feature in features:
            if isinstance(feature, bool) or not isinstance(feature, int):
                raise SAEError(
                    f"feature={feature!r} is not the number of a feature. Give an int from 0 to "
                    f"{self.d_sae - 1}."
                )
            if not 0 <= feature < self.d_sae:
                raise SAEError(
                    f"{self.name!r} has no feature {feature}; its {self.d_sae} features are "
                    f"numbered 0-{self.d_sae - 1}."
                )

    def require_fits(self, model: Model) -> None:
        """Raises SAEError if the SAE was not made for this model's stream."""
        name = f"{self.name!r}"
        trained_on = f"{name} was trained on {self.model or 'an unnamed model'}"
        if self.d_model != model.d_model:
            raise SAEError(
                f"{name} reads a stream of width {self.d_model} and {model.name!r} has "
                f"d_model={model.d_model}. {trained_on}; load an SAE of this model."
            )
        if not _may_be_one(self.model, model.name):
            raise SAEError(
                f"{trained_on}, and this is {model.name!r}. Load an SAE of this model; or, to use "
                "it all the same (a base model's SAE on its chat model), write "
                "dataclasses.replace(sae, model='')."
            )
        try:
            model.require_site(self.site)
        except ValueError as error:
            raise SAEError(
                f"{name} is at {self.site}, where {model.name!r} cannot be steered: {error}"
            ) from error
        if self.processing is not None and not _same_basis(self.processing, model):
            raise SAEError(
                f"{trained_on} with {self.processing!r} weights, and {model.name!r} has "
                f"{model.processing!r} weights: the residual bases differ. "
                f"{_how_to_load(self.processing)}"
            )
        if not self.fingerprint or self.processing != model.processing:
            return  # other processing has another fingerprint, although the stream may be the same
        if self.fingerprint != (found := model.fingerprint):
            raise SAEError(
                f"{trained_on} with fingerprint {self.fingerprint}, and {model.name!r} has "
                f"{found}: other weights, another precision, or another wrapper (HookedTransformer "
                "or TransformerBridge). Load the model that it was trained on; or, if you know "
                "that only precision or wrapper differ, dataclasses.replace(sae, fingerprint='')."
            )


def _same_basis(processing: str, model: Model) -> bool:
    """Whether a stream is the same under both processings: only centring changes it."""
    if model.cfg.normalization_type not in ("LN", "LNPre"):
        return True  # weights are only centred where the norm subtracts the mean
    try:
        return is_centred(processing) == is_centred(model.processing)
    except DirectionError:  # a bridge in compatibility mode does not say
        return processing == model.processing


def _may_be_one(one: str, other: str) -> bool:
    """Whether two names can be of one model: not if TransformerLens knows both, as different."""
    names = [official_name(name) for name in (one, other)]
    return None in names or names[0] == names[1]


def _how_to_load(processing: str) -> str:
    if CENTRED in processing:
        return (
            "Load the model centred: Model(HookedTransformer.from_pretrained_no_processing(name, "
            "center_writing_weights=True))."
        )
    return "Load the model without processing: Model.load(name)."
