"""The manifest of a run: every input that decides its numbers, and where and when it was made.

It is the first file of a run, and the only one that holds times, versions or the machine.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from steerlens.experiment.experiment_data import ExperimentError
from steerlens.results import ResultError
from steerlens.store.documents import read_document, write_document
from steerlens.store.headline import MANIFEST as FILE
from steerlens.store.run_folder import is_empty
from steerlens.store.tensors import DamagedFile


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """The manifest of a run's folder.

    Raises:
        ResultError: If there is none, or it cannot be read.
    """
    path = Path(folder) / FILE
    try:
        manifest = read_document(path)
        if not isinstance(manifest["fields"]["experiment"], str):
            raise ValueError("it names no experiment")
    except FileNotFoundError:
        raise ResultError(
            f"{folder} is not a run: it has no {FILE}. `steerlens list` shows the runs."
        ) from None
    except (DamagedFile, ValueError, KeyError, TypeError) as error:
        raise ResultError(
            f"{path} cannot be read ({error}). Move the folder away and run again."
        ) from error
    return manifest


def require_same_inputs(folder: Path, inputs: dict[str, Any]) -> bool:
    """Whether a folder holds a run, which must then have the same inputs.

    Raises:
        ResultError: If it holds a run with other inputs, or files that are no run. Nothing is
            written in either case.
    """
    if (folder / FILE).exists():
        before = read_manifest(folder)
        for key, value in json.loads(json.dumps(inputs)).items():
            if differing := _differing(before.get(key), value):
                raise ResultError(
                    f"{folder} holds a run with other {key}: {differing}. "
                    "Its numbers are kept. Give the new run another name or results folder."
                )
        return True
    if not is_empty(folder):
        raise ResultError(
            f"{folder} holds files but no {FILE}, so it is not a run of steerlens. "
            "Nothing was written. Give the run another name or results folder."
        )
    return False


def write_manifest(
    folder: Path, inputs: dict[str, Any], more: dict[str, Any], sources: dict[str, str]
) -> None:
    """Writes the manifest of a new run.

    Args:
        inputs: What decides the numbers.
        more: What a reader needs besides.
        sources: The SHA-256 of files outside steerlens whose code runs.
    """
    own = {
        **more,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **_code(sources),
        "platform": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
    }
    if taken := sorted(own.keys() & inputs.keys()):
        raise ExperimentError(
            f"The inputs of the experiment state {taken[0]!r}, which is an entry of every manifest. "
            "Give it another name in Inputs.stated."
        )
    write_document(folder / FILE, {**inputs, **own})


def warn_of_other_code(folder: Path, sources: dict[str, str]) -> None:
    """Warns if an unfinished run was begun by other code: what it has computed is kept."""
    before, now = read_manifest(folder), _code(sources)
    if changed := _differing({name: before.get(name) for name in now}, now):
        warnings.warn(
            f"The unfinished run in {folder} was begun by other code: {changed}. What it has "
            "computed is kept; for numbers of one code, give it another results folder.",
            stacklevel=3,
        )


def digest_of(inputs: dict[str, Any]) -> str:
    """A hash of what decides the numbers."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("steerlens", "torch", "transformer-lens", "transformers", "scikit-learn", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _code(sources: dict[str, str]) -> dict[str, Any]:
    return {"versions": versions(), "commit": source_commit(), "sources": sources}


def source_commit() -> str | None:
    """The commit of the code that ran, where it runs from a checkout."""
    root = Path(__file__).parent
    try:
        asked = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        found = subprocess.run(asked, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def _differing(before: Any, now: Any, of: str = "") -> str:
    """Where two parts of a manifest differ, and how; "" where they do not."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return "" if before == now else f"{of or 'it'} was {before!r} and is {now!r}"
    names = list(dict.fromkeys([*before, *now]))
    each = [_differing(before.get(n), now.get(n), f"{of}.{n}".lstrip(".")) for n in names]
    return ", ".join(part for part in each if part)
