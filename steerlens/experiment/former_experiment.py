"""The former base of the experiments, until all results are `Result`s. See experiment.py."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from steerlens.directions.methods import DiffMean
from steerlens.experiment.experiment_data import ExperimentError
from steerlens.experiment.fields import MethodField
from steerlens.models.model import Model
from steerlens.sites import Site, Stream


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What every experiment states."""

    model: str = "reviews"
    """"reviews" (ships with steerlens), a local checkpoint folder, or a name on the hub."""
    contrast: str = "reviews/sentiment"
    """"reviews/<concept>", or a file of contrastive pairs: what directions are fitted on."""
    method: MethodField = DiffMean()
    """How a direction is found: a name of steerlens.directions.methods, or module:Name."""
    stream: Stream = "resid_post"
    """The residual stream that is read and steered."""
    layers: tuple[int, ...] | None = None
    """Layers to look at; all by default."""
    n_fit: int = 200
    """Most pairs to fit on."""
    seed: int = 0
    """Seeds the data, the splits, the controls and the sampling; nothing else is random."""
    device: str = "cpu"
    """Where the model runs."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the model's weights."""

    kind: ClassVar[str] = "experiment"

    def __post_init__(self) -> None:
        least = {"seed": 0, "samples": 0, "new_tokens": 2, "budget": 0}
        for name, bound in least.items():
            if getattr(self, name, bound) < bound:
                raise ExperimentError(
                    f"{name}={getattr(self, name)} is below the least that makes sense, {bound}."
                )
        if getattr(self, "n_neutral", 4) < 4:
            raise ExperimentError(
                "n_neutral: at least 4 ordinary texts are needed, half of them to report on."
            )
        for name in ("n_fit", "n_choose", "n_report"):
            if getattr(self, name, 2) < 2:
                raise ExperimentError(
                    f"{name}={getattr(self, name)}: an interval needs at least two examples."
                )
        if self.layers is not None and (not self.layers or min(self.layers) < 0):
            raise ExperimentError(
                f"layers={self.layers}: name at least one layer, counted from 0; or None for all."
            )

    @property
    def digest(self) -> str:
        """Names the run: changes with every field."""
        return hashlib.sha256(json.dumps(self.fields(), sort_keys=True).encode()).hexdigest()[:10]

    def fields(self) -> dict[str, Any]:
        """Every field as JSON can hold it; a method is its repr."""
        out = {"experiment": type(self).__name__}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            out[f.name] = repr(value) if f.name == "method" else value
        return out

    def load_model(self) -> Model:
        """The model, checked to have the asked layers."""
        model = Model.load(self.model, device=self.device, dtype=getattr(torch, self.dtype))
        for site in self.sites(model):
            model.require_site(site)
        return model

    def sites(self, model: Model) -> tuple[Site, ...]:
        """The sites that are looked at."""
        if self.layers is None:
            return model.sites(self.stream)
        return tuple(Site(layer, self.stream) for layer in self.layers)
