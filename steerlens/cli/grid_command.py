"""`steerlens run FILE --grid FIELD=VALUE,VALUE …`: a grid of runs from the shell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from steerlens.cli.tracking_options import require_tracking, tracking_options

if TYPE_CHECKING:
    from steerlens.experiment import Experiment
    from steerlens.grid import GridRuns

GRID = "--grid"
OPENING, CLOSING = "([{", ")]}"


@dataclass(frozen=True)
class Asked:
    """What a command asks of a grid."""

    assignments: dict[str, list[str]]
    """By field: the values as they were written."""
    rest: list[str]
    """The other words of the command."""


def asked_of(words: Sequence[str]) -> Asked | None:
    """The grid of a command, or None where it asks for none.

    Raises:
        ValueError: If `--grid` is followed by something else than FIELD=VALUE,VALUE, or a field
            stands there twice.

    >>> asked_of(["--grid", "seed=0,1", "method=PCA(centred=True),LDA", "--n-fit", "8"]).assignments
    {'seed': ['0', '1'], 'method': ['PCA(centred=True)', 'LDA']}
    """
    found: dict[str, list[str]] = {}
    rest: list[str] = []
    inside = seen = False
    for word in words:
        if word == GRID or word.startswith(f"{GRID}="):
            inside = seen = True
            word = word.removeprefix(GRID).removeprefix("=")
            if not word:
                continue
        elif word.startswith("-"):
            inside = False
        if not inside:
            rest.append(word)
            continue
        name, equals, values = word.partition("=")
        name = name.replace("-", "_")
        if not equals or not name.isidentifier():
            raise ValueError(f"--grid {word!r}: write FIELD=VALUE,VALUE, e.g. seed=0,1,2.")
        if name in found:
            raise ValueError(f"--grid names {name} twice. Write all its values in one place.")
        found[name] = separated(values)
    if seen and not found:
        raise ValueError("--grid names no field. Write e.g. --grid seed=0,1,2 method=DiffMean,PCA.")
    return Asked(found, rest) if seen else None


def separated(text: str) -> list[str]:
    """The values of a list with commas; those inside brackets or quotes separate nothing.

    >>> separated("Logistic(c=0.1, fit=True),PCA"), separated("0 1 2,3 4")
    (['Logistic(c=0.1, fit=True)', 'PCA'], ['0 1 2', '3 4'])
    """
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in OPENING:
            depth += 1
        elif letter in CLOSING:
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def run_asked_grid(
    experiment: Experiment, asked: Asked, name: str, *, called: str
) -> tuple[GridRuns, Any]:
    """Parses the words of a grid and runs it; what came out, and the options.

    Args:
        name: How the folders of the runs begin, unless the command says otherwise.
        called: The command, for messages.
    """
    import tyro

    from steerlens.grid import Local, OnRay, run_grid
    from steerlens.grid.grid_cells import require_fields

    require_fields(experiment, asked.assignments)
    options = (word.partition("=")[0] for word in asked.rest if word.startswith("--"))
    given = {option.lstrip("-").replace("-", "_") for option in options}
    if both := sorted(given & set(asked.assignments)):
        raise ValueError(
            f"{both[0]} stands in --grid and as --{both[0].replace('_', '-')}. Give it once."
        )
    arg = tyro.conf.arg
    Options = make_dataclass(
        "Options",
        [
            ("experiment", tyro.conf.OmitArgPrefixes[type(experiment)]),
            ("results", Annotated[Path, arg(help="Folder that holds the runs.")],
             field(default=Path("results"))),
            ("name", Annotated[str, arg(help="What the folders of the runs are called, before "
             "their digests.")], field(default=name)),
            ("on", Annotated[Literal["local", "ray"], arg(help="Where workers are: processes of "
             "this machine, or actors of Ray.")], field(default="local")),
            ("workers", Annotated[int, arg(help="Runs that are made at the same time.")],
             field(default=1)),
            ("threads", Annotated[int | None, arg(help="Of torch in each worker, and its "
             "processors on Ray; by default the cores divided by the workers.")],
             field(default=None)),
            ("limit", Annotated[float | None, arg(help="Seconds that a run may take.")],
             field(default=None)),
            *tracking_options(),
        ],
        frozen=True,
    )  # fmt: skip
    options: Any = tyro.cli(
        Options, default=Options(experiment), args=asked.rest, prog=called,
        description=type(experiment).__doc__,
    )  # fmt: skip
    require_name(options.name)
    require_tracking(options)
    axes = {k: values_of(experiment, k, v, called) for k, v in asked.assignments.items()}
    engine = OnRay(cpus=options.threads) if options.on == "ray" else Local(options.threads)
    made = run_grid(
        options.experiment, axes, results=options.results, name=options.name, on=engine,
        workers=options.workers, limit=options.limit,
    )  # fmt: skip
    return made, options


def require_name(name: str) -> str:
    """Raises ValueError unless a text can begin the name of a folder."""
    if not name or Path(name).name != name or name[0] == ".":
        raise ValueError(
            f"--name {name!r} cannot begin the name of a folder. Use letters, digits, - and _."
        )
    return name


def values_of(experiment: Experiment, name: str, texts: Sequence[str], called: str) -> list[Any]:
    """Values of a field as the command line reads them: several words make one tuple.

    Ends the process with status 2 and the reason, as for any option, if one cannot be read.
    """
    import tyro

    hints = get_type_hints(type(experiment), include_extras=True)
    One = make_dataclass("One", [(name, hints[name], field(default=getattr(experiment, name)))])
    found = []
    for text in texts:
        words = [f"--{name.replace('_', '-')}", *text.split(" ")]
        read = tyro.cli(
            One, args=words, prog=f"{called} --grid {name}=…", config=(tyro.conf.FlagConversionOff,)
        )
        found.append(getattr(read, name))
    return found


def named_in(experiment: Experiment) -> list[Any]:
    """The values of an experiment's fields, some of which may name files."""
    return [getattr(experiment, f.name) for f in fields(experiment)]
