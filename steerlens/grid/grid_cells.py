"""The combinations of a grid, each an experiment of its own."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlens.experiment import Experiment, ExperimentError
from steerlens.experiment.experiment_data import load_pairs
from steerlens.grid.plain_experiment import classes_of, experiment_bytes

Axes = Mapping[str, Sequence[Any]]
"""The fields that differ between the runs of a grid, with their values."""


@dataclass(frozen=True)
class GridCell:
    """One combination of the values of a grid."""

    values: Mapping[str, Any]
    """By field: the value as the experiment has it."""
    experiment: Experiment
    name: str
    """How the name of the run's folder begins."""

    @property
    def folder(self) -> str:
        """The name of the run's folder: that of the same experiment run alone."""
        return f"{self.name}-{self.experiment.digest}"

    def __str__(self) -> str:
        return " ".join(f"{name}={in_short(value)}" for name, value in self.values.items())


def grid_cells(experiment: Experiment, axes: Axes, *, name: str | None = None) -> list[GridCell]:
    """Every combination of the values, in order; the last field changes fastest.

    Args:
        experiment: What all runs share.
        axes: By field: the values that it takes.
        name: How the names of the folders begin; by default the kind of experiment.

    Raises:
        ExperimentError: If a field does not exist or has no values, if a value cannot be a value of
            its field, or if two combinations are the same experiment.
    """
    require_fields(experiment, axes)
    begun = name or experiment.kind
    cells: list[GridCell] = []
    seen: dict[str, GridCell] = {}
    for values in itertools.product(*axes.values()):
        asked = dict(zip(axes, values, strict=True))
        try:
            made = dataclasses.replace(experiment, **asked)
            cell = GridCell({field: getattr(made, field) for field in axes}, made, begun)
            digest = made.digest
        except (ValueError, TypeError) as error:
            words = ", ".join(f"{field}={value!r}" for field, value in asked.items())
            raise ExperimentError(f"The grid asks for {words}, which cannot be: {error}") from error
        if digest in seen:
            raise ExperimentError(
                f"The grid holds {cell} twice: {seen[digest]} is the same experiment. Give each "
                "value once."
            )
        seen[digest] = cell
        cells.append(cell)
    return cells


def require_fields(experiment: Experiment, names: Mapping[str, Sequence[Any]]) -> None:
    """Raises ExperimentError unless every name is a field, with a sequence of values."""
    known = [f.name for f in dataclasses.fields(experiment)]
    if not names:
        raise ExperimentError(
            "The grid names no field. Give at least one with its values, e.g. seed=0,1,2."
        )
    for name, values in names.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 3)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"It has {', '.join(known)}."
            raise ExperimentError(f"{type(experiment).__name__} has no field {name!r}. {hint}")
        if isinstance(values, str | bytes) or not isinstance(values, Sequence):
            raise ExperimentError(
                f"{name}={values!r} is one value. Give a list of values: {name}=[{values!r}]."
            )
        if not values:
            raise ExperimentError(
                f"{name} has no value in the grid. Give at least one, or leave it out."
            )


def require_data(cells: Sequence[GridCell]) -> None:
    """Reads every contrast of a grid once, so that a missing file is known before any work.

    Raises:
        ExperimentError: If one cannot be read.
    """
    seen = set()
    for cell in cells:
        made = cell.experiment
        if made.contrast in seen:
            continue
        seen.add(made.contrast)
        try:
            load_pairs(made.contrast, made.n_fit, made.seed)
        except (ValueError, OSError) as error:
            raise ExperimentError(f"The run {cell} cannot start: {error}") from error


def packed(cell: GridCell) -> bytes:
    """The experiment as a worker reads it (`plain_experiment`).

    Raises:
        ExperimentError: If a worker could not make the same experiment of it.
    """
    try:
        return experiment_bytes(cell.experiment)
    except ExperimentError as error:
        raise ExperimentError(f"The run {cell} cannot be handed to a worker: {error}") from error


def own_classes(cells: Sequence[GridCell]) -> list[type]:
    """The classes outside steerlens that define the experiments and their fields."""
    held = set[type]().union(*(classes_of(cell.experiment) for cell in cells))
    own = [of for of in held if not f"{of.__module__}.".startswith(("builtins.", "steerlens."))]
    return sorted(own, key=lambda of: (of.__module__, of.__qualname__))


def modules_of(classes: Sequence[type]) -> tuple[tuple[str, str], ...]:
    """The modules of classes: name and file.

    Raises:
        ExperimentError: If one is defined in a notebook or at a prompt.
    """
    files: dict[str, str] = {}
    for of in classes:
        file = getattr(sys.modules.get(of.__module__), "__file__", None)
        if file is None:
            raise ExperimentError(
                f"{of.__name__} is defined in {of.__module__}, which is no file, so workers cannot "
                "read it. Put the class into a file beside the notebook and import it."
            )
        files[of.__module__] = str(Path(file).resolve())
    return tuple(sorted(files.items()))


def digest_of_grid(cells: Sequence[GridCell]) -> str:
    """Names the grid: changes with every run in it."""
    digests = sorted(cell.experiment.digest for cell in cells)
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:10]


def in_short(value: Any) -> str:
    """A value of a field as a reader sees it: "DiffMean" for "DiffMean()".

    >>> in_short("DiffMean()"), in_short([0, 1]), in_short(None), in_short(0.25)
    ('DiffMean', '0 1', 'none', '0.25')
    """
    if isinstance(value, tuple | list):
        return " ".join(map(in_short, value))
    return "none" if value is None else str(value).removesuffix("()")
