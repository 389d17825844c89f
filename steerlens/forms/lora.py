"""LoRA: low-rank changes of weight matrices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from steerlens.arguments import ArgumentError, as_float, as_int
from steerlens.forms.form import Parameters, require_parameters, zeros
from steerlens.forms.post_block import layers_of, layers_or_none
from steerlens.forms.ranks import require_rank
from steerlens.interventions.changes import Composed, WeightChange
from steerlens.interventions.composition import composed
from steerlens.interventions.matrices import Matrix, Target, matrices
from steerlens.models.model import Model


@dataclass(frozen=True)
class LoRA:
    """W' = W + m · (alpha / rank) · A B for the chosen matrices of every block.

    Source: arXiv:2106.09685, with PEFT's initialisation: A uniform within ±1/√(what is read), B
    zero. Departures: no dropout, and the multiplier m.
    """

    rank: int = 8
    targets: tuple[Target, ...] = ("q", "v")
    """Which matrices: "q", "k", "v", "o" of attention, "in", "gate", "down" of the MLP."""
    layers: tuple[int, ...] | None = None
    """The blocks; None for all."""
    alpha: float | None = None
    """Scales the change, together with the rank; by default it is the rank."""
    rate: float = 2e-3

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", as_int("rank", self.rank))
        require_rank(self.rank)
        object.__setattr__(self, "layers", layers_or_none(self.layers))
        targets = (self.targets,) if isinstance(self.targets, str) else tuple(self.targets)
        if not targets or len(set(targets)) < len(targets):
            raise ValueError(
                f"targets={self.targets!r} names no matrix, or one twice. Write e.g. ('q', 'v')."
            )
        object.__setattr__(self, "targets", targets)
        if self.alpha is not None:
            object.__setattr__(self, "alpha", as_float("alpha", self.alpha))
            if self.alpha == 0:
                raise ArgumentError(
                    "alpha=0 multiplies every change by 0, so nothing could be trained. Leave it "
                    "out, or give the rank or more."
                )

    @property
    def scale(self) -> float:
        """What A B is multiplied by."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def blocks(self, model: Model) -> tuple[int, ...]:
        """The blocks that are changed."""
        return layers_of(self.layers, model)

    def matrices(self, model: Model) -> Iterator[tuple[Target, list[Matrix]]]:
        """The matrices that are changed, by target.

        Raises:
            ValueError: If the model does not have one of them.
        """
        for target in self.targets:
            yield target, matrices(model, target, self.blocks(model))

    def _shapes(self, model: Model) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for target, found in self.matrices(model):
            n, one = len(found), found[0]
            shapes[f"{target}.a"] = (n, one.reads, self.rank)
            shapes[f"{target}.b"] = (n, self.rank, one.writes)
        return shapes

    def begin(self, model: Model, generator: torch.Generator) -> Parameters:
        """Factors that read something and write nothing yet."""
        params: Parameters = {}
        for name, shape in self._shapes(model).items():
            if name.endswith(".b"):
                params[name] = zeros(shape, model)
                require_rank(self.rank, min(shape[2], params[name[:-1] + "a"].shape[1]))
            else:
                uniform = torch.rand(shape, generator=generator, dtype=torch.float32) * 2 - 1
                params[name] = (uniform * shape[1] ** -0.5).to(model.device)
        return params

    def intervention(self, model: Model, params: Parameters) -> Composed:
        """One low-rank change for every matrix."""
        require_parameters(self, params, self._shapes(model))
        changes = []
        for target, found in self.matrices(model):
            factors = zip(found, params[f"{target}.a"], params[f"{target}.b"], strict=True)
            for matrix, a, b in factors:
                scaled = b if self.scale == 1.0 else b * self.scale
                changes.append(WeightChange(matrix.name, matrix.low_rank(a, scaled)))
        return composed(changes, repr(self))

    def after_step(self, params: Parameters) -> None:
        """Nothing must be restored."""
