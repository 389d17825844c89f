"""Workers as Ray Core actors, on one machine or on several: the extra steerlens[ray]."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from steerlens.arguments import as_int
from steerlens.grid.cell_worker import CellWorker
from steerlens.grid.engines import (
    Died,
    Done,
    EngineError,
    Event,
    Outcome,
    Ready,
    Setup,
    Started,
    Task,
    message_bytes,
    read_message,
)
from steerlens.grid.grid_cells import GridCell
from steerlens.grid.local_engine import threads_of

POLL = 3.0
"""Seconds between two looks at which nodes are alive: calls to a dead one stay open for long."""


class RayWorker:
    """An actor: a `CellWorker` on some node.

    It takes and gives bytes of JSON, which Ray carries as they are. Ray itself hands over the class of
    the actor, by its name.
    """

    def __init__(self, setup: bytes, threads: int) -> None:
        self._worker: CellWorker | None = None
        self._why = ""
        try:
            self._worker = CellWorker(read_message(Setup, setup), threads)
        except (ValueError, OSError, ImportError, SyntaxError) as error:
            self._why = str(error) or type(error).__name__

    def ready(self) -> bytes:
        """Whether the actor can work, and where it is."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        return message_bytes(Started(self._why, node, os.getpid()))

    def run(self, task: bytes) -> bytes:
        """One run."""
        assert self._worker is not None
        given = read_message(Task, task)
        outcome = self._worker.run(given.experiment.encode(), given.name, given.again)
        return message_bytes(outcome)


@dataclass
class _Actor:
    handle: Any
    waiting: Any
    """The reference of what it is doing; None where it has nothing to do."""
    since: float
    node: str | None = None
    """Where it is; None until it has started."""
    pid: int | None = None


