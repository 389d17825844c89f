"""One model and one grid of interventions and multipliers: planned, cut into units, computed.

Each intervention takes the fastest path that holds it, whatever the others need. Examples are cut
into units whose bounds depend on the work alone, and a unit is one batch on every machine whose
memory holds it, so that two machines write the same numbers to the last bit. Where memory does not
hold a unit its examples are halved until it does, and then the cells of one example are split;
numbers then differ by rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.arguments import as_floats, as_int
from steerlens.interventions.arms import require_each_fits
from steerlens.interventions.together import changes_of
from steerlens.measures.other_paths import Prompted, Recached, Reweighted, path_of
from steerlens.measures.paths import (
    ByReplay,
    ByRows,
    Grid,
    OneByOne,
    Path,
    SeveralEdits,
    States,
    Wavefront,
    chosen_by_rule,
)
from steerlens.measures.tokenised import Examples
from steerlens.models.kernel import Kernel
from steerlens.models.memory import free_bytes, in_chunks
from steerlens.models.model import Model
from steerlens.models.products import products_of
from steerlens.models.replay import Replay
from steerlens.models.speed import NOTHING, Work
from steerlens.models.wrapped_state import recordable
from steerlens.protocols import Intervention, ResidualEdit
from steerlens.store.cells import Cells, Unit

MAX_TOKENS = 8192
"""Columns of one unit of work; more at once does not get faster on a CPU, only larger."""
TIMES_ON_GPU = 16
"""So many times as many on any other device, which needs more rows to be busy."""

Read = Callable[[States], Float[Tensor, "example cell value"]]
"""Values of a run's states. It is called with the unsteered states first, if there are any."""


@dataclass(frozen=True)
class PathPlan:
    """What is computed by one path."""

    path: str
    """"wavefront", "several" (edits at several blocks), "weights", "cache", "prompts", "replay" (on a
    bridge: its blocks one by one), "rows" (on a bridge: all cells as rows of one batch) or
    "general"."""
    arms: int
    cells: int
    """Cells that must be computed: multiplier 0 is shared and costs nothing."""
    columns: int
    """Columns per row that the cells compute (the rest is each prompt's shared prefix)."""
    examples_per_unit: int
    bytes_per_unit: int
    """Working memory of one unit, about."""
    examples_per_batch: int = field(compare=False)
    """Fewer than a unit has where memory does not hold it."""
    cells_per_batch: int = field(compare=False)
    """Fewer than the path computes at once where memory does not hold one example."""

    def __str__(self) -> str:
        return (
            f"{self.cells} cells by the {self.path} path, {self.columns} columns per row, "
            f"{self.examples_per_unit} examples at a time (about "
            f"{self.bytes_per_unit / 2**20:.0f} MiB)"
        )


@dataclass(frozen=True)
class Plan:
    """What will be done and what it needs, known before it starts.

    Plans are equal, and are written equally, where the work is: how much memory is free does not
    count.
    """

    examples: int
    paths: tuple[PathPlan, ...]
    budget: int = field(compare=False)
    """Bytes of working memory that may be used."""
    work: Work | None = field(default=None, compare=False)
    """What all of it takes; None where that was not asked for."""
    seconds: float | None = field(default=None, compare=False)
    """About how long it will take on this machine; None where that was not asked for."""

    @property
    def cells(self) -> int:
        """Cells that must be computed."""
        return sum(path.cells for path in self.paths)

    @property
    def path(self) -> str:
        """The names of the paths."""
        return " + ".join(path.path for path in self.paths)

    @property
    def is_cut(self) -> bool:
        """Whether memory does not hold some unit, so that it is computed in smaller batches."""
        return any(path.bytes_per_unit > self.budget for path in self.paths)

    def __str__(self) -> str:
        what = f"{self.examples} examples x " + "; ".join(map(str, self.paths))
        return what if self.seconds is None else f"{what}; about {self.seconds:.2g} s"


@dataclass(frozen=True, eq=False)
class Reading:
    """What is read out of the states of examples."""

    begin: Callable[[Examples], Read]
    """For some examples: how their states are read."""
    values: int
    """Numbers for each cell and example."""
    unsteered: bool
    """Whether every path needs the unsteered states; else the first path gives them for all."""
    states: float = 0
    """States of each cell and example of which the logits of the whole vocabulary are computed."""
    bytes_per_example: int = 0
    """Memory that reading holds, beside that of the states."""
    finite: str = ""
    """What the values are called, where NaN and infinite ones are refused."""


@dataclass(frozen=True, eq=False)
class Measured:
    """Values of every cell."""

    steered: Float[Tensor, "intervention steered example value"]
    """In the order of the multipliers that are not 0."""
    unsteered: Float[Tensor, "example value"]
    """NaN where neither the multipliers nor the reading asks for them."""


