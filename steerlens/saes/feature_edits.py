"""Steering by the features of an SAE: add, clamp, ablate; one feature or several at once.

An edit changes activations from f to f' and adds to the stream what that changes in the decoded
one, h' = h + (f' - f) W_dec. What the SAE does not reconstruct stays as it is, so that steering
nothing changes nothing. The numbers are those of sae_lens's decode(f') + (h - decode(f)).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.models.model import Model
from steerlens.protocols import Hookable, Strength
from steerlens.saes.sae import SAE, SAEError
from steerlens.sites import Positions, Site

FeatureUnit = Literal["resid_norm", "max_activation", "activation"]


class _OfFeatures(ABC):
    """What all feature edits share: where they act, and how they are attached to a model."""

    sae: SAE
    positions: Positions
    _reads = True  # whether the step depends on the present activations

    @property
    def site(self) -> Site:
        return self.sae.site

    @property
    @abstractmethod
    def features(self) -> tuple[int, ...]:
        """Numbers of the features that are edited."""

    @abstractmethod
    def step(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        present: Float[Tensor, "#batch #pos feature"],
    ) -> Float[Tensor, "#batch #pos d_model"]:
        """What multiplier 1 adds to the stream, given the present activations of `features`."""

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        if self._reads:
            present = self.sae.read(resid, self.features)
        else:
            present = self.sae.W_dec.new_zeros(1, 1, len(self.features))
        step = self.step(resid, present)
        m = strength.to(step)[:, None, None] if isinstance(strength, Tensor) else float(strength)
        return resid + (m * step).to(resid.dtype)

    def require_fits(self, model: Model) -> None:
        """Raises SAEError if the SAE was not made for the model's stream."""
        self.sae.require_fits(model)

    def attach(self, model: Hookable, multiplier: Strength) -> AbstractContextManager[None]:
        """Steers the model until the `with` ends.

        Args:
            multiplier: One strength, or one per row of the batches that will be run.

        Raises:
            SAEError: If the SAE was not made for the model's stream.
        """
        if not isinstance(model, Model):
            raise TypeError(
                "Steering is attached to a steerlens Model, which knows where prompts end and "
                f"what is padding; got {type(model).__name__}. Wrap it once, model = "
                "Model(hooked), and run it through the Model inside the `with`."
            )
        self.require_fits(model)
        return model.hooked(self.site, self, self.positions, multiplier)


class _OneFeature(_OfFeatures):
    feature: int

    @property
    def features(self) -> tuple[int, ...]:
        return (self.feature,)

    def _write(self, change: Tensor, resid: Tensor) -> Tensor:
        """What a change of the activation adds to the stream."""
        return change * self.sae.W_dec[self.feature] * self.sae.scale(resid)

    @property
    def _maximum(self) -> float:
        maxima = self.sae.max_activation
        if maxima is None:
            raise SAEError(
                f"The largest activation of feature {self.feature} is not known: "
                f"{self.sae.name!r} does not state it. Measure it, "
                "sae = observe(sae, model, texts), or give the value in units of "
                "activation."
            )
        largest = float(maxima[self.feature])
        if largest == 0:
            raise SAEError(
                f"Feature {self.feature} of {self.sae.name!r} never fired on the tokens it "
                "was measured on, so its maximum is 0 and no unit of strength. Choose a feature "
                "that fires, or give the value in units of activation."
            )
        return largest


