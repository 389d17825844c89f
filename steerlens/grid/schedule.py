"""Which worker does which run, and what is done again: the same for every engine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from steerlens.grid.cell_worker import model_key
from steerlens.grid.engines import Died, Done, Engine, EngineError, Outcome, Ready, Setup
from steerlens.grid.grid_cells import GridCell, packed

TRIES = 3
"""How often a run is begun whose worker dies."""
SLOW, SLOWEST = 60.0, 3.0
"""A run is called slow after so many seconds, and so many times the median of those before."""
TICK = 2.0
"""Seconds after which slow runs are looked for although nothing has happened."""

Finished = Callable[[int, Outcome], None]
"""Is told the index of a run and what came of it, once its worker has been given the next one."""
Say = Callable[[int, Outcome | None, str], None]
"""Is told the index of a run, what came of it if it is over, and a line about it otherwise."""


@dataclass
class _Worker:
    """A worker as the schedule sees it."""

    ready: bool = False
    cell: int | None = None
    key: object = None
    """The model that it holds."""
    since: float = 0.0
    called_slow: bool = False


@dataclass
class Schedule:
    """Hands runs to workers until every run has an outcome.

    A worker is given a run with the model that it holds, if any is left. A run whose worker dies is
    begun again, up to `TRIES` times; what it had finished is kept. A run that fails is not begun
    again, and the others go on.
    """

    cells: Sequence[GridCell]
    engine: Engine
    setup: Setup
    say: Say
    limit: float | None = None
    """Seconds that a run may take; its worker is then ended."""
    finished: Finished | None = None
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    _packed: list[bytes] = field(default_factory=list)
    _todo: list[int] = field(default_factory=list)
    _tries: dict[int, int] = field(default_factory=dict)
    _workers: dict[int, _Worker] = field(default_factory=dict)
    _seconds: list[float] = field(default_factory=list)
    _not_started: int = 0

    def run(self, workers: int) -> list[Outcome]:
        """Runs everything on so many workers, and ends them, however it ends.

        Raises:
            EngineError: If no worker can be started.
        """
        self._packed = [packed(cell) for cell in self.cells]
        self._todo = list(range(len(self.cells)))
        try:
            for _ in range(min(workers, len(self.cells))):
                self._start()
            while len(self.outcomes) < len(self.cells):
                for event in self.engine.wait(TICK):
                    self._happened(event)
                self._look_at_slow()
        finally:
            self.engine.stop()
        return [self.outcomes[k] for k in range(len(self.cells))]

    def _happened(self, event: Ready | Done | Died) -> None:
        worker = self._workers.get(event.worker)
        if worker is None:  # it was ended before
            return
        if isinstance(event, Ready):
            worker.ready = True
            self._give(event.worker)
        elif isinstance(event, Done):
            k = self._over(worker, event.outcome)
            self._give(event.worker)
            if self.finished is not None:  # the worker does not wait for it
                self.finished(k, event.outcome)
        else:
            self._lost(event.worker, worker, event.why, event.for_good)

    def _start(self) -> None:
        self._workers[self.engine.start(self.setup)] = _Worker()

    def _give(self, number: int) -> None:
        """Gives a worker its next run, if one is left."""
        worker = self._workers[number]
        if not self._todo:
            return
        k = self._next(worker.key)
        self._todo.remove(k)
        self._tries[k] = self._tries.get(k, 0) + 1
        worker.cell, worker.since, worker.called_slow = k, time.monotonic(), False
        worker.key = model_key(self.cells[k].experiment)
        self.engine.give(number, self._packed[k], self.cells[k].name, self._tries[k] > 1)

    def _next(self, held: object) -> int:
        """The next run: with the model that is held, else with one that no other worker holds."""
        keys = {k: model_key(self.cells[k].experiment) for k in self._todo}
        if held is not None and (same := [k for k in self._todo if keys[k] == held]):
            return same[0]
        taken = [worker.key for worker in self._workers.values()]
        free = [k for k in self._todo if keys[k] is None or keys[k] not in taken]
        return (free or self._todo)[0]

    def _over(self, worker: _Worker, outcome: Outcome) -> int:
        k = worker.cell
        assert k is not None
        worker.cell = None
        self.outcomes[k] = outcome
        if not outcome.error and not outcome.before:
            self._seconds.append(outcome.seconds)
        self.say(k, outcome, "")
        return k

    def _lost(self, number: int, worker: _Worker, why: str, for_good: bool) -> None:
        """Puts back what a dead worker had, and starts another if there is work for it."""
        del self._workers[number]
        if worker.cell is not None:
            self._begin_again(worker.cell, why)
        elif not worker.ready:
            self._not_started += 1
            if for_good or self._not_started >= TRIES:
                if not self._workers:
                    raise EngineError(f"No worker could be started: {why}")
                return  # those that there are go on
        if len(self._workers) < len(self._todo) + self._running():
            self._start()

    def _begin_again(self, k: int, why: str) -> None:
        if self._tries[k] < TRIES:
            self._todo.insert(0, k)
            self.say(k, None, f"its worker ended ({why}); it is begun again where it was")
            return
        error = f"its worker ended {TRIES} times, the last time so: {why}"
        self.outcomes[k] = Outcome(self.cells[k].folder, error)
        self.say(k, self.outcomes[k], "")

    def _running(self) -> int:
        return sum(worker.cell is not None for worker in self._workers.values())

    def _look_at_slow(self) -> None:
        """Says which runs are slow, and ends those that take longer than allowed."""
        usual = statistics.median(self._seconds) if self._seconds else 0.0
        for number, worker in list(self._workers.items()):
            if worker.cell is None:
                continue
            k, taken = worker.cell, time.monotonic() - worker.since
            if self.limit is not None and taken > self.limit:
                self.engine.kill(number)
                del self._workers[number]
                why = f"it took longer than {self.limit:g} s; what it has finished is kept"
                self.outcomes[k] = Outcome(self.cells[k].folder, why, seconds=taken)
                self.say(k, self.outcomes[k], "")
                if len(self._workers) < len(self._todo) + self._running():
                    self._start()
            elif taken > max(SLOW, SLOWEST * usual) and not worker.called_slow:
                worker.called_slow = True
                self.say(k, None, f"slow: it has taken {taken:.0f} s and goes on")
