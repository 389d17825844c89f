"""Programs beside the package, as modules: those of benchmarks/ and studies/."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def script(folder: str, name: str) -> Any:
    """A file as a module; not by its bare name, which others may have.

    It finds the files beside it, as where it is run.
    """
    full = f"{folder}.{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, ROOT / folder / f"{name}.py")
        assert spec is not None and spec.loader is not None
        sys.modules[full] = found = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(ROOT / folder))
        try:
            spec.loader.exec_module(found)
        finally:
            sys.path.remove(str(ROOT / folder))
    return sys.modules[full]
