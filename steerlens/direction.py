"""What was read (`Activations`) and what came of it (`Direction`), with where and how it was made."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from steerlens.files import write_bytes
from steerlens.sites import Site

FORMAT = "steerlens.direction/1"
_Method = Callable[[Tensor, Tensor], Tensor]  # protocols.Method, which stands above this file


class DirectionError(ValueError):
    """A direction that does not fit: wrong site, wrong width, wrong basis, or a broken file."""


@dataclass(frozen=True, eq=False)
class Direction:
    """A vector at a site of the residual stream, and everything needed to use it rightly.

    Not always of unit length: `unit()` says so. A steering vector is a Direction in use.
    """

    vector: Float[Tensor, " d_model"]
    site: Site
    method: str = "given"
    """How it was found: the method's repr."""
    resid_norm: float | None = None
    """Median norm of the residual stream at the site over ordinary tokens: the strength unit."""
    projection_std: float | None = None
    """Standard deviation of the fitted activations along the direction: another strength unit."""
    processing: str | None = None
    """Weight processing of the model it was made on ("raw", "fold_ln", …); None if not stated."""
    read_at: str = ""
    """The position rule at which the activations were read."""
    model: str = ""
    fingerprint: str = ""
    """Content hash of the model's weights."""
    data: str = ""
    """Content hash of the contrast set."""
    pairs: int = 0

    def __post_init__(self) -> None:
        if self.vector.ndim != 1:
            raise DirectionError(
                f"A direction has one axis (d_model); got shape {tuple(self.vector.shape)}."
            )
        if not bool(torch.isfinite(self.vector).all()):
            raise DirectionError(
                f"The direction at {self.site} holds NaN or infinite numbers, so steering with it "
                "would destroy the stream. Look for overflow (float16?) or empty examples."
            )
        if not bool(self.vector.any()):
            raise DirectionError(
                f"The direction at {self.site} is all zeros, so it would steer nothing. "
                "The two sides of the contrast were equal at the tokens that were read: "
                "read where they differ, e.g. Positions.answer()."
            )
        for name in ("resid_norm", "projection_std"):
            unit = getattr(self, name)
            if unit is not None and not (unit > 0 and math.isfinite(unit)):
                raise DirectionError(
                    f"{name}={unit} of the direction at {self.site} cannot be a unit of strength. "
                    "Give a positive number, or None where it is not known."
                )

    @property
    def norm(self) -> float:
        """Euclidean length, in the units of the residual stream."""
        return float(self.vector.norm())

    def unit(self) -> Direction:
        """The same direction with length 1."""
        return replace(self, vector=self.vector / self.vector.norm())

    def __neg__(self) -> Direction:
        return replace(self, vector=-self.vector)

    def __mul__(self, factor: float) -> Direction:
        return replace(self, vector=self.vector * factor)

    __rmul__ = __mul__

    def __add__(self, other: Direction) -> Direction:
        if other.site != self.site:
            raise DirectionError(
                f"Cannot add a direction at {other.site} to one at {self.site}: they live in "
                "different streams. Attach both interventions, one inside the other."
            )
        return replace(
            self,
            vector=self.vector + other.vector,
            method=f"{self.method} + {other.method}",
            projection_std=None,
        )

    def cosine(self, other: Direction) -> float:
        """Cosine of the angle to another direction, in [-1, 1]."""
        return float(torch.cosine_similarity(self.vector, other.vector, dim=0))

    def save(self, path: Path | str) -> Path:
        """Writes one safetensors file that states everything above; atomic, never pickle."""
        facts = {f.name: getattr(self, f.name) for f in fields(self)}
        del facts["vector"]
        facts["site"] = self.site.hook
        meta = {"format": FORMAT, "direction": json.dumps(facts, sort_keys=True)}
        return write_bytes(Path(path), save({"vector": self.vector.contiguous()}, metadata=meta))

    @classmethod
    def load(cls, path: Path | str) -> Direction:
        """Reads a file written by `save`.

        Raises:
            DirectionError: If the file is broken, or holds a tensor without the facts that make
                it usable.
        """
        try:
            with safe_open(path, framework="pt") as file:
                meta = file.metadata() or {}
                vector = file.get_tensor("vector") if "vector" in file.keys() else None  # noqa: SIM118
        except SafetensorError as error:
            raise DirectionError(f"{path} is not a readable safetensors file: {error}") from error
        if vector is None or meta.get("format") != FORMAT:
            raise DirectionError(
                f"{path} does not say at which site, in which basis and how it was made "
                f"(format {meta.get('format')!r}, expected {FORMAT!r}). "
                "State it: Direction(vector, Site(layer), resid_norm=…, processing=…)."
            )
        try:
            facts = json.loads(meta["direction"])
            facts["site"] = Site.from_hook(facts["site"])
            return cls(vector=vector, **facts)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise DirectionError(
                f"{path} says {FORMAT!r} but what it states cannot be read: {error!r}. "
                "Save the direction again with the version that made it."
            ) from error

    def __repr__(self) -> str:
        parts = [f"{self.method} at {self.site}", f"norm {self.norm:.3g}"]
        if self.resid_norm is not None:
            parts.append(f"{self.norm / self.resid_norm:.2g} of the median residual norm")
        return f"Direction({', '.join(parts)})"


