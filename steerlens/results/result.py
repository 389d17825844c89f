"""The base of every result: it saves, loads and tabulates itself from its annotated fields.

A result is a frozen dataclass whose arrays carry their axes in their annotations. Storage, the
tidy table, the CSV file and the labelled arrays follow from these.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_args

from torch import Tensor

from steerlens import plots
from steerlens.report.section import Figure, Printed, Section
from steerlens.results import frames
from steerlens.results.cell import Cell
from steerlens.results.encoding import axes_of, decode, encode, hints_of, plain
from steerlens.results.frames import Column
from steerlens.sites import Site
from steerlens.store.documents import read_document, write_document
from steerlens.store.files import expanded, write_text
from steerlens.store.tensors import DamagedFile, read_with_checksum, write_tensors

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go
    import xarray


FORMAT = "steerlens.result/2"

R = TypeVar("R", bound="Result")


class ResultError(ValueError):
    """A result that is missing, damaged, or of something else."""


class DamagedResult(ResultError, DamagedFile):
    """A result whose files are not those that were written."""


class Result:
    """What an analysis measured, with views of it.

    A subclass is a frozen dataclass with a `kind` and a field `made_by`. It states its arrays as
    jaxtyping annotations, and may say more: `columns` of its table, `plot`, `summary`, and its
    `section` of the report page.
    """

    kind: ClassVar[str] = "result"
    """The name of its files: ``<kind>.safetensors``, ``<kind>.json`` and ``<kind>.csv``."""
    made_by: dict[str, Any]
    """How the numbers came about: model, data, settings."""

    # Files

    def save(self, folder: Path | str) -> Path:
        """Writes the arrays, the JSON file that describes them, and a tidy CSV into a folder.

        Raises:
            TypeError: If a field cannot be stored, or not as what it is annotated as. Nothing is
                written then.
            StorageError: If a file cannot be written.
        """
        folder = expanded(folder)
        tensors: dict[str, Tensor] = {}
        stated = encode(self, type(self), "", tensors)
        _require_readable(type(self), stated, tensors)
        table = self.to_frame().to_csv(index=False) if self.columns() else None
        digest = write_tensors(
            folder / f"{self.kind}.safetensors", tensors, states={"kind": self.kind}
        )
        write_document(
            folder / f"{self.kind}.json",
            {"format": FORMAT, "kind": self.kind, "tensors": digest, "fields": stated},
        )
        if table is not None:
            write_text(folder / f"{self.kind}.csv", table)
        return folder

    @classmethod
    def load(cls: type[R], folder: Path | str) -> R:
        """Reads what `save` wrote.

        Raises:
            DamagedResult: If a file is damaged, or the files are of other results.
            ResultError: If the folder holds no such result.
            StorageError: If a file cannot be read.
        """
        folder = expanded(folder)
        try:
            described = read_document(folder / f"{cls.kind}.json")
            tensors, digest = read_with_checksum(
                folder / f"{cls.kind}.safetensors", {"kind": cls.kind}
            )
            if described["format"] != FORMAT or described["kind"] != cls.kind:
                raise ValueError(
                    f"it states format {described['format']!r} and kind {described['kind']!r}"
                )
            if described["tensors"] != digest:
                raise ValueError("its two files are of different results")
            return decode(described["fields"], cls, "", tensors)
        except FileNotFoundError as error:
            raise ResultError(
                f"{folder} holds no finished {cls.kind} ({error.filename} is missing). "
                "Run the experiment again: it goes on where it stopped."
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedResult(
                f"The {cls.kind} in {folder} cannot be read ({error}). Delete {cls.kind}.json and "
                f"{cls.kind}.safetensors there and run the experiment again."
            ) from error

    # Tables

    def columns(self) -> Sequence[Column]:
        """The columns of the table.

        By default the array with the most axes, and the arrays that have no other axes than it.
        """
        arrays = self.arrays()
        if not arrays:
            return arrays
        widest = max(arrays, key=lambda column: len(column.axes))  # the first of these
        sizes = dict(zip(widest.axes, widest.values.shape, strict=True))
        return [
            column
            for column in arrays
            if all(
                sizes.get(axis) == size
                for axis, size in zip(column.axes, column.values.shape, strict=True)
            )
        ]

    def arrays(self) -> list[Column]:
        """Every array of the result with the names of its axes, nested ones by their path."""
        return list(_arrays(self, ""))

    def coordinates(self, axis: str, size: int) -> Mapping[str, Sequence[Any]]:
        """The names of the places along an axis.

        An axis "multiplier" is named by the attribute `multipliers`, and so on; sites become a
        column for the layer and one for the stream; rows are named, with their sites.
        """
        places: Any = getattr(self, f"{axis}s", None)
        if isinstance(places, Tensor):
            places = tuple(float(f"{x:.6g}") for x in places.tolist())  # not 0.10000000149
        if places is None or len(places) != size:
            return {axis: range(size)}
        if axis == "site" or all(isinstance(place, Site) for place in places):
            return _of_sites(tuple(places))
        sites = getattr(self, "sites", ())
        if axis == "row" and len(sites) == size:
            return {axis: list(places), **_of_sites(sites)}
        return {axis: list(places)}

    def to_frame(self) -> pandas.DataFrame:
        """The table, tidy: a row for every combination of the axes."""
        return frames.to_frame(self.columns(), self.coordinates)

    def to_xarray(self) -> xarray.Dataset:
        """Every array with its axes and coordinates, and the columns of the table."""
        arrays = {column.name: column for column in self.arrays()}
        arrays |= {c.name: c for c in self.columns() if c.name not in arrays}
        facts = {name: str(value) for name, value in self.made_by.items()}
        return frames.to_xarray(list(arrays.values()), self.coordinates, facts)

    # Words and pictures

    def summary(self) -> str:
        """What was found, in a few lines. By default its type and the lengths of its axes."""
        sizes: dict[str, int] = {}
        for column in self.columns() if dataclasses.is_dataclass(self) else ():
            sizes.update(zip(column.axes, column.values.shape, strict=True))
        shape = ", ".join(f"{axis} {size}" for axis, size in sizes.items())
        return f"{type(self).__name__} ({shape})" if shape else type(self).__name__

    def run_summary(self, beside: Mapping[str, Result]) -> str:
        """What the summary of a run says of it: by default its own summary.

        Args:
            beside: The other results of the run, by kind. What a result says may depend on them,
                e.g. on the cell that a map recommends. "" for nothing.
        """
        return self.summary()

    @property
    def chosen(self) -> Cell | None:
        """The cell that this result recommends; None where it recommends none.

        Sections of other results of the same run describe what that cell does.
        """
        return None

    @property
    def headline(self) -> Mapping[str, str]:
        """What a list of runs says of this result: any of "cell", "gain" and "cost", in words."""
        return {} if self.chosen is None else {"cell": str(self.chosen)}

    @property
    def headline_numbers(self) -> Mapping[str, float]:
        """What a table over many runs says of this result, by the name of a column.

        An interval of `gain` is `gain_low` and `gain_high`. `above_null` is 0 where `gain` is no
        more than chance allows.
        """
        return {}

    def plot(self) -> go.Figure:
        """The main figure."""
        raise NotImplementedError(f"{type(self).__name__} has no figure.")

    def save_plot(self, path: Path | str, *, theme: plots.Theme = "page", columns: int = 2) -> Path:
        """Writes the main figure as SVG, PDF, PNG or HTML, by the ending of the path.

        Args:
            theme: "page", or "paper": without the title, in fonts of 8 pt, at its printed size.
            columns: With "paper": 1 (85 mm wide) or 2 (175 mm).

        Raises:
            ValueError: For another ending, theme or width.
            PictureError: For a picture, if the extra steerlens[figures] is not installed, or there
                is no Chrome or Chromium.
        """
        return plots.write_figure(self.plot(), path, theme=theme, columns=columns)

    def section(self, beside: Mapping[str, Result]) -> Section | None:
        """Its section of the report page: by default its summary and its figure. None for none.

        Args:
            beside: The other results of the run, by kind.
        """
        summary = Printed(self.summary())
        drawn = type(self).plot is not Result.plot
        return Section(type(self).__name__, (summary, Figure(self.plot)) if drawn else (summary,))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        if type(self).plot is Result.plot:
            return {"text/plain": repr(self)}
        return self.plot()._repr_mimebundle_(include, exclude)

    def __repr__(self) -> str:
        return self.summary()


def chosen_cell(results: Mapping[str, Result]) -> Cell | None:
    """The cell that one of these results recommends; None where none does."""
    return next((r.chosen for r in results.values() if r.chosen is not None), None)


def headline_of(results: Iterable[Result]) -> dict[str, str]:
    """What a list of runs says of a run: of each word the first result that has it."""
    found: dict[str, str] = {}
    for result in results:
        found = {**result.headline, **found}
    return found


def headline_numbers_of(results: Iterable[Result]) -> dict[str, float]:
    """What a table over many runs says of a run: of each column the first result that has it."""
    found: dict[str, float] = {}
    for result in results:
        found = {**found, **{k: v for k, v in result.headline_numbers.items() if k not in found}}
    return found


def _require_readable(cls: type, stated: Any, tensors: Mapping[str, Tensor]) -> None:
    """Raises TypeError if `load` would refuse what is going to be written."""
    try:
        decode(json.loads(json.dumps(stated)), cls, "", tensors)
    except (ValueError, KeyError, TypeError) as error:
        raise TypeError(
            f"{cls.__name__} cannot be saved: {error}. Its fields must be what their annotations "
            "state."
        ) from error


def _of_sites(sites: Sequence[Site | None]) -> dict[str, list[Any]]:
    return {
        "layer": [None if site is None else site.layer for site in sites],
        "stream": [None if site is None else site.stream for site in sites],
    }


def _arrays(value: Any, path: str) -> Any:
    for name, hint in hints_of(type(value)).items():
        found, whole = getattr(value, name), f"{path}{name}"
        if found is None:
            continue
        if (axes := axes_of(hint)) is not None:
            if axes != (name.removesuffix("s"),):  # `multipliers` names the axis "multiplier"
                yield Column(whole, axes, found)
        elif dataclasses.is_dataclass(found):
            yield from _arrays(found, f"{whole}.")
        elif isinstance(found, Mapping):
            inner = axes_of((get_args(plain(hint)) or (None, None))[1])
            if inner is not None:
                yield from (Column(f"{whole}.{key}", inner, x) for key, x in found.items())
