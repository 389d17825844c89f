"""Finished units of work on disk, so that a stopped run goes on where it was.

An analysis cuts its work into units whose bounds depend on the work alone, never on the machine:

    cells = cells_or_none(cells, "gain", progress)
    with cells.bar(len(examples), "example") as bar:
        for k, chunk in enumerate(chunks):
            gains = cells.compute(k, lambda: {"gains": measure(chunk)})["gains"]
            bar.update(len(chunk))

Each unit is one file that states what it is; a file that states something else is refused. Equal
numbers give equal files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from steerlens.progress_bar import progress_bar
from steerlens.store.files import DamagedFile
from steerlens.store.tensors import read_tensors, write_tensors

Unit = dict[str, Tensor]
"""The numbers of one finished unit, by name."""


@dataclass(frozen=True)
class Cells:
    """Where an analysis keeps finished units of work, and whether it shows its progress.

    Without a folder nothing is kept and everything is computed.
    """

    folder: Path | None = None
    name: str = ""
    """What the units belong to, e.g. "gain" or "shifts/hotel". Stated in every file."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What else decides the numbers, e.g. the digest of the run. Stated in every file."""
    progress: bool = True

    def part(self, name: str, **facts: str) -> Cells:
        """The units of one part of the work, in a folder of their own.

        Args:
            facts: What else decides the numbers of this part.
        """
        return replace(
            self,
            folder=None if self.folder is None else self.folder / _safe(name),
            name=f"{self.name}/{name}".lstrip("/"),
            facts={**self.facts, **facts},
        )

    def load(self, unit: int | str) -> Unit | None:
        """The numbers of a unit that a former run finished, or None.

        Raises:
            StorageError: If its file cannot be read.
            DamagedFile: If its file is damaged, or states that it is another unit.
        """
        if self.folder is None:
            return None
        path = self._path(unit)
        try:
            return read_tensors(path, states=self._states(unit))
        except FileNotFoundError:
            return None
        except DamagedFile as error:
            raise DamagedFile(
                f"{error} Delete this file and run again; only its numbers are computed again."
            ) from error

    def save(self, unit: int | str, numbers: Unit) -> None:
        """Keeps the numbers of a finished unit.

        Raises:
            StorageError: If its file cannot be written.
        """
        if self.folder is not None:
            write_tensors(self._path(unit), numbers, states=self._states(unit))

    def compute(self, unit: int | str, make: Callable[[], Unit]) -> Unit:
        """The numbers of a unit, on the CPU: those of a former run, or new ones, which are kept."""
        numbers = self.load(unit)
        if numbers is None:
            numbers = {name: tensor.detach().cpu() for name, tensor in make().items()}
            self.save(unit, numbers)
        return numbers

    def bar(self, total: int, unit: str) -> Any:
        """A progress bar over the whole of this part.

        Args:
            unit: What is counted, e.g. "example".
        """
        label = self.name.rpartition("/")[2] or unit
        return progress_bar(self.progress, total=total, desc=label, unit=unit)

    def _states(self, unit: int | str) -> dict[str, str]:
        return {**self.facts, "name": self.name, "unit": str(unit)}

    def _path(self, unit: int | str) -> Path:
        assert self.folder is not None
        file = f"{unit:06d}" if isinstance(unit, int) else _safe(unit)
        return self.folder / f"{file}.safetensors"


def cells_or_none(cells: Cells | None, name: str, progress: bool) -> Cells:
    """The cells that a public function was given, or such as keep nothing."""
    if cells is None:
        return Cells(name=name, progress=progress)
    return replace(cells, progress=cells.progress and progress)


def _safe(name: str) -> str:
    """The name as every system can have it for a file; another name gets a hash.

    >>> _safe("gain"), _safe("shifts/hotel")
    ('gain', 'shifts-hotel-fcd1bd89')
    """
    if re.fullmatch(r"[a-z0-9_-][a-z0-9_.-]{0,60}", name):
        return name
    # Lower case, since some systems take "Hotel" and "hotel" for one file.
    plain = re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")[:40]
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain}-{digest}".lstrip("-")
