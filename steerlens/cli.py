"""`steerlens run | show | list`: parses, calls, prints; decides nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

USAGE = """\
usage: steerlens run FILE [--results FOLDER] [--FIELD VALUE …]
       steerlens show FOLDER
       steerlens list [FOLDER]

run    Runs the `experiment` that FILE defines, with any of its fields overridden.
       `steerlens run FILE --help` lists the fields with their types and defaults.
       A run that was killed goes on where it was.
show   Prints what a finished run found.
list   Lists the runs in a folder (default: results).
"""


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status: 0, or 2 for a user's error."""
    words = sys.argv[1:] if arguments is None else arguments
    commands = {"run": _run, "show": _show, "list": _list}
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if words else 2
    if words[0] in ("show", "list") and set(words[1:]) & {"-h", "--help"}:
        print(USAGE, end="")
        return 0
    if words[0] not in commands:
        print(f"steerlens: there is no command {words[0]!r}\n\n{USAGE}", end="", file=sys.stderr)
        return 2
    try:
        return commands[words[0]](words[1:])
    except (ValueError, OSError) as error:
        # Everything that steerlens refuses is one of these; a fault of ours keeps its traceback.
        print(f"steerlens: {error}", file=sys.stderr)
        return 2


def _run(words: list[str]) -> int:
    if not words or words[0].startswith("-"):
        print("steerlens run: name the file of an experiment\n\n" + USAGE, end="", file=sys.stderr)
        return 2
    return run_file(Path(words[0]), words[1:])


def run_file(path: Path, words: list[str]) -> int:
    """Runs an experiment file with overrides; what `python FILE` calls, too."""
    experiment = _experiment(path)
    return run_experiment(experiment, path.stem, words)


def run_experiment(experiment, name: str, words: list[str]) -> int:
    """Applies typed overrides to an experiment, runs it, and prints its summary."""
    from dataclasses import field, make_dataclass

    import tyro

    results = tyro.conf.arg(help="Folder that holds the runs.")
    Options = make_dataclass(
        "Options",
        [
            ("experiment", tyro.conf.OmitArgPrefixes[type(experiment)]),
            ("results", Annotated[Path, results], field(default=Path("results"))),
        ],
        frozen=True,
    )
    options = tyro.cli(
        Options,
        default=Options(experiment),
        args=words,
        prog=f"steerlens run {name}",
        description=type(experiment).__doc__,
    )
    run = options.experiment.run(options.results, name=name)
    print(run.summary())
    return 0


def _experiment(path: Path):
    import runpy

    if not path.is_file():
        raise ValueError(f"{path} is not a file. Give a script that defines `experiment = …`.")
    found = runpy.run_path(str(path)).get("experiment")
    if found is None or not hasattr(found, "run"):
        raise ValueError(
            f"{path} defines no `experiment`. Add e.g. experiment = SteerabilityExperiment()."
        )
    return found


def _show(words: list[str]) -> int:
    from steerlens.experiment import Run

    if len(words) != 1:
        raise ValueError("show takes one folder; `steerlens list` names them.")
    print(Run.load(words[0]).summary())
    return 0


def _list(words: list[str]) -> int:
    root = Path(words[0] if words else "results")
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder. Give the folder that holds the runs.")
    from steerlens.experiment import is_finished, read_manifest
    from steerlens.store.result_files import ResultError

    found = sorted(path.parent for path in root.glob("*/manifest.json"))
    if not found:
        hint = " It is a run itself: steerlens show." if (root / "manifest.json").exists() else ""
        print(f"{root} holds no runs.{hint}", file=sys.stderr)
    for folder in found:
        try:
            state = "finished" if is_finished(folder, read_manifest(folder)) else "unfinished"
        except ResultError:
            state = "broken"  # and the other runs are listed all the same
        print(f"{state:<10}  {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
