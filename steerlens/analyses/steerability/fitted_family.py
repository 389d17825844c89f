"""The usual rows of a map: one fitted direction per site, added there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from steerlens.data import ContrastSet
from steerlens.data.near_duplicates import text_groups
from steerlens.directions import Activations, Direction
from steerlens.directions.methods import Random
from steerlens.directions.methods.method import Method
from steerlens.interventions.arms import layer_family
from steerlens.interventions.residual import Add
from steerlens.measures.equal_cost import lengths_within_budget
from steerlens.measures.reading import activations as read_activations
from steerlens.models.model import Model
from steerlens.protocols import Intervention
from steerlens.sites import Positions, Site, SiteLike, as_sites
from steerlens.stats import group_numbers
from steerlens.store.cells import Cells
from steerlens.units import MapUnit


@dataclass(frozen=True, eq=False)
class FittedFamily:
    """Directions fitted by one method, one per site, and how far multiplier 1 moves along them."""

    read: Activations
    """What the directions were fitted to."""
    method: Method
    directions: tuple[Direction, ...]
    positions: Positions
    """Which tokens are steered."""
    unit: MapUnit
    """What multiplier 1 adds."""
    lengths: tuple[float, ...]
    """The same as lengths, in the units of the residual stream."""

    @property
    def arms(self) -> dict[str, Add]:
        """The rows of the map: one `Add` per direction, named by its site."""
        return layer_family(self.directions, self.positions, self.lengths)

    @property
    def facts(self) -> dict[str, Any]:
        """What a result states about them."""
        return {
            "method": repr(self.method),
            "unit": self.unit,
            "lengths": self.lengths,
            "positions": repr(self.positions),
            "read_at": self.read.read_at,
            "fit": self.read.data,
        }

    def shuffled(self, seed: int) -> list[Add]:
        """A map of the label null: directions fitted to shuffled labels.

        They keep their own length, each scaled as the real one is, and are not stretched to the
        same length: a mean difference of shuffled labels is short, and stretching it would turn
        the little of the contrast that it holds back into the contrast (up to the sign).
        """
        read = self.read.shuffled(seed)
        return self._scaled([read.direction(d.site, self.method) for d in self.directions])

    def random(self, seed: int) -> list[Add]:
        """A map of the direction null: random directions, each as long as the real one of its site.

        Args:
            seed: The seed of the first site; the other sites have the next ones.
        """
        return self._scaled(
            [
                self.read.direction(d.site, Random(seed + i)).unit() * d.norm
                for i, d in enumerate(self.directions)
            ]
        )

    def projected(self, seed: int) -> list[Add]:
        """A map of the direction null: directions fitted to shuffled labels, as long as the real ones.

        What they have in common with the real direction is taken out first: so they are other
        directions in which the activations vary, which steer more than isotropic ones.
        """
        read = self.read.shuffled(seed)
        found = []
        for d in self.directions:
            other = read.direction(d.site, self.method)
            unit = d.vector / d.norm
            rest = other.vector - (other.vector @ unit) * unit
            found.append(replace(other, vector=rest * (d.norm / rest.norm().clamp(min=1e-30))))
        return self._scaled(found)

    def rows_of(self, maps: Sequence[Sequence[Add]], name: str) -> Sequence[Sequence[Intervention]]:
        """The rows of null maps, each given by an edit for every direction: these edits.

        Args:
            name: Of these maps, for a family that measures before it chooses their rows.
        """
        return maps

    def _scaled(self, directions: Sequence[Direction]) -> list[Add]:
        """Lengthened by the factors by which multiplier 1 lengthens the real directions."""
        factors = [n / d.norm for d, n in zip(self.directions, self.lengths, strict=True)]
        return [
            Add(d, self.positions, d.norm * factor)
            for d, factor in zip(directions, factors, strict=True)
        ]


def fit_family(
    model: Model,
    fit: ContrastSet | Activations,
    sites: Sequence[Site],
    texts: Sequence[str],
    *,
    method: Method,
    positions: Positions,
    unit: MapUnit,
    budget: float,
    cells: Cells,
) -> FittedFamily:
    """Reads the activations, fits a direction at every site, and sets its length.

    Args:
        texts: Ordinary texts on which a length within the budget is found, for "equal_kl".
        budget: That cost, in nats of KL per token.
        cells: Where the lengths are kept.
    """
    read, progress = fit, cells.progress
    if not isinstance(read, Activations):
        read = read_activations(model, read, sites, progress=progress)
    directions = tuple(read.direction(site, method) for site in sites)
    if unit == "equal_kl":
        lengths = _kept_lengths(model, directions, texts, budget, positions, cells)
    else:
        lengths = tuple(float(Add(d, positions, unit).step.norm()) for d in directions)
    return FittedFamily(read, method, directions, positions, unit, lengths)


def _kept_lengths(
    model: Model,
    directions: Sequence[Direction],
    texts: Sequence[str],
    budget: float,
    positions: Positions,
    cells: Cells,
) -> tuple[float, ...]:
    def found() -> dict[str, Tensor]:
        groups = group_numbers(text_groups(texts))
        lengths = lengths_within_budget(
            model, directions, texts, budget=budget, positions=positions, groups=groups,
            progress=cells.progress,
        )  # fmt: skip
        return {"lengths": torch.tensor(lengths, dtype=torch.float64)}

    return tuple(cells.part("lengths").compute(0, found)["lengths"].tolist())


def require_sites(
    model: Model,
    fit: ContrastSet | Activations,
    sites: SiteLike | Iterable[SiteLike] | None,
) -> tuple[Site, ...]:
    """The sites to steer at: those asked for, those that were read, or resid_post of every layer.

    Raises:
        ValueError: If the model has no such site, one is named twice, or there is none.
    """
    if sites is None:
        sites = fit.sites if isinstance(fit, Activations) else model.sites()
    found = as_sites(sites)
    for site in found:
        model.require_site(site)
    return found