@dataclass
class OnRay:
    """Ray Core actors.

    Without a running cluster one is started on this machine and ended with the grid. On several
    machines the results, the experiment's file and all files of data must be on a file system that
    all of them share, at the same path. Numbers are the same as with `Local` where processors and
    threads are.
    """

    address: str | None = None
    """Of a cluster, e.g. "auto". By default RAY_ADDRESS, else the cluster that `ray start` has started
    on this machine, else one that is started here; "local" always starts one."""
    cpus: int | None = None
    """Of each worker, and the threads of torch in it. By default OMP_NUM_THREADS where it is set,
    else the cores of the cluster divided by the workers."""
    gpus: float | None = None
    """Of each worker: by default 1 where a device of the grid is a GPU, else 0."""
    patience: float = 120.0
    """Seconds that a worker may take to start, with a cluster that is busy, before it is given up."""
    _each: int = field(default=1, init=False, repr=False)
    _gpus: float = field(default=0.0, init=False, repr=False)
    _ours: bool = field(default=False, init=False, repr=False)
    _looked: float = field(default=0.0, init=False, repr=False)
    _numbers: Iterator[int] = field(default_factory=itertools.count, init=False, repr=False)
    _actors: dict[int, _Actor] = field(default_factory=dict, init=False, repr=False)

    def require(self, cells: Sequence[GridCell], workers: int) -> int:
        """How many workers the cluster has room for, at most those asked for.

        Raises:
            EngineError: If Ray is not installed, there is no cluster at the address, or it has not
                the processors or GPUs that one worker needs.
        """
        count = min(as_int("workers", workers, least=1), len(cells))
        self._join()
        try:
            return self._fitting(cells, count)
        except BaseException:
            self._leave()
            raise

    def _fitting(self, cells: Sequence[GridCell], count: int) -> int:
        """How many workers fit on the cluster."""
        there = _ray().cluster_resources()
        total = int(there.get("CPU", 0))
        on_gpus = any(cell.experiment.device.startswith("cuda") for cell in cells)
        self._gpus = float(on_gpus) if self.gpus is None else self.gpus
        self._each = threads_of(self.cpus, max(1, count), cores=total)
        room = [total // self._each]
        if self._gpus > 0:
            room.append(math.floor(there.get("GPU", 0) / self._gpus))
        if min(room) < 1:
            raise EngineError(
                f"A worker needs {self._each} processor(s) and {self._gpus:g} GPU(s), and the "
                f"cluster has {total} and {there.get('GPU', 0):g} in all. Ask for less, or start "
                "nodes that have them."
            )
        return min(count, *room)

    def _join(self) -> None:
        """Connects to a cluster, or starts one."""
        ray = _ray()
        if ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        options: dict[str, Any] = {
            "log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False,
        }  # fmt: skip
        if self.address is not None or os.environ.get("RAY_ADDRESS"):
            del options["include_dashboard"]  # of a cluster that runs already
        try:
            ray.init(address=self.address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise EngineError(
                f"There is no Ray cluster at {self.address!r} ({error}). Start one with `ray start "
                "--head`, or leave the address out to start one here."
            ) from error
        self._ours = True

    def start(self, setup: Setup) -> int:
        """Starts an actor, as soon as a node has room for it."""
        number = next(self._numbers)
        made = _ray().remote(RayWorker).options(
            num_cpus=self._each, num_gpus=self._gpus, max_restarts=0, max_task_retries=0,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(self._each)}},
        ).remote(message_bytes(setup), self._each)  # fmt: skip
        self._actors[number] = _Actor(made, made.ready.remote(), time.monotonic())
        return number

    def give(self, worker: int, experiment: bytes, name: str, again: bool) -> None:
        """Calls the actor; the call to a dead one is lost, as `wait` says."""
        actor = self._actors[worker]
        task = message_bytes(Task(experiment.decode(), name, again))
        actor.waiting = actor.handle.run.remote(task)

    def wait(self, seconds: float) -> list[Event]:
        """What actors have answered, and which of them are gone."""
        ray = _ray()
        waiting = {a.waiting: k for k, a in self._actors.items() if a.waiting is not None}
        if not waiting:
            time.sleep(min(seconds, 0.1))
            return []
        answered, _ = ray.wait(list(waiting), num_returns=1, timeout=seconds)
        return [self._answer(waiting[one], one) for one in answered] or self._gone()

    def _answer(self, number: int, answered: Any) -> Event:
        actor = self._actors[number]
        actor.waiting = None
        try:
            answer = _ray().get(answered)
        except Exception as error:  # whatever ended the actor or its node
            self.kill(number)
            return Died(number, _first_line(error))
        if actor.node is not None:
            return Done(number, read_message(Outcome, answer))
        said = read_message(Started, answer)
        actor.node, actor.pid = said.node, said.pid
        if said.refused:
            self.kill(number)
            return Died(number, said.refused, for_good=True)
        return Ready(number)

    def _gone(self) -> list[Event]:
        """Actors whose node is dead, and those that could not start in time."""
        now = time.monotonic()
        if now - self._looked < POLL:
            return []
        self._looked = now
        alive = {node["NodeID"] for node in _ray().nodes() if node["Alive"]}
        events: list[Event] = []
        for number, actor in list(self._actors.items()):
            if actor.node is not None and actor.node not in alive:
                self.kill(number)
                events.append(Died(number, "its node is gone"))
            elif actor.node is None and now - actor.since > self.patience:
                self.kill(number)
                why = f"no node had room for it, or started it, within {self.patience:g} s"
                events.append(Died(number, why, for_good=True))
        return events

    def kill(self, worker: int) -> None:
        """Ends an actor: every file of a run is whole at every moment."""
        actor = self._actors.pop(worker, None)
        if actor is not None:
            with contextlib.suppress(Exception):  # it may be gone, and its node as well
                _ray().kill(actor.handle)

    def stop(self) -> None:
        """Ends all actors, and the cluster if it was started here."""
        for number in list(self._actors):
            self.kill(number)
        self._leave()

    def _leave(self) -> None:
        if self._ours:
            self._ours = False
            _ray().shutdown()


def _ray() -> Any:
    """Ray itself.

    Raises:
        EngineError: If it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise EngineError(
            'Workers on Ray need Ray: pip install "steerlens[ray]". Or use on="local".'
        ) from error
    return ray


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
