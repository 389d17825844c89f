"""What came of a grid: a table over its runs, figures, a summary, and files in a folder of its own."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerlens.experiment import Run
from steerlens.grid import grid_views
from steerlens.grid.grid_cells import in_short
from steerlens.results import ResultError
from steerlens.store.documents import read_document
from steerlens.store.files import expanded
from steerlens.store.run_folder import verify

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

FORMAT = "steerlens.grid/1"
FILE, TABLE, PAGE, SUMMARY = "grid.json", "grid.csv", "grid.html", "summary.txt"


@dataclass(frozen=True)
class GridRun:
    """One run of a grid, and what it came to."""

    values: Mapping[str, Any]
    """By field of the grid: its value, as JSON holds it."""
    folder: Path
    numbers: Mapping[str, float]
    """What its results say in numbers (`Result.headline_numbers`); {} where it failed."""
    headline: Mapping[str, str]
    """The same in words."""
    error: str = ""
    """Why it failed; "" where it did not."""
    fault: str = ""
    """The traceback, where it failed for a reason that steerlens did not foresee. Not stored."""
    seconds: float = math.nan
    """How long it took just now; NaN if it was finished before. Not stored."""

    def load(self) -> Run:
        """The run itself.

        Raises:
            ResultError: If it is not finished, or damaged.
        """
        return Run.load(self.folder)

    def __str__(self) -> str:
        return " ".join(f"{name}={in_short(value)}" for name, value in self.values.items())


@dataclass(frozen=True, repr=False)
class GridRuns:
    """The runs of a grid, in the order of its values.

    The folder of the grid holds a table (`grid.csv`), a page (`grid.html`) and this (`grid.json`);
    each run has its own folder beside it, as if it had been run alone.
    """

    folder: Path
    runs: tuple[GridRun, ...]
    shared: Mapping[str, Any]
    """The fields that all runs share, as JSON holds them."""
    warnings: tuple[str, ...] = ()
    """What runs warned of, each once with how many did."""

    @classmethod
    def load(cls, folder: Path | str) -> GridRuns:
        """Reads a finished grid.

        Raises:
            ResultError: If the folder holds none, or its files are damaged.
        """
        folder = expanded(folder)
        if not (folder / FILE).exists():
            raise ResultError(f"{folder} holds no {FILE}: it is not the folder of a grid.")
        if wrong := verify(folder):
            raise ResultError(f"{' '.join(wrong)} Run the same grid again: it makes them anew.")
        stated: Any = read_document(folder / FILE)
        if stated.get("format") != FORMAT:
            raise ResultError(f"{folder / FILE} is of another format than {FORMAT}.")
        runs = tuple(
            GridRun(
                one["values"],
                folder.parent / one["folder"],
                {k: math.nan if v is None else v for k, v in one["numbers"].items()},
                one["headline"],
                one["error"],
            )
            for one in stated["runs"]
        )
        return cls(folder, runs, stated["shared"], tuple(stated["warnings"]))

    def stated(self) -> dict[str, Any]:
        """What `load` reads."""
        return {
            "format": FORMAT,
            "shared": dict(self.shared),
            "runs": [
                {
                    "values": dict(run.values),
                    "folder": run.folder.name,
                    "numbers": {k: None if v != v else v for k, v in run.numbers.items()},
                    "headline": dict(run.headline),
                    "error": run.error,
                }
                for run in self.runs
            ],
            "warnings": list(self.warnings),
        }

    @property
    def fields(self) -> Mapping[str, list[Any]]:
        """The fields that differ, with their values in order."""
        out: dict[str, list[Any]] = {}
        for run in self.runs:
            for name, value in run.values.items():
                if value not in out.setdefault(name, []):
                    out[name].append(value)
        return out

    @property
    def failed(self) -> tuple[GridRun, ...]:
        """The runs that did not finish."""
        return tuple(run for run in self.runs if run.error)

    @property
    def page(self) -> Path:
        """The page of the grid."""
        return self.folder / PAGE

    def to_frame(self) -> pandas.DataFrame:
        """A row for each run: the fields that differ, the numbers, the state, the folder."""
        import pandas

        rows = [
            {
                **{name: _tabled(value) for name, value in run.values.items()},
                "state": "failed" if run.error else "finished",
                **run.numbers,
                "folder": run.folder.name,
                "error": run.error,
            }
            for run in self.runs
        ]
        last = ["folder", "error"]
        first = dict.fromkeys(name for row in rows for name in row if name not in last)
        return pandas.DataFrame(rows, columns=pandas.Index([*first, *last]))

    def plot(
        self, quantity: str | None = None, *, rows: str | None = None, columns: str | None = None
    ) -> go.Figure:
        """A heatmap of a number over two fields; with one field, a point with its interval each.

        Where the grid has more fields, a cell is the mean over their values, and its hover lists
        the runs. `plot_runs` shows every run with its interval.

        Args:
            quantity: A column of the table that holds numbers; by default the gain, or the AUROC.
            rows: The field that goes down; by default the last but one with several values.
            columns: The field that goes across; by default the last.

        Raises:
            ValueError: If there is no such quantity or field, or no run finished.
        """
        return grid_views.heatmap(self.runs, self.fields, quantity, rows, columns)

    def plot_runs(self, quantity: str | None = None) -> go.Figure:
        """A point with its interval for every finished run.

        Args:
            quantity: A column of the table that holds numbers; by default the gain, or the AUROC.

        Raises:
            ValueError: If there is no such quantity, or no run finished.
        """
        return grid_views.dots(self.runs, self.fields, quantity)

    def summary(self) -> str:
        """A line for each run, what failed, and where the page is."""
        return "\n".join([*self.lines(), *self._problems(), f"  {'page':15s} {self.page}"])

    def lines(self) -> list[str]:
        """The runs as lines of aligned columns, what they came to in words."""
        said = [_said(run) for run in self.runs]
        names = list(dict.fromkeys(name for words in said for name in words))
        columns = [
            (name, *(in_short(run.values[name]) for run in self.runs)) for name in self.fields
        ]
        columns += [(name, *(words.get(name, "-") for words in said)) for name in names]
        wide = [max(map(len, column)) for column in columns]
        return [
            "  ".join(f"{c[k]:<{w}}" for c, w in zip(columns, wide, strict=True)).rstrip()
            for k in range(len(self.runs) + 1)
        ]

    def _problems(self) -> Sequence[str]:
        failed = self.failed
        lines = [f"  failed          {run}: {run.error}" for run in failed]
        if failed:
            lines.append("  Give the same command again to go on with those that failed.")
        return [*lines, *(f"  warning         {text}" for text in self.warnings)]

    def __repr__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.summary())}</pre>"


def _said(run: GridRun) -> dict[str, str]:
    """What a run came to, in words, by the name of a column."""
    if run.error:
        return {"state": "failed"}
    if run.headline:
        return {"state": "finished", **run.headline}
    numbers = {k: v for k, v in run.numbers.items() if not k.endswith(("_low", "_high"))}
    return {"state": "finished", **{k: grid_views.with_interval(run, k) for k in numbers}}


def _tabled(value: Any) -> Any:
    """A value as one entry of a table."""
    return value if isinstance(value, str | int | float | bool | None) else in_short(value)
