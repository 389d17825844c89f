"""Whether an SAE was made for a model's stream, and what to do where it was not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerlens.directions import DirectionError
from steerlens.directions.basis import CENTRED, is_centred
from steerlens.models.checkpoints.hub import official_name
from steerlens.models.model import Model
from steerlens.saes.errors import DictionaryError

if TYPE_CHECKING:
    from steerlens.saes.dictionary import Dictionary


def require_fits(dictionary: Dictionary, model: Model) -> None:
    """Raises DictionaryError if the SAE was not made for this model's stream."""
    name = f"{dictionary.name!r}"
    trained_on = f"{name} was trained on {dictionary.model or 'an unnamed model'}"
    if dictionary.d_model != model.d_model:
        raise DictionaryError(
            f"{name} reads a stream of width {dictionary.d_model} and {model.name!r} has "
            f"d_model={model.d_model}. {trained_on}; load an SAE of this model."
        )
    if not _may_be_one(dictionary.model, model.name):
        raise DictionaryError(
            f"{trained_on}, and this is {model.name!r}. Load an SAE of this model; or, if it is "
            "meant (a base model's SAE on its chat model), dataclasses.replace(dictionary, "
            "model='')."
        )
    try:
        model.require_site(dictionary.site)
    except ValueError as error:
        raise DictionaryError(
            f"{name} sits at {dictionary.site}, where {model.name!r} cannot be steered: {error}"
        ) from error
    if dictionary.processing is not None and not _same_basis(dictionary.processing, model):
        raise DictionaryError(
            f"{trained_on} with {dictionary.processing!r} weights, and {model.name!r} has "
            f"{model.processing!r} weights: the residual bases differ. "
            f"{_how_to_load(dictionary.processing)}"
        )
    if dictionary.device != model.device:
        raise DictionaryError(
            f"{name} is on {dictionary.device} and {model.name!r} on {model.device}. "
            "Write dictionary.to(model.device)."
        )
    if not dictionary.fingerprint or dictionary.processing != model.processing:
        return  # other processing has another fingerprint, although the stream may be the same
    if dictionary.fingerprint != (found := model.fingerprint):
        raise DictionaryError(
            f"{trained_on} with fingerprint {dictionary.fingerprint}, and {model.name!r} has "
            f"{found}: other weights, another precision, or another wrapper (HookedTransformer or "
            "TransformerBridge). Load the model that it was trained on; or, if you know that only "
            "precision or wrapper differ, dataclasses.replace(dictionary, fingerprint='')."
        )


def _same_basis(processing: str, model: Model) -> bool:
    """Whether a stream is the same under both processings: centring alone changes it."""
    if model.cfg.normalization_type not in ("LN", "LNPre"):
        return True  # nothing is centred where the norm does not take the mean away
    try:
        return is_centred(processing) == is_centred(model.processing)
    except DirectionError:  # a bridge in compatibility mode does not say
        return processing == model.processing


def _may_be_one(one: str, other: str) -> bool:
    """Whether two names can be of one model: not if TransformerLens knows both, as different."""
    names = [official_name(name) for name in (one, other)]
    return not all(known for known, _ in names) or names[0] == names[1]


def _how_to_load(processing: str) -> str:
    if CENTRED in processing:
        return (
            "Load the model centred: Model(HookedTransformer.from_pretrained_no_processing(name, "
            "center_writing_weights=True))."
        )
    return "Load the model without processing: Model.load(name)."