@dataclass(frozen=True, eq=False)
class AddFeature(_OneFeature):
    """Adds a feature's decoder row, whatever the feature does already.

    Departure from SAE steering as in arXiv:2411.02193: the default strength unit is a fraction of
    the median residual norm at the site, as in `Add`, so that features and directions compare.
    """

    sae: SAE
    feature: int
    positions: Positions = Positions.from_prompt_end()
    unit: FeatureUnit = "resid_norm"
    """What multiplier 1 adds: "resid_norm", the row made as long as the stream's median norm at
    the site; "max_activation", the feature's largest activation; "activation", 1 of activation."""
    _reads = False

    def __post_init__(self) -> None:
        self.sae.direction(self.feature)  # refuses unknown features and dead rows
        self.size  # noqa: B018 (raises where the unit is not known)

    @property
    def size(self) -> float:
        """Length in the stream of what multiplier 1 adds; with the other units, its activation."""
        if self.unit == "activation":
            return 1.0
        if self.unit == "max_activation":
            return self._maximum
        return self.sae.facts.require_resid_norm()

    def step(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        present: Float[Tensor, "#batch #pos feature"],
    ) -> Float[Tensor, "#batch #pos d_model"]:
        if self.unit == "resid_norm":
            row = self.sae.W_dec[self.feature]
            return (row * (self.size / row.norm()))[None, None]
        return self._write(torch.full_like(present, self.size), resid)


@dataclass(frozen=True, eq=False)
class ClampFeature(_OneFeature):
    """Sets a feature's activation: f' = f + multiplier · (target - f). At 1 it is at the target.

    The target is `times` the feature's largest activation, or `value`. The multiplier goes from
    the present activation to the target, so that 0 is the unsteered model, exactly.
    """

    sae: SAE
    feature: int
    times: float = 1.0
    positions: Positions = Positions.from_prompt_end()
    value: float | None = None
    """The target in units of activation; overrides `times`."""

    def __post_init__(self) -> None:
        self.sae.require_features((self.feature,))
        self.target  # noqa: B018 (raises where the maximum is not known)

    @property
    def target(self) -> float:
        """The activation at multiplier 1."""
        return self.times * self._maximum if self.value is None else self.value

    def step(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        present: Float[Tensor, "#batch #pos feature"],
    ) -> Float[Tensor, "#batch #pos d_model"]:
        return self._write(self.target - present, resid)


@dataclass(frozen=True, eq=False)
class AblateFeature(_OneFeature):
    """Takes a feature out of the stream: f' = (1 - multiplier) · f. At 1 it is off."""

    sae: SAE
    feature: int
    positions: Positions = Positions.from_prompt_end()

    def __post_init__(self) -> None:
        self.sae.require_features((self.feature,))

    def step(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        present: Float[Tensor, "#batch #pos feature"],
    ) -> Float[Tensor, "#batch #pos d_model"]:
        return self._write(-present, resid)


FeatureEdit = AddFeature | ClampFeature | AblateFeature


@dataclass(frozen=True, eq=False)
class EditFeatures(_OfFeatures):
    """Several edits by one SAE at once: all read the same, unedited stream.

    `Together` would apply them one after the other, each reading what the one before it left.
    """

    edits: tuple[FeatureEdit, ...]

    def __post_init__(self) -> None:
        if not self.edits:
            raise SAEError("EditFeatures(()) would steer nothing. Pass edits.")
        for edit in self.edits:
            if edit.sae is not self.sae or edit.positions != self.positions:
                raise SAEError(
                    "EditFeatures takes edits of one SAE at the same positions; these are of "
                    f"{self.sae!r} at {self.positions} and of {edit.sae!r} at "
                    f"{edit.positions}. Use Together((…)), or attach one inside the other."
                )
        for feature in self.features:
            if self.features.count(feature) > 1:
                raise SAEError(
                    f"Feature {feature} is edited twice. Give one edit for each feature."
                )

    @property
    def sae(self) -> SAE:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.edits[0].sae

    @property
    def positions(self) -> Positions:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.edits[0].positions

    @property
    def _reads(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return any(edit._reads for edit in self.edits)

    @property
    def features(self) -> tuple[int, ...]:
        return tuple(edit.feature for edit in self.edits)

    def step(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        present: Float[Tensor, "#batch #pos feature"],
    ) -> Float[Tensor, "#batch #pos d_model"]:
        steps = [edit.step(resid, present[..., [i]]) for i, edit in enumerate(self.edits)]
        return sum(steps[1:], steps[0])
