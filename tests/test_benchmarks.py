"""Every program of benchmarks/ can be imported, and what one of them times is still there."""

from __future__ import annotations

import importlib.util
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
PROGRAMS = sorted(path.name for path in FOLDER.glob("*.py"))


def loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks.{name[:-3]}", FOLDER / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    for path in FOLDER.glob("*.py"):  # those that it imports are gone afterwards
        monkeypatch.setitem(sys.modules, path.stem, sys.modules.get(path.stem))
        del sys.modules[path.stem]
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", PROGRAMS)
def test_imports(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert loaded(name, monkeypatch).__doc__


def test_parts_of_the_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = loaded("experiment.py", monkeypatch).PARTS
    assert len(parts) > 10
    for place in parts:
        module, _, path = place.partition(":")
        holder = import_module(module)
        for attribute in path.split("."):
            assert hasattr(holder, attribute), f"{place} is timed by benchmarks/experiment.py"
            holder = getattr(holder, attribute)
