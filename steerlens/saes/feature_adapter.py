"""A trained adapter that changes the activations of an SAE's features (FSRL)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import SupportsFloat

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.arguments import ArgumentError, as_float
from steerlens.forms.form import Parameters, require_parameters, zeros
from steerlens.forms.stream_edits import OfWholeTexts
from steerlens.interventions.changes import Composed
from steerlens.interventions.composition import EditAtSite
from steerlens.interventions.residual import like_stream, per_row
from steerlens.models.model import Model
from steerlens.protocols import Strength
from steerlens.saes.sae import SAE, SAEError
from steerlens.sites import Positions, Site, as_positions

TEXTS = 16
"""Texts read at once."""


@dataclass(frozen=True)
class FeatureAdapter:
    """An adapter that reads the stream and changes the activations f of an SAE's features.

        z  = W x + b                              x as the SAE's encoder reads it
        v  = z - τ sign(z) where |z| ≥ τ, else 0
        h' = h + m · (f' - f) W_dec               f' - f = max(v, -max(f, 0))

    W, b and τ ≥ 0 are trained; the SAE is not, and what it misses of the stream is kept. No activation
    is pushed below 0, so a negative v matters only where a feature is active. While it is trained,
    `sparsity` times the mean of ‖v‖₁ over the chosen tokens is added to the loss.
    `feature_changes` says which features a trained adapter changes in some texts.

    Train it for a preference, e.g. ``Trainer(SimPO()).fit(FeatureAdapter("reviews/5"), …)``.

    Source: FSRL, arXiv:2509.12934 and `Jazhyc/feature-steering-RL`. Departures: W, b and τ start at 0,
    where v is exactly 0, instead of within 1e-6 of it; no gradient passes through the encoder.

    Raises:
        SAEError: If there is no such SAE, or it is not the one that `hash` states.
    """

    source: str
    """As of `SAE.load`: a folder, "reviews/<layer>", or a published release."""
    sae_id: str | None = None
    """Which SAE of a release."""
    positions: Positions = Positions.all()
    sparsity: float = 0.1
    """λ of the penalty on v, in nats per unit of activation. The authors' settings have .01 and .1."""
    only: tuple[int, ...] | None = None
    """The features that are changed; None for all. In a trained adapter it masks the others."""
    hash: str = ""
    """Content hash of the SAE; "" for that of the SAE which `source` holds now."""
    rate: float = 1e-3

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", str(self.source))
        object.__setattr__(self, "positions", as_positions(self.positions))
        sparsity: SupportsFloat = self.sparsity
        object.__setattr__(self, "sparsity", as_float("sparsity", sparsity))
        if self.sparsity < 0:
            raise ArgumentError(
                f"sparsity={self.sparsity} would reward large changes. Give 0 or more."
            )
        sae = SAE.load(self.source, self.sae_id)
        if self.only is not None:
            object.__setattr__(self, "only", tuple(self.only))
            sae.require_features(self.only)
        if self.hash not in ("", sae.hash):
            raise SAEError(
                f"{self.source!r} holds an SAE with the hash {sae.hash}, and the adapter is of one "
                f"with {self.hash}. Put that SAE there, or train again."
            )
        object.__setattr__(self, "hash", sae.hash)
        self.__dict__["_sae"] = sae

    @property
    def sae(self) -> SAE:
        """The SAE whose features are changed."""
        return self.__dict__["_sae"]

    @property
    def site(self) -> Site:
        """That of the SAE."""
        return self.sae.site

    def _shapes(self, model: Model) -> dict[str, tuple[int, ...]]:
        own = (self.sae.d_sae,)
        return {"read": (self.sae.d_sae, model.d_model), "offset": own, "threshold": own}

    def begin(self, model: Model, generator: torch.Generator) -> Parameters:
        """Zeros, at which no feature is changed.

        Raises:
            SAEError: If the SAE was not made for the model's stream.
        """
        self._on(model).require_fits(model)
        return {name: zeros(shape, model) for name, shape in self._shapes(model).items()}

    def intervention(self, model: Model, params: Parameters) -> Composed:
        """The adapter as an edit; while it is trained, one that notes how large v is."""
        require_parameters(self, params, self._shapes(model))
        noted = params["read"].requires_grad and torch.is_grad_enabled()
        kind = NotedFeatureChange if noted else FeatureChange
        edit = kind(self._on(model), *self._tensors(params), self._kept(model))
        return EditAtSite(self.site, edit, self.positions, repr(self))

    def penalty(self, intervention: Composed) -> Float[Tensor, ""]:
        """`sparsity` times the mean of ‖v‖₁ over all tokens that the intervention has edited."""
        assert isinstance(intervention, EditAtSite)
        assert isinstance(intervention.edit, NotedFeatureChange)
        return self.sparsity * intervention.edit.mean_size

    def after_step(self, params: Parameters) -> None:
        """Keeps thresholds at 0 or more."""
        with torch.no_grad():
            params["threshold"].clamp_(min=0)

    @torch.no_grad()
    def feature_changes(
        self, model: Model, params: Parameters, texts: Sequence[str]
    ) -> Float[Tensor, "token d_sae"]:
        """What multiplier 1 adds to each feature's activation, at all chosen tokens of some texts."""
        edit = FeatureChange(self._on(model), *self._tensors(params), self._kept(model))
        found = []
        for k in range(0, len(texts), TEXTS):
            batch = model.tokens(list(texts[k : k + TEXTS]))
            stream = model.cache(batch, [self.site])[self.site]
            found.append(edit.change(stream)[1][self.positions.mask(batch)])
        return torch.cat(found)

    @staticmethod
    def _tensors(params: Parameters) -> tuple[Tensor, Tensor, Tensor]:
        return params["read"], params["offset"], params["threshold"]

    def _on(self, model: Model) -> SAE:
        return self.sae if self.sae.device == model.device else self.sae.to(model.device)

    def _kept(self, model: Model) -> Bool[Tensor, " d_sae"] | None:
        if self.only is None:
            return None
        kept = torch.zeros(self.sae.d_sae, dtype=torch.bool, device=model.device)
        kept[list(self.only)] = True
        return kept


