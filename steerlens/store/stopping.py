"""Stopping a run from outside: a signal to end becomes an exception, so that files stay whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):
    """The system, a scheduler or a user asked the process to end (SIGTERM)."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Lets SIGTERM end the work as Ctrl-C does: by an exception.

    Both are a KeyboardInterrupt, so one `except KeyboardInterrupt` around the work catches them:

        with stoppable():
            try:
                experiment.run()
            except KeyboardInterrupt as stop:
                print("stopped; run the same command to go on")
                return exit_status(stop)

    Outside the main thread, where Python allows no handlers, it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signal.Signals(signum).name)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def exit_status(stop: KeyboardInterrupt) -> int:
    """What a shell expects of a process that a signal ended: 128 and the signal's number.

    >>> exit_status(KeyboardInterrupt()), exit_status(Stopped())
    (130, 143)
    """
    return 128 + (signal.SIGTERM if isinstance(stop, Stopped) else signal.SIGINT)