@dataclass(frozen=True, eq=False)
class Activations:
    """Residual-stream vectors of both sides of every pair, at one token and several sites."""

    positive: Float[Tensor, "pair site d_model"]
    negative: Float[Tensor, "pair site d_model"]
    sites: tuple[Site, ...]
    groups: tuple[str, ...]
    """The question of each pair: cross-validation keeps a group together."""
    resid_norms: Float[Tensor, " site"]
    """Median over texts of the text's median token norm."""
    paired: bool = True
    """False when row i of the two sides do not belong together."""
    processing: str = "raw"
    read_at: str = ""
    model: str = ""
    fingerprint: str = ""
    data: str = ""

    def __post_init__(self) -> None:
        for name, side in (("positive", self.positive), ("negative", self.negative)):
            finite = torch.isfinite(side).all(-1)
            if not bool(finite.all()):
                pair, site = (int(i) for i in (~finite).nonzero()[0])
                raise ValueError(
                    f"Activations of the {name} side hold NaN or infinite numbers, first in pair "
                    f"{pair} at {self.sites[site]}. Load the model in float32 or bfloat16, and "
                    "check that text by itself."
                )

    def __len__(self) -> int:
        return self.positive.shape[0]

    def index(self, site: Site | int) -> int:
        """The index of a site, or of a layer when that layer was read at one stream only."""
        found = [i for i, s in enumerate(self.sites) if site in (s, s.layer)]
        if len(found) != 1:
            raise ValueError(
                f"{site!r} is {'not' if not found else 'more than once'} among the sites that were "
                f"read ({', '.join(map(str, self.sites))}). Name one of them."
            )
        return found[0]

    def at(
        self, site: Site | int
    ) -> tuple[Float[Tensor, "pair d_model"], Float[Tensor, "pair d_model"]]:
        """Both sides at one site."""
        i = self.index(site)
        return self.positive[:, i], self.negative[:, i]

    def direction(self, layer: Site | int, method: _Method) -> Direction:
        """The direction that a method finds at one site (a `Site`, or the layer's number).

        Raises:
            ValueError: If the method needs true pairs and the set has none.
        """
        if getattr(method, "paired", False) and not self.paired:
            raise ValueError(
                f"{method!r} uses the difference within each pair, and this set has no true pairs. "
                "Use DiffMean(), Logistic() or LDA(), which need two groups only."
            )
        i = self.index(layer)
        positive, negative = self.positive[:, i].float(), self.negative[:, i].float()
        vector = method(positive, negative).float()
        along = torch.cat([positive, negative]) @ (vector / vector.norm().clamp(min=1e-30))
        return Direction(
            vector=vector,
            site=self.sites[i],
            method=repr(method),
            resid_norm=float(self.resid_norms[i]),
            projection_std=float(along.std()) or None,
            processing=self.processing,
            read_at=self.read_at,
            model=self.model,
            fingerprint=self.fingerprint,
            data=self.data,
            pairs=len(self),
        )

    def directions(self, method: _Method) -> Iterator[Direction]:
        """One direction per site, in order."""
        for site in self.sites:
            yield self.direction(site, method)

    def shuffled(self, seed: int = 0) -> Activations:
        """The control: in about half of the pairs, chosen at random, the sides change places."""
        generator = torch.Generator().manual_seed(seed)
        swap = (torch.rand(len(self), generator=generator) < 0.5)[:, None, None]
        return replace(
            self,
            positive=torch.where(swap, self.negative, self.positive),
            negative=torch.where(swap, self.positive, self.negative),
            data=f"{self.data}:shuffled:{seed}",
        )

    def __repr__(self) -> str:
        return (
            f"Activations({len(self)} pairs x {len(self.sites)} sites x "
            f"{self.positive.shape[-1]}, read at {self.read_at}, from {self.model})"
        )
