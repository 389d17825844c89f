"""`steerlens run | show | list | compare | doctor`: parses, calls, prints; decides nothing."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from steerlens.cli.finished_command import finished_before, note
from steerlens.cli.grid_command import Asked, asked_of, named_in, require_name, run_asked_grid
from steerlens.cli.plain_terminal import any_encoding
from steerlens.cli.tracking_options import require_tracking, track, tracking_options
from steerlens.store.files import expanded
from steerlens.store.headline import MANIFEST, Listed, runs_in, table

if TYPE_CHECKING:
    from steerlens.experiment import Experiment

USAGE = """\
usage: steerlens run FILE [--plan] [--results FOLDER] [--name NAME] [--figures svg]
                     [--track trackio|wandb] [--project NAME] [--FIELD VALUE …]
       steerlens run FILE --grid FIELD=VALUE,VALUE … [--workers N] [--on local|ray]
                     [--threads N] [--limit SECONDS] [--track trackio|wandb] [--project NAME]
                     [--FIELD VALUE …]
       steerlens show FOLDER
       steerlens list [FOLDER]
       steerlens compare FOLDER FOLDER …
       steerlens doctor
       steerlens --version

run      Runs the `experiment` that FILE defines, with any of its fields overridden.
         `steerlens run FILE --help` lists the fields with their types and defaults.
         A run that was stopped goes on where it was. Progress bars are for terminals.
         With --plan it only prints how long each part would take on this machine.
         With --grid every combination of the values is a run of its own, several at a time.
         With --track the numbers of each finished run are logged in a tracker's project.
show     Prints what a finished run found.
list     Lists the runs in a folder (default: results): model, contrast, cell, gain, cost.
compare  Puts finished runs side by side, question by question where they ask the same ones.
doctor   Prints versions, threads, memory and devices, and whether a stored result is
         reproduced here: what a bug report needs.
"""
FAILED, ERROR, INTERRUPTED, BROKEN_PIPE, TERMINATED = 1, 2, 128 + 2, 128 + 13, 128 + 15
"""Exit statuses: a run of a grid that failed, a user's error, and what a shell reports for the
signals INT, PIPE and TERM."""


class Terminated(BaseException):
    """The process was asked to end (SIGTERM)."""


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status: 0; 2 for a user's error; 128 + n for a signal n."""
    words = sys.argv[1:] if arguments is None else arguments
    commands = {
        "run": _run, "show": _show, "list": _list, "compare": _compare, "doctor": _doctor,
    }  # fmt: skip
    try:
        with _terminable(), any_encoding():
            if not words or words[0] in ("-h", "--help"):
                print(USAGE, end="", flush=True)
                return 0 if words else ERROR
            if words[0] in ("--version", "-V"):
                print(f"steerlens {version('steerlens')}", flush=True)
                return 0
            if words[0] != "run" and words[0] in commands and set(words[1:]) & {"-h", "--help"}:
                print(USAGE, end="", flush=True)
                return 0
            if words[0] not in commands:
                return _refused(f"there is no command {words[0]!r}\n\n{USAGE.rstrip()}")
            status = commands[words[0]](words[1:])
            sys.stdout.flush()  # here, where a broken pipe is expected
            return status
    except (KeyboardInterrupt, Terminated) as stop:
        again = "; run the same command to go on" if words[:1] == ["run"] else ""
        print(f"steerlens: stopped{again}", file=sys.stderr)
        return INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED
    except BrokenPipeError:
        # The reader of the output has gone. Python would complain when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (ValueError, OSError) as error:
        # Everything that steerlens refuses is one of these; a fault of ours keeps its traceback.
        return _refused(str(error))


def run_file(path: Path, words: list[str]) -> int:
    """What `python FILE` does, for the last lines of an experiment's file."""
    return main(["run", str(path), *words])


def run_experiment(
    experiment: Experiment, name: str, words: list[str], path: Path | None = None
) -> int:
    """Applies typed overrides to an experiment, runs it, and prints its summary.

    Args:
        path: The experiment's file, where there is one: the command is noted for `finished_before`.
    """
    from dataclasses import field, fields, make_dataclass

    import tyro

    from steerlens.experiment.experiment_data import DataWarning
    from steerlens.plots import require_drawing
    from steerlens.progress_bar import watched

    results = tyro.conf.arg(help="Folder that holds the runs.")
    pictures = tyro.conf.arg(help="Also writes every figure of the page, as in print, to a folder.")
    called = tyro.conf.arg(help="What the run's folder is called, before its digest.")
    options_of: list[Any] = [
        ("experiment", tyro.conf.OmitArgPrefixes[type(experiment)]),
        ("results", Annotated[Path, results], field(default=Path("results"))),
    ]
    own = {f.name for f in fields(experiment)}
    if "figures" not in own:
        kind = Annotated[Literal["svg", "pdf", "png", "html"] | None, pictures]
        options_of.append(("figures", kind, field(default=None)))
    if "plan" not in own:
        only = tyro.conf.arg(help="Only prints how long each part would take.")
        options_of.append(("plan", Annotated[bool, only], field(default=False)))
    options_of += tracking_options(own)
    if "name" not in own:
        options_of.append(("name", Annotated[str, called], field(default=name)))
    Options = make_dataclass("Options", options_of, frozen=True)
    options = tyro.cli(
        Options,
        default=Options(experiment),
        args=words,
        prog=f"steerlens run {name}",
        description=type(experiment).__doc__,
    )
    chosen = require_name(getattr(options, "name", name))
    asked = None if "figures" in own else options.figures
    if asked is not None:
        require_drawing(asked)  # before any work
    require_tracking(options)
    only_planned = "plan" not in own and options.plan
    with _plain_warnings(DataWarning):
        # A run that was begun would take less, and one that is finished nothing.
        begun = options.experiment.run_folder(options.results, chosen).exists()
        foretold = only_planned or (watched() and not begun)
        model = options.experiment.load_model() if foretold else None
        forecast = None if model is None else options.experiment.forecast(model)
        if only_planned:
            print(forecast or f"{type(experiment).__name__} does not say how long it takes.")
            return 0
        if forecast is not None:
            print(f"steerlens: {forecast.line()}", file=sys.stderr)
        run = options.experiment.run(options.results, name=chosen, model=model)
    written = [] if asked is None else run.save_figures(format=asked)
    print(run.summary())
    if written:
        print(f"  {'figures':15s} {len(written)} in {written[0].parent}")
    track([run], options)
    if path is not None and not written:
        values = [getattr(options.experiment, f.name) for f in fields(options.experiment)]
        note(path, words, run.folder, run.summary(), values)
    return 0


