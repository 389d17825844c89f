"""Workers as processes of this machine."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch
from tqdm import tqdm

from steerlens.arguments import as_int
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
from steerlens.models.checkpoints import CheckpointError
from steerlens.models.loading import require_device

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
GRACE = 2.0
"""Seconds that a worker has to end before it is killed."""


@dataclass
class _Process:
    process: BaseProcess
    pipe: Connection
    started: bool = False
    """Whether it has said that it can work."""
    idle: bool = False
    """Whether it waits to be given a run."""


@dataclass
class Local:
    """Processes of this machine, started anew (spawn).

    With `device="cuda"` and several GPUs, workers take them in turn.
    """

    threads: int | None = None
    """Of torch in each worker. By default OMP_NUM_THREADS where it is set, else the cores divided by
    the workers. Numbers can differ in their last bits between numbers of threads."""
    _each: int = field(default=1, init=False, repr=False)
    _devices: tuple[str, ...] = field(default=(), init=False, repr=False)
    _numbers: Iterator[int] = field(default_factory=itertools.count, init=False, repr=False)
    _running: dict[int, _Process] = field(default_factory=dict, init=False, repr=False)

    def require(self, cells: Sequence[GridCell], workers: int) -> int:
        """How many workers there are: those asked for, or as many as there are runs.

        Raises:
            EngineError: If a device of the grid is not there, or the threads are none.
        """
        for device in dict.fromkeys(cell.experiment.device for cell in cells):
            try:
                require_device(device)
            except CheckpointError as error:
                raise EngineError(str(error)) from error
        count = min(as_int("workers", workers, least=1), len(cells))
        self._each = threads_of(self.threads, count)
        if count > 1 and any(cell.experiment.device == "cuda" for cell in cells):
            self._devices = visible_devices()
        return count

    def start(self, setup: Setup) -> int:
        """Starts a process. It ends with this one, however this one ends."""
        number = next(self._numbers)
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        more = {name: str(self._each) for name in THREADS}
        if len(self._devices) > 1:
            more["CUDA_VISIBLE_DEVICES"] = self._devices[number % len(self._devices)]
        process = spawn.Process(
            target=serve, args=(theirs, self._each), daemon=True, name=f"steerlens-{number}"
        )
        with _environment(more), _no_interrupts():
            process.start()
        theirs.close()
        with contextlib.suppress(OSError):  # it may be gone already, as `wait` says
            ours.send_bytes(message_bytes(setup))
        self._running[number] = _Process(process, ours)
        return number

    def give(self, worker: int, experiment: bytes, name: str, again: bool) -> None:
        """Sends a run to a worker; that of a dead one is lost, as `wait` says."""
        self._running[worker].idle = False
        with contextlib.suppress(OSError):
            task = Task(experiment.decode(), name, again)
            self._running[worker].pipe.send_bytes(message_bytes(task))

    def wait(self, seconds: float) -> list[Event]:
        """What workers have sent, and which of them have ended."""
        ready = set(wait([one.pipe for one in self._running.values()], seconds))
        answered = [number for number, one in self._running.items() if one.pipe in ready]
        return [self._answer(number) for number in answered]

    def _answer(self, number: int) -> Event:
        """The next message of a worker, or how it ended."""
        one = self._running[number]
        try:
            answer = one.pipe.recv_bytes()
        except (EOFError, OSError):
            return Died(number, self._ended(number))
        one.idle = True
        if one.started:
            return Done(number, read_message(Outcome, answer))
        one.started = True
        if refused := read_message(Started, answer).refused:
            self.kill(number)
            return Died(number, refused, for_good=True)
        return Ready(number)

    def _ended(self, number: int) -> str:
        """How a process ended, in words, after its pipe was closed."""
        process = self._running[number].process
        process.join(GRACE)
        self.kill(number)
        code = process.exitcode
        if code is not None and code < 0:
            names = {int(one): one.name for one in signal.Signals}
            return f"killed by {names.get(-code, f'signal {-code}')}"
        return (
            f"the process ended with status {code}; from a script, call run_grid below "
            'if __name__ == "__main__":'
        )

    def kill(self, worker: int) -> None:
        """Ends a process: every file of a run is whole at every moment."""
        found = self._running.pop(worker, None)
        if found is not None:
            found.process.kill()
            found.process.join()
            found.pipe.close()

    def stop(self) -> None:
        """Ends all processes: those with nothing to do by themselves, the others at once."""
        for one in self._running.values():
            if one.idle:
                one.pipe.close()
            else:
                one.process.terminate()
        for one in self._running.values():
            one.process.join(GRACE)
        for number in list(self._running):
            self.kill(number)


def serve(pipe: Connection, threads: int) -> None:
    """The life of a worker: it is told the setup, says whether it can work, and then answers each
    run that it is given with an outcome."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started it decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _end_with_parent()
    tqdm.set_lock(threading.RLock())  # its own lock would outlive a killed process
    from steerlens.grid.cell_worker import CellWorker

    try:
        worker = CellWorker(read_message(Setup, pipe.recv_bytes()), threads)
    except (ValueError, OSError, ImportError, SyntaxError) as error:
        pipe.send_bytes(message_bytes(Started(str(error) or type(error).__name__)))
        return
    except EOFError:  # the process that started it has gone
        return
    pipe.send_bytes(message_bytes(Started()))
    while True:
        try:
            task = read_message(Task, pipe.recv_bytes())
        except (EOFError, OSError):
            return
        outcome = worker.run(task.experiment.encode(), task.name, task.again)
        pipe.send_bytes(message_bytes(outcome))


def _end_with_parent() -> None:
    """Ends this process as soon as the one that started it has gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def threads_of(asked: int | None, workers: int, cores: int | None = None) -> int:
    """Threads of each worker.

    Args:
        cores: That the workers share; by default those of this process.

    Raises:
        EngineError: If fewer than one is asked for.
    """
    if asked is None:
        stated = os.environ.get("OMP_NUM_THREADS", "")
        return (
            int(stated)
            if stated.isdigit() and int(stated)
            else max(1, (own_cores() if cores is None else cores) // workers)
        )
    if asked < 1:
        raise EngineError(f"threads={asked}: a worker needs at least one.")
    return asked


def own_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_devices() -> tuple[str, ...]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    if stated:
        return tuple(one.strip() for one in stated.split(","))
    return tuple(str(k) for k in range(torch.cuda.device_count()))


@contextlib.contextmanager
def _environment(more: dict[str, str]) -> Iterator[None]:
    """Variables that a process is started with."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """A process that is started here never gets Ctrl-C: it is ended by the one that started it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
