"""What starts workers and carries messages to and from them, and what the messages are.

Every message is JSON, so that nothing that is read can name code to run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from steerlens.grid.grid_cells import GridCell


class EngineError(ValueError):
    """Workers that cannot be had as they were asked for."""


@dataclass(frozen=True)
class Setup:
    """What a worker needs to know, whichever run it is given: plain values only."""

    results: str
    """The folder of runs, as a whole path."""
    directory: str
    """The working directory, against which paths in fields are read."""
    modules: tuple[tuple[str, str], ...] = ()
    """Modules that define experiments, each with its file."""
    classes: tuple[tuple[str, str], ...] = ()
    """The classes of them that a worker must find: module and name."""
    path: tuple[str, ...] = ()
    """Where modules are looked for beside those of the worker."""


@dataclass(frozen=True)
class Started:
    """What a worker says first."""

    refused: str = ""
    """Why it cannot work; "" where it can."""
    node: str = ""
    """Where it is, of several machines."""
    pid: int = 0


@dataclass(frozen=True)
class Task:
    """One run, as it is given to a worker."""

    experiment: str
    """JSON, as `packed` makes it."""
    name: str
    """How the name of its folder begins."""
    again: bool
    """Whether another worker has begun it, and may only just have died."""


@dataclass(frozen=True)
class Outcome:
    """What came of one run, as a worker states it."""

    folder: str
    """The name of the run's folder."""
    error: str = ""
    """Why there is no finished run; "" where there is one."""
    fault: str = ""
    """The traceback, where the error is none that steerlens raises on purpose."""
    before: bool = False
    """Whether the run was finished before."""
    loaded: bool = False
    """Whether the model was loaded for it, and not kept from the run before."""
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0


Sent = TypeVar("Sent", Setup, Started, Task, Outcome)


def message_bytes(message: Setup | Started | Task | Outcome) -> bytes:
    """A message as JSON."""
    return json.dumps(asdict(message)).encode()


def read_message(kind: type[Sent], content: bytes) -> Sent:
    """The message of a kind that `message_bytes` has written."""
    return kind(**{name: _tuples(value) for name, value in json.loads(content).items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


# What happens to workers, as an engine tells it ---------------------------------------------------


@dataclass(frozen=True)
class Ready:
    """A worker has started."""

    worker: int


@dataclass(frozen=True)
class Done:
    """A worker has finished what it was given."""

    worker: int
    outcome: Outcome


@dataclass(frozen=True)
class Died:
    """A worker is gone, with what it was given."""

    worker: int
    why: str
    for_good: bool = False
    """Whether another worker would end the same way."""


Event: TypeAlias = Ready | Done | Died


@runtime_checkable
class Engine(Protocol):
    """Starts workers and carries messages: what differs between one machine and several.

    A worker makes a `CellWorker` and calls its `run` for each run that it is given. Which run goes
    to which worker, and what is done again, is decided by `schedule`.
    """

    def require(self, cells: Sequence[GridCell], workers: int) -> int:
        """How many workers there can be for these runs, at most those asked for.

        Raises:
            EngineError: If there cannot be any: no such device, or not installed. Nothing has been
                started or written then.
        """
        ...

    def start(self, setup: Setup) -> int:
        """Starts a worker and returns its number; `wait` says when it is ready."""
        ...

    def give(self, worker: int, experiment: bytes, name: str, again: bool) -> None:
        """Gives a ready worker a run.

        Args:
            experiment: JSON, as `packed` makes it.
            again: Whether another worker has begun it, and may only just have died.
        """
        ...

    def wait(self, seconds: float) -> list[Event]:
        """What has happened, as soon as something has; [] after so many seconds."""
        ...

    def kill(self, worker: int) -> None:
        """Ends a worker at once. `wait` says nothing more of it."""
        ...

    def stop(self) -> None:
        """Ends all workers. Called once, however the grid ends."""
        ...
