"""`Activations`: what was read of both sides of every pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.directions.vector import Direction
from steerlens.sites import Site

_Method = Callable[[Tensor, Tensor], Tensor]  # protocols.Method, which stands above this file


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
    dtype: str = ""
    """Precision in which the model was run, e.g. "float32"."""
    revision: str = ""

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
            dtype=self.dtype,
            revision=self.revision,
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
