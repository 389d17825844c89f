"""A sparse autoencoder with what is needed to steer by it: site, basis and strength units."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.directions import Direction
from steerlens.models.model import Model
from steerlens.saes.sae_config import (
    FACTS,
    processing_of,
    require_steerable,
    require_trained,
    site_of,
)
from steerlens.saes.sae_errors import SAEError as SAEError
from steerlens.saes.sae_facts import SAEFacts
from steerlens.saes.sae_folders import read_folder, shipped, write_folder
from steerlens.sites import Site
from steerlens.store.files import expanded

_UNFOLDED = ("expected_average_only_in", "covariance_whitening")


@dataclass(frozen=True, eq=False)
class SAE:
    """A trained SAE at a site of the residual stream: its features, and how to read and write them.

    Everything it computes is sae_lens's own arithmetic. The activations of one token depend on
    that token's vector alone.
    """

    wrapped: Any
    """A sae_lens `SAE` for inference, in evaluation mode."""
    site: Site
    name: str = ""
    """Release and id, or the folder."""
    processing: str | None = None
    """Weight processing of the model it was trained on ("raw", …); None if not stated."""
    model: str = ""
    fingerprint: str = ""
    """Content hash of the weights of the model it was trained on; "" if not stated."""
    max_activation: Float[Tensor, " d_sae"] | None = None
    """Largest activation of each feature on the tokens it was measured on."""
    resid_norm: float | None = None
    """Median norm of the stream at the site on those tokens: the strength unit."""

    def __post_init__(self) -> None:
        require_trained(self.wrapped)
        require_steerable(self.wrapped.cfg)
        if self.max_activation is not None and len(self.max_activation) != self.d_sae:
            raise SAEError(
                f"{len(self.max_activation)} largest activations for {self.d_sae} features of "
                f"{self.name!r}. Give one per feature."
            )

    # What it is

    @property
    def d_model(self) -> int:
        return self.wrapped.cfg.d_in

    @property
    def d_sae(self) -> int:
        return self.wrapped.cfg.d_sae

    @property
    def architecture(self) -> str:
        """sae_lens's name for the encoder: "topk", "jumprelu", …"""
        return self.wrapped.cfg.architecture()

    @property
    def device(self) -> torch.device:
        return self.wrapped.W_dec.device

    @cached_property
    def W_dec(self) -> Float[Tensor, "d_sae d_model"]:
        """What one unit of each feature's activation adds to the stream, not normalised.

        In an SAE that normalises each token, to the normalised stream: see `scale`.
        """
        weights = self.wrapped.W_dec.detach()
        if getattr(self.wrapped.cfg, "rescale_acts_by_decoder_norm", False):
            return weights / weights.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return weights

    @cached_property
    def hash(self) -> str:
        """Content hash of weights and settings: two SAEs of one name may differ."""
        config = {
            k: v for k, v in self.wrapped.cfg.to_dict().items() if k not in ("device", "metadata")
        }
        found = sha256(json.dumps(config, sort_keys=True, default=str).encode())
        for name, value in sorted(self.wrapped.state_dict().items()):
            found.update(name.encode())
            found.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:32]

    def to(self, device: torch.device | str) -> SAE:
        """The same SAE on another device."""
        moved = copy.deepcopy(self.wrapped).to(torch.device(device))
        maxima = self.max_activation
        return replace(
            self, wrapped=moved, max_activation=None if maxima is None else maxima.to(device)
        )

    # Reading and writing

    def encode(self, resid: Float[Tensor, "*tokens d_model"]) -> Float[Tensor, "*tokens d_sae"]:
        """Activations of all features, in the SAE's own precision."""
        self._require_stream(resid)
        features = self.wrapped.encode(self._flat(resid))
        self._forget_scale()
        return features.reshape(*resid.shape[:-1], self.d_sae)

    def encoder_input(
        self, resid: Float[Tensor, "*tokens d_model"]
    ) -> Float[Tensor, "*tokens d_model"]:
        """What the encoder's matrix reads of the stream: centred or normalised as the SAE does it."""
        self._require_stream(resid)
        x = self.wrapped.process_sae_in(self._flat(resid))
        self._forget_scale()
        return x.reshape(resid.shape)

    def read(
        self, resid: Float[Tensor, "*tokens d_model"], features: Sequence[int]
    ) -> Float[Tensor, "*tokens feature"]:
        """Activations of some features, without computing the others where that can be done."""
        self._require_stream(resid)
        chosen, wrapped = list(features), self.wrapped
        if self.architecture not in ("standard", "jumprelu", "gated"):
            return self.encode(resid)[..., chosen]  # features compete, so all are needed
        x = wrapped.process_sae_in(self._flat(resid))
        self._forget_scale()
        weights = wrapped.W_enc[:, chosen]
        if self.architecture == "gated":
            open_gates = (x @ weights + wrapped.b_gate[chosen]) > 0
            before = x @ (weights * wrapped.r_mag[chosen].exp()) + wrapped.b_mag[chosen]
        else:
            before = x @ weights + wrapped.b_enc[chosen]
            open_gates = before > (
                wrapped.threshold[chosen] if self.architecture == "jumprelu" else 0
            )
        found = wrapped.activation_fn(before) * open_gates.to(before.dtype)
        return found.reshape(*resid.shape[:-1], len(chosen))

    def decode(
        self,
        features: Float[Tensor, "*tokens d_sae"],
        resid: Float[Tensor, "*tokens d_model"] | None = None,
    ) -> Float[Tensor, "*tokens d_model"]:
        """The stream that these activations stand for.

        Args:
            resid: The stream that was encoded; needed where the SAE normalises each token, since
                the norm is no feature.
        """
        if not self.scales_tokens:
            decoded = self.wrapped.decode(features.reshape(-1, self.d_sae))
        elif resid is None:
            raise SAEError(
                f"{self.name!r} normalises each token ({self.wrapped.cfg.normalize_activations}), so "
                "activations alone do not determine the stream. Write decode(features, resid)."
            )
        else:
            self._require_stream(resid)
            self.wrapped.process_sae_in(self._flat(resid))  # notes each token's scale for decode
            decoded = self.wrapped.decode(features.reshape(-1, self.d_sae))
            self._forget_scale()
        return decoded.reshape(*features.shape[:-1], self.d_model)

    def reconstruct(
        self, resid: Float[Tensor, "*tokens d_model"]
    ) -> Float[Tensor, "*tokens d_model"]:
        """The stream as the SAE sees it: what it misses is gone."""
        return self.decode(self.encode(resid), resid).to(resid.dtype)

    @property
    def scales_tokens(self) -> bool:
        """Whether each token is normalised by itself before it is encoded."""
        return self.wrapped.cfg.normalize_activations in ("layer_norm", "constant_norm_rescale")

    def scale(self, resid: Float[Tensor, "*tokens d_model"]) -> Float[Tensor, "*tokens 1"] | float:
        """The factor from a change of the decoded stream to a change of this stream.

        It is 1, except in an SAE that normalises each token: there it is the token's norm.
        """
        kind = self.wrapped.cfg.normalize_activations
        x = resid.to(self.wrapped.dtype)
        if kind == "layer_norm":
            return (x - x.mean(-1, keepdim=True)).std(-1, keepdim=True)
        if kind == "constant_norm_rescale":
            return x.norm(dim=-1, keepdim=True) / self.d_model**0.5
        return 1.0

    def direction(self, feature: int) -> Direction:
        """A feature's decoder row with length 1, as a direction that can be added anywhere."""
        self.require_features((feature,))
        row = self.W_dec[feature].float().cpu()
        if not bool(row.any()):
            raise SAEError(
                f"Feature {feature} of {self.name!r} has a decoder row of zeros: it is dead, and "
                "adding it would do nothing. Choose another feature."
            )
        return self.facts.direction(row / row.norm(), f"SAE feature {feature} of {self.name}")

    # Whether it fits

    @property
    def facts(self) -> SAEFacts:
        """All that it states of itself, without its weights."""
        return SAEFacts(
            name=self.name,
            site=self.site,
            d_model=self.d_model,
            d_sae=self.d_sae,
            model=self.model,
            processing=self.processing,
            fingerprint=self.fingerprint,
            resid_norm=self.resid_norm,
        )

    def require_features(self, features: Sequence[int]) -> None:
        """Raises SAEError for numbers that are not features of this SAE."""
        self.facts.require_features(features)

    def require_fits(self, model: Model) -> None:
        """Raises SAEError if the SAE was not made for this model's stream, or is elsewhere."""
        self.facts.require_fits(model)
        if self.device != model.device:
            raise SAEError(
                f"{self.name!r} is on {self.device} and {model.name!r} on {model.device}. "
                "Write sae.to(model.device)."
            )

    # Where it comes from

    @classmethod
    def of(cls, wrapped: Any, *, name: str = "", processing: str | None = None) -> SAE:
        """Wraps a sae_lens `SAE`, with what its metadata states.

        Args:
            wrapped: An SAE for inference, not one in training.
            processing: Weight processing of its model where the metadata does not state it.

        Raises:
            SAEError: If it cannot steer a residual stream.
        """
        require_trained(wrapped)
        require_steerable(wrapped.cfg)
        meta = wrapped.cfg.metadata
        facts = meta.get(FACTS) or {}
        kwargs = meta.get("model_from_pretrained_kwargs")
        stated = facts.get("processing") or (None if kwargs is None else processing_of(kwargs))
        scaling = wrapped.cfg.normalize_activations
        if scaling in _UNFOLDED:
            warnings.warn(
                f"{name!r} was trained on scaled activations ({scaling}) and its scale is not "
                "folded into its weights, so sae_lens applies none: its features may be off. Fold "
                "it with sae.fold_activation_norm_scaling_factor(…).",
                stacklevel=2,
            )
        return cls(
            wrapped=wrapped.eval().requires_grad_(False),
            site=site_of(wrapped.cfg),
            name=name or str(meta.get("hook_name")),
            processing=stated or processing,
            model=str(meta.get("model_name") or ""),
            fingerprint=facts.get("fingerprint") or "",
            resid_norm=facts.get("resid_norm"),
        )

    @classmethod
    def load(
        cls,
        source: Path | str,
        sae_id: str | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> SAE:
        """Loads an SAE from a folder, from those that ship with steerlens, or from a release.

        Args:
            source: A folder in sae_lens's format or written by `save`; ``"reviews/<layer>"``, an
                SAE of the reference model; or, with an id, a published release.
            sae_id: Which SAE of the release ``source``.
            device: Where it computes: that of the model.
            dtype: Precision in which it computes, whatever precision it is stored in.

        Raises:
            SAEError: If there is no such SAE, it cannot be read, or it cannot steer a residual
                stream.
            UnreachableHub: If a release is not cached and there is no network; within seconds.
        """
        precision = str(dtype).removeprefix("torch.")
        if sae_id is not None:
            from steerlens.saes.releases import load_release

            wrapped, name = load_release(str(source), sae_id, str(device), precision)
            # Releases are trained on unprocessed weights unless they say otherwise.
            return cls.of(wrapped, name=name, processing="raw")
        folder = shipped(str(source)) or expanded(source)
        wrapped, maxima = read_folder(folder, str(source), str(device), precision)
        return replace(cls.of(wrapped, name=str(source)), max_activation=maxima)

    def save(self, folder: Path | str, dtype: torch.dtype | None = None) -> Path:
        """Writes a folder that `load` reads, and sae_lens too; atomic, never pickle.

        Args:
            dtype: Precision of the stored weights, by default as they are.
        """
        facts = {
            **(self.wrapped.cfg.metadata.get(FACTS) or {}),
            "processing": self.processing,
            "fingerprint": self.fingerprint,
            "resid_norm": self.resid_norm,
        }
        metadata = {"hook_name": self.site.hook, "model_name": self.model, FACTS: facts}
        folder = expanded(folder)
        write_folder(folder, self.wrapped, metadata, self.max_activation, dtype)
        return folder

    def __repr__(self) -> str:
        return (
            f"SAE({self.name!r}: {self.d_sae} {self.architecture} features at {self.site} "
            f"of {self.model or 'an unnamed model'})"
        )

    def _flat(self, resid: Tensor) -> Tensor:
        return resid.reshape(-1, self.d_model)

    def _require_stream(self, resid: Tensor) -> None:
        if resid.shape[-1] != self.d_model:
            raise SAEError(
                f"{self.name!r} reads vectors of width {self.d_model}; got {resid.shape[-1]}."
            )
        if resid.device != self.device:
            raise SAEError(
                f"{self.name!r} is on {self.device} and the stream on {resid.device}. "
                f"Write sae.to('{resid.device}')."
            )

    def _forget_scale(self) -> None:
        # sae_lens keeps the last batch's scale on the SAE between encode and decode.
        for note in ("ln_mu", "ln_std", "x_norm_coeff"):
            self.wrapped.__dict__.pop(note, None)
