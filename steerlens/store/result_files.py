"""How results are kept on disk: tensors beside a JSON file that says what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from steerlens.sites import Site
from steerlens.store.files import write_text
from steerlens.store.tensors import read_tensors, write_tensors


class ResultError(ValueError):
    """A results folder that is missing, broken, or of something else."""


def save(
    folder: Path,
    kind: str,
    tensors: dict[str, Tensor],
    sites: tuple[Site, ...],
    made_by: dict[str, Any],
    **extra: Any,
) -> Path:
    meta = {
        "kind": kind,
        "sites": [site.hook for site in sites],
        "made_by": made_by,
        "extra": extra,
    }
    write_tensors(folder / f"{kind}.safetensors", tensors)
    write_text(folder / f"{kind}.json", json.dumps(meta, indent=1, sort_keys=True))
    return folder


def load(folder: Path, kind: str) -> tuple[dict[str, Tensor], tuple[Site, ...], dict[str, Any]]:
    try:
        meta = json.loads((folder / f"{kind}.json").read_text(encoding="utf-8"))
        tensors = read_tensors(folder / f"{kind}.safetensors")
        made_by, extra = dict(meta["made_by"]), meta["extra"]
        sites = tuple(Site.from_hook(hook) for hook in meta["sites"])
    except FileNotFoundError as error:
        raise ResultError(
            f"{folder} holds no finished {kind} ({error.filename} is missing). "
            "Run the experiment again: it goes on where it stopped."
        ) from None
    except (ValueError, KeyError, TypeError) as error:  # not JSON, not ours, or damaged
        raise ResultError(
            f"The {kind} in {folder} is broken ({error}). Delete {kind}.json and "
            f"{kind}.safetensors there and run the experiment again."
        ) from error
    if extra:
        made_by["_extra"] = extra
    return tensors, sites, made_by
