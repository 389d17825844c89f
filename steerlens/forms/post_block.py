"""A small adapter after every block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from steerlens.arguments import ArgumentError, as_int
from steerlens.forms.form import Parameters, require_parameters, zeros
from steerlens.forms.ranks import require_rank
from steerlens.forms.stream_edits import Activation, Bottleneck, require_activation
from steerlens.interventions.changes import Composed, StreamEdit
from steerlens.interventions.composition import composed
from steerlens.models.model import Model
from steerlens.sites import Positions, Site


@dataclass(frozen=True)
class PostBlock:
    """x' = x + m · U φ(D x) after every block: about .04 % of the parameters at rank 8.

    Source: arXiv:2603.00425, with its initialisation: U = 0 and D a thousandth of Kaiming's uniform
    numbers. Departures: BOS and other special tokens are left alone unless the positions say
    otherwise, and the multiplier m, which the paper does not have.
    """

    rank: int = 8
    layers: tuple[int, ...] | None = None
    """The blocks after which there is one; None for all."""
    activation: Activation = "silu"
    positions: Positions = Positions.all()
    rate: float = 5e-3

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", as_int("rank", self.rank))
        require_rank(self.rank)
        require_activation(self.activation)
        object.__setattr__(self, "layers", layers_or_none(self.layers))

    def blocks(self, model: Model) -> tuple[int, ...]:
        """The blocks after which there is an adapter.

        Raises:
            ValueError: If the model has no such block.
        """
        return layers_of(self.layers, model)

    def _shapes(self, model: Model) -> dict[str, tuple[int, ...]]:
        n, d = len(self.blocks(model)), model.d_model
        return {"down": (n, self.rank, d), "up": (n, d, self.rank)}

    def begin(self, model: Model, generator: torch.Generator) -> Parameters:
        """Adapters that write nothing yet."""
        require_rank(self.rank, model.d_model)
        shapes = self._shapes(model)
        bound = 1e-3 * model.d_model**-0.5  # Kaiming's with a = √5
        down = (
            torch.rand(shapes["down"], generator=generator, dtype=torch.float32) * 2 - 1
        ) * bound
        return {"down": down.to(model.device), "up": zeros(shapes["up"], model)}

    def intervention(self, model: Model, params: Parameters) -> Composed:
        """One edit for every block."""
        require_parameters(self, params, self._shapes(model))
        edits = [
            StreamEdit(Site(layer), Bottleneck(down, up, self.activation), self.positions)
            for layer, down, up in zip(
                self.blocks(model), params["down"], params["up"], strict=True
            )
        ]
        return composed(edits, repr(self))

    def after_step(self, params: Parameters) -> None:
        """Nothing must be restored."""


def layers_or_none(layers: Sequence[int] | int | None) -> tuple[int, ...] | None:
    """Numbers of layers in order, as a tuple; one number stands for one layer.

    Raises:
        ArgumentError: If there is none, or one is not a whole number.
    """
    if layers is None:
        return None
    if isinstance(layers, str):
        raise ArgumentError(
            f"layers={layers!r:.80} is text. Give the numbers of blocks, e.g. (3, 4), or None for all."
        )
    given = layers if isinstance(layers, Iterable) else [layers]
    found = tuple(sorted({as_int("layers", layer) for layer in given}))
    if not found:
        raise ArgumentError("layers=() names no block to change. Give some, or None for all.")
    return found


def layers_of(layers: tuple[int, ...] | None, model: Model) -> tuple[int, ...]:
    """The named layers, or all of a model.

    Raises:
        ValueError: If the model has no such layer.
    """
    if layers is None:
        return tuple(range(model.n_layers))
    wrong = [layer for layer in layers if not 0 <= layer < model.n_layers]
    if wrong:
        raise ValueError(
            f"Layer {wrong[0]} is not in {model.name!r}, which has layers 0–{model.n_layers - 1}."
        )
    return layers
