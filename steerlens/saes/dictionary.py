"""A sparse autoencoder and what must be known to steer with it: where, in which basis, how large."""

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
from steerlens.saes.errors import DictionaryError as DictionaryError
from steerlens.saes.fitting import require_fits
from steerlens.saes.folders import read_folder, shipped, write_folder
from steerlens.saes.stated import FACTS, processing_of, require_steerable, require_trained, site_of
from steerlens.sites import Site

_UNFOLDED = ("expected_average_only_in", "covariance_whitening")


@dataclass(frozen=True, eq=False)
class Dictionary:
    """A trained SAE at a site of the residual stream: its features, and how to read and write them.

    Everything it computes is sae_lens's own arithmetic. The activations of one token depend on
    that token's vector alone.
    """

    sae: Any
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
        require_trained(self.sae)
        require_steerable(self.sae.cfg)
        if self.max_activation is not None and len(self.max_activation) != self.d_sae:
            raise DictionaryError(
                f"{len(self.max_activation)} largest activations for {self.d_sae} features of "
                f"{self.name!r}. Give one per feature."
            )

    # What it is

    @property
    def d_model(self) -> int:
        return self.sae.cfg.d_in

    @property
    def d_sae(self) -> int:
        return self.sae.cfg.d_sae

    @property
    def architecture(self) -> str:
        """sae_lens's name for the encoder: "topk", "jumprelu", …"""
        return self.sae.cfg.architecture()

    @property
    def device(self) -> torch.device:
        return self.sae.W_dec.device

    @cached_property
    def W_dec(self) -> Float[Tensor, "d_sae d_model"]:
        """What one unit of each feature's activation adds to the stream, not normalised.

        In an SAE that normalises each token, to the normalised stream: see `scale`.
        """
        weights = self.sae.W_dec.detach()
        if getattr(self.sae.cfg, "rescale_acts_by_decoder_norm", False):
            return weights / weights.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return weights

    @cached_property
    def hash(self) -> str:
        """Content hash of weights and settings: two SAEs of one name may differ."""
        config = {
            k: v for k, v in self.sae.cfg.to_dict().items() if k not in ("device", "metadata")
        }
        found = sha256(json.dumps(config, sort_keys=True, default=str).encode())
        for name, value in sorted(self.sae.state_dict().items()):
            found.update(name.encode())
            found.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:32]

    def to(self, device: torch.device | str) -> Dictionary:
        """The same dictionary on another device."""
        moved = copy.deepcopy(self.sae).to(torch.device(device))
        maxima = self.max_activation
        return replace(
            self, sae=moved, max_activation=None if maxima is None else maxima.to(device)
        )

    # Reading and writing

    def encode(self, resid: Float[Tensor, "*tokens d_model"]) -> Float[Tensor, "*tokens d_sae"]:
        """Activations of all features, in the SAE's own precision."""
        self._require_stream(resid)
        features = self.sae.encode(self._flat(resid))
        self._forget_scale()
        return features.reshape(*resid.shape[:-1], self.d_sae)

    def read(
        self, resid: Float[Tensor, "*tokens d_model"], features: Sequence[int]
    ) -> Float[Tensor, "*tokens feature"]:
        """Activations of some features, without computing the others where that can be done."""
        self._require_stream(resid)
        chosen, sae = list(features), self.sae
        if self.architecture not in ("standard", "jumprelu", "gated"):
            return self.encode(resid)[..., chosen]  # features compete, so all are needed
        x = sae.process_sae_in(self._flat(resid))
        self._forget_scale()
        weights = sae.W_enc[:, chosen]
        if self.architecture == "gated":
            open_gates = (x @ weights + sae.b_gate[chosen]) > 0
            before = x @ (weights * sae.r_mag[chosen].exp()) + sae.b_mag[chosen]
        else:
            before = x @ weights + sae.b_enc[chosen]
            open_gates = before > (sae.threshold[chosen] if self.architecture == "jumprelu" else 0)
        found = sae.activation_fn(before) * open_gates.to(before.dtype)
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
            decoded = self.sae.decode(features.reshape(-1, self.d_sae))
        elif resid is None:
            raise DictionaryError(
                f"{self.name!r} normalises each token ({self.sae.cfg.normalize_activations}), so "
                "activations alone do not tell the stream. Write decode(features, resid)."
            )
        else:
            self._require_stream(resid)
            self.sae.process_sae_in(self._flat(resid))  # notes each token's scale for decode
            decoded = self.sae.decode(features.reshape(-1, self.d_sae))
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
        return self.sae.cfg.normalize_activations in ("layer_norm", "constant_norm_rescale")

    def scale(self, resid: Float[Tensor, "*tokens d_model"]) -> Float[Tensor, "*tokens 1"] | float:
        """By how much a change of the decoded stream is a change of this stream.

        1, but in an SAE that normalises each token, where it is what the token is divided by.
        """
        kind = self.sae.cfg.normalize_activations
        x = resid.to(self.sae.dtype)
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
            raise DictionaryError(
                f"Feature {feature} of {self.name!r} has a decoder row of zeros: it is dead, and "
                "adding it would do nothing. Choose another."
            )
        return Direction(
            row / row.norm(),
            self.site,
            method=f"SAE feature {feature} of {self.name}",
            resid_norm=self.resid_norm,
            processing=self.processing,
            model=self.model,
            fingerprint=self.fingerprint,
        )

    # Whether it fits

    def require_features(self, features: Sequence[int]) -> None:
        """Raises DictionaryError for numbers that are no features of this SAE."""
        for feature in features:
            if isinstance(feature, bool) or not isinstance(feature, int):
                raise DictionaryError(
                    f"feature={feature!r} is not a feature's number. Give an int, "
                    f"0-{self.d_sae - 1}."
                )
            if not 0 <= feature < self.d_sae:
                raise DictionaryError(
                    f"{self.name!r} has no feature {feature}; its {self.d_sae} features are "
                    f"numbered 0-{self.d_sae - 1}."
                )

    def require_fits(self, model: Model) -> None:
        """Raises DictionaryError if the SAE was not made for this model's stream."""
        require_fits(self, model)

    # Where it comes from

    @classmethod
    def of(cls, sae: Any, *, name: str = "", processing: str | None = None) -> Dictionary:
        """The dictionary of a sae_lens `SAE` that is at hand, with what its metadata says.

        Args:
            processing: Weight processing of its model where the metadata does not state it.

        Raises:
            DictionaryError: If it cannot steer a residual stream.
        """
        require_trained(sae)
        require_steerable(sae.cfg)
        meta = sae.cfg.metadata
        facts = meta.get(FACTS) or {}
        kwargs = meta.get("model_from_pretrained_kwargs")
        stated = facts.get("processing") or (None if kwargs is None else processing_of(kwargs))
        if sae.cfg.normalize_activations in _UNFOLDED:
            warnings.warn(
                f"{name!r} was trained on scaled activations ({sae.cfg.normalize_activations}) and "
                "its scale is not folded into its weights, so sae_lens applies none: its features "
                "may be off. Fold it with sae.fold_activation_norm_scaling_factor(…).",
                stacklevel=2,
            )
        return cls(
            sae=sae.eval().requires_grad_(False),
            site=site_of(sae.cfg),
            name=name or str(meta.get("hook_name")),
            processing=stated or processing,
            model=str(meta.get("model_name") or ""),
            fingerprint=facts.get("fingerprint") or "",
            resid_norm=facts.get("resid_norm"),
        )

    @classmethod
    def load(
        cls, source: Path | str, sae_id: str | None = None, *, device: torch.device | str = "cpu"
    ) -> Dictionary:
        """An SAE from wherever it is, computing in float32.

        Args:
            source: A folder of sae_lens's format or written by `save`; ``"reviews/<layer>"``, an
                SAE of the reference model; or, with an id, a published release.
            sae_id: Which SAE of the release ``source``.

        Raises:
            DictionaryError: If there is no such SAE, it cannot be read, or it cannot steer a
                residual stream.
            UnreachableHub: If a release is not cached and there is no network; within seconds.
        """
        if sae_id is not None:
            from steerlens.saes.releases import load_release

            sae, name = load_release(str(source), sae_id, str(device))
            # Releases are trained on unprocessed weights unless they say otherwise.
            return cls.of(sae, name=name, processing="raw")
        folder = shipped(str(source)) or Path(source)
        sae, maxima = read_folder(folder, str(source), str(device))
        return replace(cls.of(sae, name=str(source)), max_activation=maxima)

    def save(self, folder: Path | str, dtype: torch.dtype | None = None) -> Path:
        """Writes a folder that `load` reads, and sae_lens too; atomic, never pickle.

        Args:
            dtype: Precision of the stored weights, by default as they are.
        """
        facts = {
            **(self.sae.cfg.metadata.get(FACTS) or {}),
            "processing": self.processing,
            "fingerprint": self.fingerprint,
            "resid_norm": self.resid_norm,
        }
        metadata = {"hook_name": self.site.hook, "model_name": self.model, FACTS: facts}
        write_folder(Path(folder), self.sae, metadata, self.max_activation, dtype)
        return Path(folder)

    def __repr__(self) -> str:
        return (
            f"Dictionary({self.name!r}: {self.d_sae} {self.architecture} features at {self.site} "
            f"of {self.model or 'an unnamed model'})"
        )

    def _flat(self, resid: Tensor) -> Tensor:
        return resid.reshape(-1, self.d_model)

    def _require_stream(self, resid: Tensor) -> None:
        if resid.shape[-1] != self.d_model:
            raise DictionaryError(
                f"{self.name!r} reads vectors of width {self.d_model}; got {resid.shape[-1]}."
            )
        if resid.device != self.device:
            raise DictionaryError(
                f"{self.name!r} is on {self.device} and the stream on {resid.device}. "
                f"Write dictionary.to('{resid.device}')."
            )

    def _forget_scale(self) -> None:
        # sae_lens keeps the last batch's scale on the SAE between encode and decode.
        for note in ("ln_mu", "ln_std", "x_norm_coeff"):
            self.sae.__dict__.pop(note, None)
