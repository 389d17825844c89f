"""What an experiment works with while it measures: its model, its inputs, and where things are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from steerlens.data.contrast_set import ContrastSet
from steerlens.directions import Activations
from steerlens.experiment.experiment_data import ExperimentError
from steerlens.measures.activation_store import ActivationStore
from steerlens.models.model import Model
from steerlens.results import Result
from steerlens.sites import Site
from steerlens.store.cells import Cells


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What an experiment works on, loaded and checked before anything is written.

    An experiment that needs more than sets of pairs subclasses it.
    """

    data: Mapping[str, ContrastSet]
    """The parts of the data by name. Their content hashes are in the manifest."""
    stated: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else decides the numbers: entries of the manifest, as JSON can hold them."""


I = TypeVar("I", bound=Inputs)  # noqa: E741 (the inputs of an experiment)
R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Workplace(Generic[I]):
    """What `Experiment.measure` is given.

    A run can be killed at any time. `measure` is then called again with the same inputs: results
    that were kept are read instead of made again (`compute`), and so are finished units of work
    (`cells`) and activations.
    """

    model: Model
    inputs: I
    folder: Path
    """The folder of the run."""
    cells: Cells
    """Finished units of work: give `cells.part("a name")` to an analysis."""
    results: Mapping[str, type[Result]]
    """The classes of what a finished run may hold, by kind."""
    progress: bool = True

    def compute(self, of: type[R], make: Callable[[], R]) -> R:
        """The result of a class: the one that a killed run kept, or a new one, which is kept.

        Raises:
            ResultError: If a file of a kept result is damaged.
        """
        parts = [self.folder / f"{of.kind}.{ending}" for ending in ("json", "safetensors")]
        if not all(part.exists() for part in parts):
            return self.keep(make())
        # The run may have been killed before the last file of the result: write what is missing.
        return self.keep(of.load(self.folder))

    def keep(self, result: R) -> R:
        """Writes a result into the run's folder.

        Raises:
            ExperimentError: If the experiment does not state that its runs hold such a result.
        """
        known = self.results.get(result.kind)
        if known is None or not isinstance(result, known):
            listed = ", ".join(one.__name__ for one in self.results.values())
            raise ExperimentError(
                f"The experiment keeps a {type(result).__name__} (kind {result.kind!r}), but its "
                f"`results` state only {listed}. Add the class there."
            )
        result.save(self.folder)
        return result

    def activations(self, pairs: ContrastSet, sites: Sequence[Site] | None = None) -> Activations:
        """The model's activations for pairs, kept in the run's folder."""
        store = ActivationStore(self.folder / "activations")
        return store.activations(self.model, pairs, sites, progress=self.progress)
