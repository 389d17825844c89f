"""The cost of the same interventions on the same texts, again and again at other strengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.interventions.scaled import scaled
from steerlens.interventions.together import changes_of
from steerlens.measures.divergence import cost_engine, divergence
from steerlens.measures.engine import Read
from steerlens.measures.paths import ByReplay, Grid, Unedited, Wavefront
from steerlens.measures.tokenised import Examples
from steerlens.models.kernel import Kernel
from steerlens.models.model import Model
from steerlens.progress_bar import progress_bar
from steerlens.protocols import Intervention

MOST_KEPT = 2**29
"""Bytes that are kept at most: the same on every machine, so that all compute the same bits wherever
memory holds a unit of work."""


class RepeatedCost:
    """`divergence` at one strength for each intervention, as often as it is called.

    What the unsteered model computes for the texts is computed once and kept, where all interventions
    are edits of the stream, the fast pass can run, and it is no more than `MOST_KEPT` bytes. Elsewhere
    each call computes it again.
    """

    def __init__(
        self,
        model: Model,
        texts: Sequence[str],
        arms: Sequence[Intervention],
        *,
        progress: bool = True,
    ) -> None:
        self.model, self.texts, self.arms, self.progress = model, texts, tuple(arms), progress
        self._known: _Known | None = None
        self._asked = False
        """Whether it was tried to keep it."""

    @torch.no_grad()
    def __call__(
        self, chosen: Sequence[int], strengths: Sequence[float]
    ) -> Float[Tensor, "chosen text"]:
        """KL per token of some interventions, each at one multiplier.

        Raises:
            ValueError, SteeringError: As `divergence`.
        """
        edits = [scaled(self.arms[i], m) for i, m in zip(chosen, strengths, strict=True)]
        if not self._asked:
            self._known, self._asked = _Known.of(self.model, self.texts, self.arms), True
        if self._known is None:
            found = divergence(self.model, self.texts, edits, (1.0,), progress=self.progress)
            return found[:, 0]
        return self._known.costs(self.model, chosen, edits, self.progress)


@dataclass(frozen=True, eq=False)
class _Known:
    """What the unsteered model computes for texts."""

    kernel: Kernel
    kinds: tuple[type[Wavefront], ...]
    """The path of each intervention."""
    order: Int[Tensor, " text"]
    """The texts in the order of the units."""
    units: list[tuple[Examples, Unedited, Read]]

    @classmethod
    def of(cls, model: Model, texts: Sequence[str], arms: Sequence[Intervention]) -> _Known | None:
        """Runs the unsteered model; None where what it computes cannot be kept."""
        engine, examples, reading = cost_engine(model, texts, arms, (1.0,))
        plan = engine.plan(examples, reading)
        streams = (model.n_layers + 1) * examples.batch.width * model.d_model
        keys = 2 * model.n_layers * examples.batch.width * model.cfg.n_heads * model.cfg.d_head
        size = next(model.wrapped.parameters()).element_size()
        kept = len(examples) * ((streams + keys) * size + reading.bytes_per_example // 2)
        paths = [
            path
            for path in engine.paths
            if isinstance(path, Wavefront) and not isinstance(path, ByReplay)
        ]
        if len(paths) < len(engine.paths) or plan.is_cut or kept > MOST_KEPT:
            return None
        kinds: dict[int, type[Wavefront]] = {i: type(path) for path in paths for i in path.arms}
        kernel = paths[0].kernel
        whole = Wavefront(model, kernel, engine.grid, range(len(arms)))
        order, each = examples.by_length, min(path.examples_per_unit for path in plan.paths)
        ordered, units = examples.rows(order), []
        for start in range(0, len(examples), each):
            own = ordered.rows(slice(start, start + each)).trimmed()
            known, read = whole.unedited(own), reading.begin(own)
            read(known.states)  # first the unsteered ones, with which all others are compared
            units.append((own, known, read))
        return cls(kernel, tuple(kinds[i] for i in range(len(arms))), order.cpu(), units)

    def costs(
        self, model: Model, chosen: Sequence[int], edits: Sequence[Intervention], progress: bool
    ) -> Float[Tensor, "chosen text"]:
        """KL of the edits, which are those of the chosen interventions."""
        changes = tuple(changes_of(edit, model) for edit in edits)
        grid = Grid(tuple(edits), (1.0,), changes)
        by_kind: dict[type[Wavefront], list[int]] = {}
        for row, i in enumerate(chosen):
            by_kind.setdefault(self.kinds[i], []).append(row)
        found = torch.full((len(edits), len(self.order)), torch.nan, dtype=torch.float32)
        with progress_bar(progress, total=found.numel(), desc="cost", unit="cell") as bar:
            for kind, rows in by_kind.items():
                path = kind(model, self.kernel, grid, rows)
                for numbers, (examples, known, read) in zip(self._numbers, self.units, strict=True):
                    for ran, states in path.runs_from(known, examples, len(rows)):
                        values = read(states)[..., 0].cpu().float()
                        found[torch.tensor([row for row, _ in ran])[:, None], numbers] = values.T
                        bar.update(values.numel())
        return found

    @property
    def _numbers(self) -> tuple[Int[Tensor, " text"], ...]:
        """Which texts each unit has."""
        return self.order.split([len(examples) for examples, _, _ in self.units])
