"""What a finished run came to, in a few words: read without the code that made it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlens.store.documents import read_document, write_document
from steerlens.store.files import DamagedFile
from steerlens.store.run_folder import is_finished

FILE = "headline.json"
MANIFEST = "manifest.json"


def write_headline(folder: Path, headline: Mapping[str, str]) -> Path:
    """Writes the headline of a run into its folder."""
    return write_document(folder / FILE, {"headline": dict(headline)})


def read_headline(folder: Path) -> dict[str, str]:
    """The headline of a finished run; {} where there is none, as in runs of an earlier version."""
    try:
        found: Any = read_document(folder / FILE)["headline"]
    except FileNotFoundError:
        return {}
    return {str(name): str(words) for name, words in found.items()}


@dataclass(frozen=True)
class Listed:
    """One run as a list shows it."""

    folder: Path
    state: str
    """"finished", "unfinished" or "broken"."""
    model: str = ""
    contrast: str = ""
    started: str = ""
    """When it was started, in UTC."""
    cell: str = ""
    gain: str = ""
    cost: str = ""

    @classmethod
    def of(cls, folder: Path) -> Listed:
        """What a folder with a manifest says of itself; a damaged one is listed as broken."""
        try:
            manifest = read_document(folder / MANIFEST)
            fields: Any = manifest["fields"]
            model, contrast = str(fields.get("model", "")), str(fields.get("contrast", ""))
            started = str(manifest.get("started", ""))[:16].replace("T", " ")
            found: Any = {}
            if finished := is_finished(folder):
                found = read_headline(folder)
            words = {name: str(found.get(name, "")) for name in ("cell", "gain", "cost")}
        except (DamagedFile, OSError, KeyError, TypeError, AttributeError):
            return cls(folder, "broken")
        state = "finished" if finished else "unfinished"
        return cls(folder, state, model, contrast, started, **words)


def runs_in(root: Path) -> list[Path]:
    """The folders of runs directly in a folder, by name."""
    return sorted(path.parent for path in root.glob(f"*/{MANIFEST}"))


def table(rows: Iterable[Listed]) -> list[str]:
    """Runs as lines of aligned columns, the latest last; columns without any entry are left out."""
    listed = sorted(rows, key=lambda row: (row.started, row.folder.name))
    names = ("state", "started", "model", "contrast", "cell", "gain", "cost", "folder")
    columns = [[name, *(str(getattr(row, name)) for row in listed)] for name in names]
    kept = [column for column in columns if any(column[1:])]
    wide = [max(map(len, column)) for column in kept]
    lines = []
    for k in range(len(listed) + 1):
        parts = (f"{column[k]:<{width}}" for column, width in zip(kept, wide, strict=True))
        lines.append("  ".join(parts).rstrip())
    return lines
