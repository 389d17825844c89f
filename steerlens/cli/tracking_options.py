"""`--track trackio|wandb --project NAME`: finished runs in an experiment tracker."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any, Literal

if TYPE_CHECKING:
    from steerlens.experiment import Run


def tracking_options(own: Collection[str] = ()) -> list[tuple[str, Any, Any]]:
    """The two options, for `make_dataclass`; none where an experiment has such fields of its own."""
    import tyro

    if {"track", "project"} & set(own):
        return []
    where = tyro.conf.arg(help="Logs the numbers of each finished run there; by default nowhere.")
    called = tyro.conf.arg(help="The tracker's project.")
    return [
        ("track", Annotated[Literal["trackio", "wandb"] | None, where], field(default=None)),
        ("project", Annotated[str, called], field(default="steerlens")),
    ]


def require_tracking(options: Any) -> None:
    """Raises TrackingError, before any work, if the tracker that is asked for is not there."""
    from steerlens.experiment.tracking import require_tracker

    if (service := _asked(options)) is not None:
        require_tracker(service)


def track(runs: Iterable[Run], options: Any) -> None:
    """Logs finished runs where the options ask for it."""
    from steerlens.experiment import track_run

    if (service := _asked(options)) is not None:
        for run in runs:
            track_run(run, service, project=options.project)


def _asked(options: Any) -> Any:
    """The tracker that is asked for; None also where experiments have such fields of their own."""
    return getattr(options, "track", None)
