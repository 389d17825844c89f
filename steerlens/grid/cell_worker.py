"""What a worker does, in a process of its own, whichever engine started it."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from steerlens.experiment import Experiment
from steerlens.grid.engines import EngineError, Outcome, Setup
from steerlens.grid.plain_experiment import (
    SCRIPT,
    SCRIPT_IN_WORKER,
    digest_in,
    found,
    read_experiment,
)
from steerlens.models.model import Model
from steerlens.store.run_folder import FolderInUse, is_finished

PATIENCE = 60.0
"""Seconds to wait for the lock of a run whose worker has just died, perhaps on another machine."""


class CellWorker:
    """Runs experiments one after the other. The model of the last one is kept for the next.

    Args:
        threads: Of torch, in this process.

    Raises:
        EngineError: If this machine does not see the folders and files of the grid.
        ExperimentError: If a file does not define here the class that it defines where the grid was
            asked for.
    """

    def __init__(self, setup: Setup, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._setup = setup
        self._kept: tuple[Any, Model] | None = None
        for folder in (setup.directory, str(Path(setup.results).parent)):
            if not Path(folder).is_dir():
                raise EngineError(
                    f"A worker does not see {folder}. Workers on several machines need a file "
                    "system that all of them share, at the same path."
                )
        os.chdir(setup.directory)
        sys.path.extend(folder for folder in setup.path if folder not in sys.path)
        for module, file in setup.modules:
            require_module(module, file)
        for module, name in setup.classes:
            found(module, name)

    def run(self, experiment: bytes, name: str, again: bool) -> Outcome:
        """One run, in its folder; what it came to, or why it did not.

        Args:
            experiment: JSON, as `experiment_bytes` makes it.
        """
        start = time.perf_counter()
        folder = f"{name}-{digest_in(experiment)}"
        before = is_finished(Path(self._setup.results) / folder)
        error = fault = ""
        loaded = False
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("default")
            try:
                made = read_experiment(experiment)
                loaded = self._load(made)
                self._finish(made, name, again)
            except (ValueError, OSError) as refused:
                error = str(refused)
            except Exception as raised:
                error, fault = f"{type(raised).__name__}: {raised}", traceback.format_exc()
        said = tuple(dict.fromkeys(str(one.message) for one in warned))
        return Outcome(folder, error, fault, before, loaded, said, time.perf_counter() - start)

    def _load(self, experiment: Experiment) -> bool:
        """Makes the experiment's model the kept one; whether it had to be loaded."""
        key = model_key(experiment)
        if self._kept is not None and key is not None and self._kept[0] == key:
            return False
        self._kept = None
        gc.collect()  # before the next model needs the memory
        self._kept = (key, experiment.load_model())
        return True

    def _finish(self, experiment: Experiment, name: str, again: bool) -> None:
        """Runs the experiment; waits for the lock where its former worker may still hold it."""
        assert self._kept is not None
        until = time.monotonic() + (PATIENCE if again else 0.0)
        while True:
            try:
                experiment.run(self._setup.results, name=name, progress=False, model=self._kept[1])
                return
            except FolderInUse:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)


def model_key(experiment: Experiment) -> tuple[object, ...] | None:
    """What decides the model: equal keys, the same model. None where it is not known."""
    if type(experiment).load_model is not Experiment.load_model:
        return None
    return (experiment.model, experiment.device, experiment.dtype, experiment.prepend_bos)


def require_module(name: str, file: str) -> None:
    """Makes a module known by the name that it has in the process that asked.

    Raises:
        EngineError: If the file is not there.
    """
    name = SCRIPT_IN_WORKER if name == SCRIPT else name
    there = sys.modules.get(name)
    if there is not None and getattr(there, "__file__", None) == file:
        return
    folder = str(Path(file).parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    found = importlib.util.find_spec(name) if there is None else None
    if found is not None and found.origin and Path(found.origin).resolve() == Path(file):
        return  # an ordinary import finds it
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not Path(file).is_file():
        raise EngineError(
            f"A worker does not see {file}, which defines the experiment. Workers on several "
            "machines need a file system that all of them share."
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
