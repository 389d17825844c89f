"""Finished runs in an experiment tracker: the extra steerlens[track]. Nothing is sent unless asked."""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
from typing import Any, Literal, Protocol, runtime_checkable

from steerlens.experiment.run import Run
from steerlens.results import headline_numbers_of, summary_rows

Service = Literal["trackio", "wandb"]
INSTALLED_BY: dict[Service, str] = {
    "trackio": 'pip install "steerlens[track]"',
    "wandb": "pip install wandb",
}


class TrackingError(ValueError):
    """A tracker that is not there, or that did not take a run; the message says what to do."""


@runtime_checkable
class Tracker(Protocol):
    """What is asked of a tracker: the calls that trackio and wandb have in common."""

    def init(self, *, project: str, name: str, config: dict[str, Any]) -> Any: ...
    def log(self, metrics: dict[str, Any], /) -> Any: ...
    def finish(self) -> Any: ...


def track_run(run: Run, service: Service = "trackio", *, project: str = "steerlens") -> None:
    """Logs a finished run: its headline numbers and the rows of its summary, in one step.

    The configuration of the tracked run holds the experiment's fields, the commit and the
    fingerprint of the weights. Texts of prompts and data are not sent, but for what the summary
    quotes. Where the numbers go is the tracker's: trackio keeps them on this machine unless its
    settings say otherwise, and wandb sends them to its server.

    Args:
        service: "trackio", or "wandb" where that is what you use.
        project: The tracker's project; the run in it is called as its folder.

    Raises:
        TrackingError: If the package is not installed, or refuses the run. The run's own folder is
            not touched.
    """
    tracker = require_tracker(service)
    rows = {f"summary/{label}": text for label, text in summary_rows(run.text).items()}
    numbers = {
        k: v for k, v in headline_numbers_of(run.results.values()).items() if math.isfinite(v)
    }
    config = {
        "commit": run.manifest["commit"],
        "fingerprint": run.manifest["model"]["fingerprint"],
        **run.manifest["fields"],
    }
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what trackers say is no result
            tracker.init(project=project, name=run.folder.name, config=config)
            try:
                tracker.log({**numbers, **rows})
            finally:
                tracker.finish()
    except Exception as error:  # whatever a tracker raises without a network or an account
        raise TrackingError(
            f"{service} did not take the run in {run.folder}, which is finished and kept: {error}. "
            "Give the same command again, or leave tracking out."
        ) from error


def require_tracker(service: Service) -> Tracker:
    """The tracker's package.

    Raises:
        TrackingError: If there is no such tracker, or it is not installed.
    """
    if service not in INSTALLED_BY:
        raise TrackingError(f"{service!r} is no tracker. Use {' or '.join(INSTALLED_BY)}.")
    try:
        found = importlib.import_module(service)
    except ImportError as error:
        raise TrackingError(
            f"Tracking by {service} needs its package: {INSTALLED_BY[service]}. Or leave tracking out."
        ) from error
    if not isinstance(found, Tracker):
        raise TrackingError(
            f"The module {service} has no init, log and finish. Is a file of yours called "
            f"{service}.py? Rename it, or {INSTALLED_BY[service]}."
        )
    return found