def _run(words: list[str]) -> int:
    if not words or words[0].startswith("-"):
        return _refused(f"run: name the file of an experiment\n\n{USAGE.rstrip()}")
    path, rest = expanded(words[0]), words[1:]
    if found := finished_before(path, rest, _results_in(rest)):
        folder, printed = found
        print(f"steerlens: already finished in {folder}", file=sys.stderr)
        print(printed)
        return 0
    from steerlens.experiment import load_experiment

    if (asked := asked_of(rest)) is not None:
        return _run_grid(load_experiment(path), path, asked, rest)
    return run_experiment(load_experiment(path), path.stem, rest, path)


def _run_grid(experiment: Experiment, path: Path, asked: Asked, words: list[str]) -> int:
    """Runs a grid and prints it; 1 where a run failed."""
    from steerlens.experiment import Run

    made, options = run_asked_grid(
        experiment, asked, path.stem, called=f"steerlens run {path.stem}"
    )
    printed = made.summary()
    print(printed)
    for run in made.failed:
        if run.fault:
            print(f"\n{run}\n{run.fault}", file=sys.stderr)
    done = [run.folder for run in made.runs if not run.error]
    track((Run.load(folder, type(experiment).results) for folder in done), options)
    if made.failed:
        return FAILED
    # What a grid is made of: the files that its fields name, and those of every run.
    folders = [run.folder for run in made.runs]
    shared = named_in(options.experiment)
    varied = [value for values in made.fields.values() for value in values]
    note(path, words, made.folder, printed, [*shared, *varied, *folders])
    return 0


def _results_in(words: list[str]) -> Path:
    """The folder of runs that the words of a command name."""
    for k, word in enumerate(words):
        if word == "--results" and k + 1 < len(words):
            return expanded(words[k + 1])
        if word.startswith("--results="):
            return expanded(word.removeprefix("--results="))
    return Path("results")


def _show(words: list[str]) -> int:
    from steerlens.experiment.run import Run

    if len(words) != 1:
        raise ValueError("show takes one folder; `steerlens list` names them.")
    print(Run.load(words[0]).summary())
    return 0


def _list(words: list[str]) -> int:
    root = expanded(words[0] if words else "results")
    if not root.is_dir():
        here = "" if words else " here, so no run was made here yet"
        raise ValueError(f"There is no folder {root}{here}. Give the folder that holds the runs.")
    found = runs_in(root)
    if not found:
        hint = " It is a run itself: steerlens show." if (root / MANIFEST).exists() else ""
        print(f"{root} holds no runs.{hint}", file=sys.stderr)
        return 0
    print("\n".join(table(map(Listed.of, found))))
    return 0


def _compare(words: list[str]) -> int:
    from steerlens.experiment import Run, compare_runs

    if len(words) < 2:
        raise ValueError("compare takes two folders or more; `steerlens list` names them.")
    print(compare_runs([Run.load(word) for word in words]))
    return 0


def _doctor(words: list[str]) -> int:
    from steerlens.experiment.doctor import diagnose

    if words:
        raise ValueError("doctor takes no arguments.")
    found = diagnose()
    print(found)
    return 0 if found.reproduces else 1


def _refused(why: str) -> int:
    print(f"steerlens: {why}", file=sys.stderr)
    return ERROR


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends what is running as Ctrl-C does, by an exception."""

    def ended(number: int, frame: object) -> None:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, ended)
    except ValueError:  # not in the main thread, where no signal arrives
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _plain_warnings(kind: type[Warning]) -> Iterator[None]:
    """Warnings of one kind as one line each, without the line of code that gave them."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", kind)
        other = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *more: Any) -> None:
            if issubclass(category, kind):
                print(f"steerlens: warning: {message}", file=sys.stderr)
            else:
                other(message, category, *more)

        warnings.showwarning = show
        yield
