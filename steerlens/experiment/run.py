"""A finished run: one folder with its manifest, its results and its report page."""

from __future__ import annotations

import html
import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerlens import plots
from steerlens.experiment.manifest import read_manifest
from steerlens.report.section import Block, Figure, Folded, Section
from steerlens.results import Result, ResultError, labelled
from steerlens.store.files import expanded, read_bytes
from steerlens.store.run_folder import finished_files, is_finished, verify

if TYPE_CHECKING:
    import plotly.graph_objects as go

PAGE, SUMMARY = "report.html", "summary.txt"


@dataclass(frozen=True, repr=False)
class Run:
    """A finished run: where it is, and what came out.

    A result is an attribute by its kind: `run.map`, `run.probe`. It is None where the experiment
    could have measured it and did not, e.g. because no cell was chosen.
    """

    folder: Path
    manifest: Mapping[str, Any]
    results: Mapping[str, Result]
    """What was measured, by kind, in the order of the page."""
    text: str
    """What the results say of themselves, in a few lines each."""

    @classmethod
    def load(cls, folder: Path | str, known: Iterable[type[Result]] = ()) -> Run:
        """Reads a finished run, and checks every file of it.

        Results whose class is part of steerlens are read by it. No other code is imported: give
        the classes of other results as `known`, or only their text and their page are there.

        Raises:
            ResultError: If the folder is not a run, or the run in it is not finished or damaged.
        """
        folder = expanded(folder)
        manifest = read_manifest(folder)
        if not is_finished(folder):
            raise ResultError(
                f"The run in {folder} is not finished. Run the experiment again: it goes on where "
                "it stopped."
            )
        if wrong := verify(folder):
            raise ResultError(
                f"{' '.join(wrong)} Delete such a file and run the experiment again: it makes it "
                "anew."
            )
        classes = {one.kind: one for one in known}
        there = finished_files(folder)
        found = {}
        for kind, place in manifest["results"].items():
            of = classes.get(kind) or _result_class(place)
            if f"{kind}.json" in there and of is not None:
                found[kind] = of.load(folder)
        text = read_bytes(folder / SUMMARY).decode("utf-8").rstrip("\n")
        return cls(folder, manifest, found, text)

    @property
    def page(self) -> Path:
        """The report page."""
        return self.folder / PAGE

    def save_figures(
        self,
        folder: Path | str | None = None,
        *,
        format: str = "svg",
        theme: plots.Theme = "paper",
        columns: int = 2,
    ) -> list[Path]:
        """Writes every figure of the page as a file of its own, named by its result.

        Args:
            folder: Where to; by default `figures` in the run's folder.
            format: "svg", "pdf", "png" or "html".
            theme: "paper" (see `steerlens.plots.paper`) or "page".
            columns: With "paper": 1 (85 mm wide) or 2 (175 mm).

        Raises:
            PictureError: For a picture, if the extra steerlens[figures] is not installed, or there
                is no Chrome or Chromium.
            ValueError: For another format, theme or width.
        """
        target = self.folder / "figures" if folder is None else expanded(folder)
        written = []
        for kind, result in self.results.items():
            beside = {name: other for name, other in self.results.items() if name != kind}
            for k, draw in enumerate(_figures(result.section(beside)), 1):
                path = target / f"{kind}-{k}.{format}"
                written.append(plots.write_figure(draw(), path, theme=theme, columns=columns))
        return written

    def summary(self) -> str:
        """What was found, in a few lines."""
        return f"{self.text}\n{labelled('report', str(self.page))}"

    def __getattr__(self, kind: str) -> Any:
        if kind.startswith("_") or kind in ("results", "manifest"):  # not set yet
            raise AttributeError(kind)
        if kind in self.results or kind in self.manifest["results"]:
            return self.results.get(kind)
        raise AttributeError(
            f"This run has no {kind!r}. Its results are {', '.join(self.results) or 'not known'}."
        )

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.manifest["results"]]

    def __repr__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.summary())}</pre>"


def _figures(section: Section | None) -> list[Callable[[], go.Figure]]:
    """What draws the figures of a section and its parts, in their order on the page."""

    def of(blocks: Iterable[Block]) -> list[Callable[[], go.Figure]]:
        found: list[Callable[[], go.Figure]] = []
        for block in blocks:
            if isinstance(block, Figure):
                found.append(block.draw)
            elif isinstance(block, Folded):
                found += of(block.blocks)
        return found

    if section is None:
        return []
    return of(section.blocks) + [draw for part in section.parts for draw in _figures(part)]


def load_results(folder: Path, classes: Mapping[str, type[Result]]) -> dict[str, Result]:
    """The results that a folder holds, in the order of the classes.

    Raises:
        ResultError: If one is damaged.
    """
    there = {kind: of for kind, of in classes.items() if (folder / f"{kind}.json").exists()}
    return {kind: of.load(folder) for kind, of in there.items()}


def text_of(results: Mapping[str, Result]) -> str:
    """What results say of themselves, one after the other."""
    texts = []
    for kind, result in results.items():
        beside = {name: other for name, other in results.items() if name != kind}
        texts.append(result.run_summary(beside))
    return "\n".join(text for text in texts if text)


def _result_class(place: str) -> type[Result] | None:
    """The class that a manifest names as "module:Name", if it is a result of steerlens."""
    module, _, name = place.rpartition(":")
    if not re.fullmatch(r"steerlens(\.\w+)+", module):
        return None
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    return found if isinstance(found, type) and issubclass(found, Result) else None