@dataclass(frozen=True, eq=False)
class FeatureChange:
    """h' = h + strength · (f' - f) W_dec, where an adapter says what f' is."""

    sae: SAE
    read: Float[Tensor, "d_sae d_model"]
    offset: Float[Tensor, " d_sae"]
    threshold: Float[Tensor, " d_sae"]
    kept: Bool[Tensor, " d_sae"] | None = None
    """The features that are changed; None for all."""

    @property
    def d_model(self) -> int:
        return self.sae.d_model

    def change(
        self, resid: Float[Tensor, "*tokens d_model"]
    ) -> tuple[Float[Tensor, "*tokens d_sae"], Float[Tensor, "*tokens d_sae"]]:
        """v, and f' - f."""
        with torch.no_grad():
            present = self.sae.encode(resid)
        x = self.sae.encoder_input(resid)
        z = F.linear(x, like_stream(self.read, x), like_stream(self.offset, x))
        threshold = like_stream(self.threshold, x)
        v = torch.where(z.abs() >= threshold, z - threshold * z.sign(), torch.zeros_like(z))
        if self.kept is not None:
            v = v * self.kept
        return v, torch.clamp(v, min=-present.clamp(min=0))

    def _added(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength, change: Tensor
    ) -> Float[Tensor, "batch pos d_model"]:
        step = change @ self.sae.W_dec.to(change) * self.sae.scale(resid)
        return resid + per_row(strength, resid) * step.to(resid)

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        return self._added(resid, strength, self.change(resid)[1])


@dataclass(frozen=True, eq=False)
class NotedFeatureChange(OfWholeTexts, FeatureChange):
    """The same while it is trained: a `TextEdit` that notes v at the tokens that are edited."""

    _sums: list[Float[Tensor, ""]] = field(default_factory=list, init=False)
    _counts: list[int] = field(default_factory=list, init=False)

    @property
    def mean_size(self) -> Float[Tensor, ""]:
        """The mean of ‖v‖₁ over all tokens that were edited so far, in units of activation."""
        if not self._sums:
            return self.read.new_zeros(())
        return torch.stack(self._sums).sum() / max(1, sum(self._counts))

    def of_texts(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        strength: Strength,
        chosen: Bool[Tensor, "batch pos"],
    ) -> Float[Tensor, "batch pos d_model"]:
        """The edit; only what it gives at the chosen tokens is taken, and noted."""
        v, change = self.change(resid)
        self._sums.append((v.abs().sum(-1) * chosen).sum())
        self._counts.append(int(chosen.sum()))
        return self._added(resid, strength, change)
