"""`Activations`: the vectors that were read of both sides of every pair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import as_int
from steerlens.directions.methods import as_method
from steerlens.directions.methods.method import Method
from steerlens.directions.vector import Direction
from steerlens.sites import Site, SiteLike, as_site, format_sites
from steerlens.stats import group_numbers


@dataclass(frozen=True, eq=False)
class Activations:
    """Residual-stream vectors of both sides of every pair, at one token and several sites.

    Raises:
        ValueError: If a vector holds NaN or infinite numbers.
    """

    positive: Float[Tensor, "pair site d_model"]
    negative: Float[Tensor, "pair site d_model"]
    sites: tuple[Site, ...]
    groups: tuple[str, ...]
    """The group of each pair: cross-validation does not divide it, and shuffled labels share it."""
    resid_norms: Float[Tensor, " site"]
    """Median over texts of the median norm of a text's tokens."""
    paired: bool = True
    """False if row i of one side does not belong to row i of the other."""
    processing: str = "raw"
    read_at: str = ""
    model: str = ""
    fingerprint: str = ""
    data: str = ""
    dtype: str = ""
    """Precision of the model, e.g. "float32"."""
    revision: str = ""
    keys: tuple[str, ...] = ()
    """Everything by which the questions of the pairs are known."""

    def __post_init__(self) -> None:
        for name, side in (("positive", self.positive), ("negative", self.negative)):
            finite = torch.isfinite(side).all(-1)
            if not bool(finite.all()):
                pair, site = (int(i) for i in (~finite).nonzero()[0])
                raise ValueError(
                    f"Activations of the {name} side hold NaN or infinite numbers, first in pair "
                    f"{pair} at {self.sites[site]}. Load the model in float32 or bfloat16, and "
                    "check the text of that pair."
                )

    def __len__(self) -> int:
        return self.positive.shape[0]

    def index(self, site: SiteLike) -> int:
        """The index of a site, or of a layer if that layer was read at one stream only.

        Raises:
            ValueError: If that site was not read, or the layer was read at several streams.
        """
        named: Site | int = as_site(site) if isinstance(site, Site | str) else as_int("layer", site)
        found = [i for i, s in enumerate(self.sites) if named in (s, s.layer)]
        if len(found) != 1:
            raise ValueError(
                f"{named!r} is {'not' if not found else 'more than once'} among the sites that "
                f"were read ({format_sites(self.sites)}). Name one of them."
            )
        return found[0]

    def at(
        self, site: SiteLike
    ) -> tuple[Float[Tensor, "pair d_model"], Float[Tensor, "pair d_model"]]:
        """Both sides at one site."""
        i = self.index(site)
        return self.positive[:, i], self.negative[:, i]

    def direction(self, layer: SiteLike, method: Method | str | type) -> Direction:
        """The direction that a method finds at one site.

        Args:
            layer: A `Site`, the number of a layer, or the name of a hook.
            method: A method, its class, or its name.

        Raises:
            ValueError: If the method needs true pairs and the set has none, the site was not read,
                or there is no such method.
        """
        method = as_method(method)
        if getattr(method, "paired", False) and not self.paired:
            raise ValueError(
                f"{method!r} uses the difference within each pair, and this set has no true pairs. "
                "Use DiffMean(), Logistic() or LDA(), which need only two groups."
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

    def directions(self, method: Method | str | type) -> Iterator[Direction]:
        """One direction per site, in order."""
        for site in self.sites:
            yield self.direction(site, method)

    def shuffled(self, seed: SupportsIndex = 0) -> Activations:
        """A control: the sides of about half of the groups, chosen at random, are exchanged.

        The pairs of one group share their coin. With a coin for each pair, copies of a pair would
        cancel in the control but not in the data.
        """
        seed = as_int("seed", seed)
        generator = torch.Generator().manual_seed(seed)
        group = group_numbers(self.groups)
        coins = torch.rand(int(group.max()) + 1, generator=generator) < 0.5
        swap = coins[group][:, None, None]
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
