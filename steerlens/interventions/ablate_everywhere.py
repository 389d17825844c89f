"""One direction removed from all that a model writes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import SupportsIndex

from steerlens.arguments import ArgumentError, as_int
from steerlens.directions import Direction
from steerlens.interventions.changes import Change, StreamEdit
from steerlens.interventions.composition import attached
from steerlens.interventions.residual import Ablate
from steerlens.models.model import Model
from steerlens.protocols import Hookable, Strength
from steerlens.sites import Positions, Site


@dataclass(frozen=True, eq=False)
class AblateEverywhere:
    """Removes a direction from everything that is written to the stream, at all layers.

    What enters the first block, and what every attention and MLP layer adds, keep 1 - multiplier
    of their component along the direction. So at multiplier 1 no layer sees anything of it, and
    between 0 and 1 the whole stream keeps that share. By default BOS and the markers of a chat
    template are included.

    Source: directional ablation, arXiv:2406.11717, section 2.4, which is the same as making all
    weights that write to the stream orthogonal to the direction.

    Raises:
        ArgumentError: If `layers` names none, or one below 0.
        DirectionError: If the direction was converted so that only adding it is exact.
    """

    direction: Direction
    positions: Positions = Positions.all(special=True)
    layers: Iterable[SupportsIndex] | None = None
    """Only what these layers write, and what enters the first of them; by default all."""

    def __post_init__(self) -> None:
        self.direction.require_operation("ablate")
        if self.layers is not None:
            layers = tuple(sorted({as_int("layers", layer, least=0) for layer in self.layers}))
            if not layers:
                raise ArgumentError("layers names no layer. Give at least one, or None for all.")
            object.__setattr__(self, "layers", layers)

    def changes(self, model: Model) -> tuple[Change, ...]:
        """One edit of what enters the first layer, and two at each layer."""
        layers = [int(x) for x in (range(model.n_layers) if self.layers is None else self.layers)]
        sites = [Site(layers[0], "resid_pre")]
        sites += [Site(layer, stream) for layer in layers for stream in ("attn_out", "mlp_out")]
        found = []
        for site in sites:
            edit = Ablate(replace(self.direction, site=site), self.positions)
            found.append(StreamEdit(site, edit, self.positions))
        return tuple(found)

    @property
    def first_block(self) -> int:
        """The first block that it changes."""
        return 0 if self.layers is None else int(next(iter(self.layers)))

    @property
    def per_row(self) -> bool:
        """True: a batch may have one multiplier per row."""
        return True

    def require_fits(self, model: Model) -> None:
        """Raises ValueError if the direction does not fit the model, or it has no such layer."""
        model.require(self.direction)
        for layer in self.layers or ():
            model.require_site(Site(int(layer)))

    def attach(self, model: Hookable, multiplier: Strength) -> AbstractContextManager[None]:
        """Steers the model until the `with` ends.

        Raises:
            ValueError: If it does not fit the model, or the multiplier is NaN or infinite.
        """
        if isinstance(model, Model):
            self.require_fits(model)
            return attached(model, self.changes(model), multiplier, repr(self))
        return attached(model, (), multiplier, repr(self))  # says what it needs

    def __repr__(self) -> str:
        where = "" if self.layers is None else f", layers={self.layers}"
        return f"AblateEverywhere({self.direction!r}, {self.positions!r}{where})"
