"""Reading the file of an experiment."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from steerlens.experiment.experiment import Experiment
from steerlens.experiment.experiment_data import ExperimentError


def load_experiment(path: Path | str) -> Experiment:
    """The value `experiment` that a Python file defines.

    The file is imported as a module of its own name, with its folder on the import path: classes
    that it defines can be found by name, and it can import the files beside it.

    Raises:
        ExperimentError: If there is no such file, or it defines no experiment.
    """
    path = Path(path)
    if not path.is_file():
        raise ExperimentError(f"{path} is not a file. Give a script that defines `experiment = …`.")
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(_module_name(path), path)
    if spec is None or spec.loader is None:
        raise ExperimentError(f"{path} is not a Python file. Its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    found = getattr(module, "experiment", None)
    if not isinstance(found, Experiment):
        raise ExperimentError(
            f"{path} defines no `experiment`. Add e.g. experiment = SteerabilityExperiment()."
        )
    return found


def _module_name(path: Path) -> str:
    """The name that `import` would give the file, unless another module has it."""
    name = path.stem
    there = sys.modules.get(name)
    if there is None or getattr(there, "__file__", None) == str(path):
        return name
    return f"experiment_file_{name}"
