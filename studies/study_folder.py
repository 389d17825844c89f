"""What the studies of docs/trust.md share: a folder that is theirs, and a file of numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steerlens.store.files import write_text


def claim_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Writes a study's settings into its folder.

    Raises:
        ValueError: If there are others.
    """
    path, mine = folder / "settings.json", json.dumps(settings)
    if path.exists() and path.read_text("utf-8") != mine:
        raise ValueError(
            f"{str(folder)!r} holds a study with the settings {path.read_text('utf-8')}, which "
            f"would be mixed with one with {mine}. Choose a new folder with --output."
        )
    write_text(path, mine)


def keep(path: Path, name: str, found: dict[str, Any]) -> None:
    """Puts one study's numbers into the file that holds both."""
    held = json.loads(path.read_text("utf-8")) if path.exists() else {}
    write_text(path, json.dumps(held | {name: found}, indent=1) + "\n")