class Engine:
    """Computes a grid. Whatever can be refused is refused when it is made or planned."""

    def __init__(
        self,
        model: Model,
        interventions: Sequence[Intervention],
        multipliers: Sequence[float],
        memory: SupportsIndex | None = None,
        products: str | None = None,
    ) -> None:
        """
        Args:
            memory: Bytes of working memory; by default a quarter of what is free.
            products: As in `sweep`.

        Raises:
            ArgumentError: If the memory is no whole number from 1, or a multiplier no number.
        """
        strengths = as_floats("multipliers", multipliers)
        if not interventions or not strengths:
            raise ValueError("Nothing to sweep: give at least one intervention and one multiplier.")
        self.model = model
        self.memory = (
            free_bytes(model.device) // 4 if memory is None else as_int("memory", memory, least=1)
        )
        require_each_fits(model, interventions)
        with model.unchanging():
            changes = tuple(changes_of(intervention, model) for intervention in interventions)
        self.grid = Grid(tuple(interventions), strengths, changes)
        self.products = products_of(model, products)
        self.paths = self._paths()

    def _paths(self) -> list[Path]:
        """Each intervention by the fastest path that holds it."""
        grid, arms = self.grid, range(len(self.grid.interventions))
        kinds = {i: path_of(grid, i) for i in arms}
        # Laid out once, while nothing of the grid is attached.
        kernel: Kernel | None = None
        if not self.model.attached and set(kinds.values()) - {None, Prompted}:
            kernel = self.model.kernel(products=self.products)
        by_kind: dict[type[Path], list[int]] = {}
        blocks: Replay | None = None
        if {Wavefront, SeveralEdits} & set(kinds.values()) and not self.model.attached:
            blocks = self.model.replay()
        for i, kind in kinds.items():
            if blocks is not None and kind in (Wavefront, SeveralEdits):
                kind = ByReplay
            elif kind is None or (kernel is None and kind is not Prompted):
                in_rows = isinstance(grid.interventions[i], ResidualEdit) and self.model.is_bridge
                kind = ByRows if in_rows else OneByOne
            by_kind.setdefault(kind, []).append(i)
        if self.products is not None and (other := set(by_kind) - {Wavefront, SeveralEdits}):
            i = by_kind[other.pop()][0]
            raise ValueError(
                f"products={str(self.products)[6:]!r} is for edits of the residual stream, and "
                f"{grid.interventions[i]!r:.80} is none. Leave products out, or sweep it apart."
            )
        paths: list[Path] = []
        for kind in (Wavefront, SeveralEdits, Reweighted, Recached):
            if kind in by_kind:
                assert kernel is not None
                paths.append(kind(self.model, kernel, grid, by_kind[kind]))
        if ByReplay in by_kind:
            assert blocks is not None
            paths.append(ByReplay(self.model, blocks, grid, by_kind[ByReplay]))
        for kind in (ByRows, Prompted, OneByOne):
            if kind in by_kind:
                paths.append(kind(self.model, grid, by_kind[kind]))
        return paths

    def plan(self, examples: Examples, reading: Reading | None = None) -> Plan:
        """What is computed at a time, and what it needs.

        Raises:
            SteeringError: If an intervention would edit no token of some example.
        """
        arms = range(len(self.grid.interventions))
        chosen_by_rule([edit for i in arms for edit in self.grid.edits(i)], examples.batch)
        extra = 0 if reading is None else reading.bytes_per_example
        paths = tuple(self._path_plan(path, examples, extra) for path in self.paths)
        return Plan(len(examples), paths, self.memory)

    def _path_plan(self, path: Path, examples: Examples, extra: int) -> PathPlan:
        columns, rows = path.columns(examples), path.at_once * examples.variants
        most = MAX_TOKENS * (1 if self.model.device.type == "cpu" else TIMES_ON_GPU)
        unit = min(len(examples), max(1, most // (rows * columns)))
        width = examples.batch.width
        each = self._bytes(rows, columns, width, path.kept_per_row(width)) + extra
        batch = unit
        while batch > 1 and batch * each > self.memory:
            batch = (batch + 1) // 2
        cells = path.at_once
        if each > self.memory:
            cells = max(1, int(cells * self.memory / each))
        return PathPlan(
            path.name,
            arms=len(path.arms),
            cells=max(1, len(path.cells)),
            columns=columns,
            examples_per_unit=unit,
            bytes_per_unit=unit * each,
            examples_per_batch=batch,
            cells_per_batch=cells,
        )

    def work(self, examples: Examples, reading: Reading) -> Work:
        """What `measure` would compute, unit by unit."""
        found, ordered = NOTHING, examples.rows(examples.by_length)
        for path, planned in zip(self.paths, self.plan(examples, reading).paths, strict=True):
            for start in range(0, len(examples), planned.examples_per_unit):
                unit = ordered.rows(slice(start, start + planned.examples_per_unit)).trimmed()
                found += path.work(unit)
                found += Work(states=reading.states * len(unit) * (1 + len(path.cells)))
        return found

    def _bytes(self, rows: int, columns: int, width: int, kept: int) -> int:
        """Working memory for one example: its shared prefix, and a block's work for its rows."""
        cfg, size = self.model.cfg, next(self.model.wrapped.parameters()).element_size()
        streams = 4 * cfg.d_model + 2 * (cfg.d_mlp or 0) + 3 * cfg.n_heads * cfg.d_head
        attention = 3 * cfg.n_heads * width
        each_row = columns * (streams + attention) + kept
        return (width * streams + rows * each_row) * size

    @recordable()  # a nudge takes gradients between two parts of the work
    def measure(
        self, examples: Examples, reading: Reading, cells: Cells, unit: str = "cell"
    ) -> Measured:
        """Every value of the grid, unit by unit; those of a former run are taken from its cells.

        Args:
            unit: What the progress bar counts.
        """
        plan, zero = self.plan(examples, reading), 0.0 in self.grid.multipliers
        order = examples.by_length  # a unit of like lengths has little padding
        ordered, order = examples.rows(order), order.cpu()
        steered = torch.full(
            (len(self.grid.interventions), len(self.grid.steered), len(examples), reading.values),
            torch.nan,
            dtype=torch.float32,
        )
        unsteered = torch.full((len(examples), reading.values), torch.nan, dtype=torch.float32)
        with cells.bar(len(examples) * plan.cells, unit) as bar:
            kept = replace(cells, facts={**cells.facts, **self._facts(examples, cells)})
            for k, (path, planned) in enumerate(zip(self.paths, plan.paths, strict=True)):
                needs = reading.unsteered or (k == 0 and zero)
                for start in range(0, len(examples), planned.examples_per_unit):
                    some = slice(start, min(start + planned.examples_per_unit, len(examples)))
                    own = ordered.rows(some).trimmed()
                    make = partial(self._unit, path, planned, own, order[some], reading, needs)
                    name = f"{path.name}-{some.start:06d}-{some.stop:06d}"
                    values = kept.compute(name, make)["values"]
                    if needs:
                        if k == 0:
                            unsteered[order[some]] = values[0]
                        values = values[1:]
                    shape = (len(path.arms), len(self.grid.steered), *values.shape[1:])
                    arms = torch.tensor(path.arms)[:, None]
                    steered[arms, :, order[some]] = values.reshape(shape).transpose(1, 2)
                    bar.update((some.stop - some.start) * planned.cells)
        return Measured(steered, unsteered)

    def _facts(self, examples: Examples, cells: Cells) -> dict[str, str]:
        """What decides the numbers of a unit, so far as it can be written down."""
        if cells.folder is None:
            return {}
        facts = {
            "examples": examples.digest,
            "multipliers": repr(self.grid.multipliers),
            "order": "by length",  # which examples a unit holds
        }
        return facts if self.products is None else {**facts, "products": str(self.products)}

    def _unit(
        self,
        path: Path,
        planned: PathPlan,
        own: Examples,
        numbers: Int[Tensor, " example"],
        reading: Reading,
        unsteered: bool,
    ) -> Unit:
        """The values of all cells of a path for a unit of examples, the unsteered ones first."""
        places = {cell: k + unsteered for k, cell in enumerate(path.cells)}

        def run(index: slice) -> Float[Tensor, "cell example value"]:
            part = own.rows(index)
            read = reading.begin(part)
            shape = (len(places) + unsteered, len(part), reading.values)
            out = torch.full(shape, torch.nan, dtype=torch.float32)
            # Closed at once after an error too: a path may have something attached meanwhile.
            with closing(path.runs(part, planned.cells_per_batch, unsteered)) as runs:
                for ran, states in runs:
                    where = [places[cell] for cell in ran] or [0]
                    out[where] = read(states).cpu().transpose(0, 1).float()
            return out

        values = in_chunks(run, len(own), planned.examples_per_batch, dim=1)
        if reading.finite and not bool(torch.isfinite(values).all()):
            bad = sorted(numbers[~values.isfinite().all(-1).all(0)].tolist())
            listed = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
            raise ValueError(
                f"Some {reading.finite} of examples {listed} are NaN or infinite. Use float32 or "
                "bfloat16, and smaller multipliers."
            )
        return {"values": values}
